"""Masking: how much of an answer is lost when the latents that a ranking names are off?"""
