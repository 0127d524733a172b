"""Do sparse autoencoders recover the features that are there, and which latents move the model?"""

__version__ = "0.1.0"

import os

# Large tensors on the CPU come from huge pages: a fresh 64 MB result otherwise costs 16,000 page
# faults, a fifth of an encoder product. torch reads this once, at its first large allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
