"""One page per prompt: where do the rankings of latents differ from the truth?"""
