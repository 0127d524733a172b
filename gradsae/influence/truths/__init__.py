"""Truths: what "the influence of a latent" may mean, one per file."""
