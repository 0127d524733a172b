"""Do sparse autoencoders recover the features that are there, and which latents move the model?"""

__version__ = "0.1.0"
