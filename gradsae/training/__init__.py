"""Training SAEs and keeping them."""
