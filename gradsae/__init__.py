"""Do sparse autoencoders recover the features that are there, and which latents move the model?"""

__version__ = "0.1.0"

import ctypes
import os


def _keep_freed_memory() -> None:
    """Let the C library reuse freed blocks of up to 256 MB, and keep up to 1 GB of them.

    By default it gives them back to the system, which clears them page by page at the next step: a
    twentieth of a training step at d_sae 4,096. Other C libraries than glibc are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 1 << 28)  # M_MMAP_THRESHOLD
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


if os.environ.get("GRADSAE_TORCH_SETTINGS") != "0":  # 0 leaves torch as it is
    # Large tensors on the CPU come from huge pages: a fresh 64 MB result otherwise costs 16,000
    # page faults, a fifth of an encoder product. torch reads this at its first large allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # torch's threads wait a tenth as long in a spin before they sleep: by default they keep the
    # cores that the compiled loops of gradsae.sae.kernels need. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    _keep_freed_memory()
