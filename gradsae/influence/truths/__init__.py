"""Truths: definitions of "the influence of a latent", one per file."""
