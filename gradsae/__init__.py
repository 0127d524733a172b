"""Do sparse autoencoders recover the features that are there, and which latents move the model?"""

__version__ = "0.1.0"

import os

if os.environ.get("GRADSAE_TORCH_SETTINGS") != "0":  # 0 leaves torch as it is
    # Large tensors on the CPU come from huge pages: a fresh 64 MB result otherwise costs 16,000
    # page faults, a fifth of an encoder product. torch reads this at its first large allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # torch's threads sleep when they have nothing to do. By default they spin for a while, on cores
    # that the compiled loops of gradsae.kernels then lack. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
