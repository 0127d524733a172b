"""Influence: of the latents that are active on a prompt, which ones move the model's output?"""
