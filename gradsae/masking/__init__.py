"""Masking: how much of an answer goes when the latents that a ranking names are switched off?"""
