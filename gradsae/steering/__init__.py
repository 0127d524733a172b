"""Steering: what happens when the chosen latents are switched off, scaled or set."""
