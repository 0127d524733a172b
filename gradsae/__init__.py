"""Do sparse autoencoders recover the features that are there, and which latents move the model?

In a notebook:

    import gradsae

    model = gradsae.load_model("smollm2")
    sae = gradsae.train("topk", activations, d_sae=4096, k=32)
    gradsae.influence(model, sae, "The capital of France is", site="resid_post.15")

The functions are listed in `__all__`; each is documented where it is defined, in `gradsae.api`.
torch is imported when the first of them is used, not before.
"""

__version__ = "0.1.0"

import ctypes
import inspect
import os
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradsae.api.influence import influence as influence
    from gradsae.api.models import load_model as load_model
    from gradsae.api.saes import PlacedSAE as PlacedSAE
    from gradsae.api.saes import load_sae as load_sae
    from gradsae.api.score import score as score
    from gradsae.api.steer import steer as steer
    from gradsae.api.suitability import suitability as suitability
    from gradsae.api.table import Table as Table
    from gradsae.api.train import train as train
    from gradsae.errors import UserError as UserError


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


_EXPORTS = {
    "PlacedSAE": "gradsae.api.saes",
    "Table": "gradsae.api.table",
    "UserError": "gradsae.errors",
    "influence": "gradsae.api.influence",
    "load_model": "gradsae.api.models",
    "load_sae": "gradsae.api.saes",
    "score": "gradsae.api.score",
    "steer": "gradsae.api.steer",
    "suitability": "gradsae.api.suitability",
    "train": "gradsae.api.train",
}
__all__ = ["__version__", *_EXPORTS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'gradsae' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    # A subpackage of that name has taken the place by now, and can be called itself.
    return globals().setdefault(name, value)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


class CallablePackage(ModuleType):
    """A subpackage that can be called like the public function of its name.

    `gradsae.influence` is a package and, for a notebook, a function: Python puts the package in
    the function's place whenever something in it is imported.
    """

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function()(*args, **kwargs)

    def _function(self) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(_EXPORTS[name]), name)
