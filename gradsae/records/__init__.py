"""Records: what was measured on what, and where it comes from."""
