"""Gates, one file each. A file that is added here is found by its name in checkpoints."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from gradsae import checks
from gradsae.sae.kernels.gates.gate import Gate


@cache
def gates() -> dict[str, type[Gate]]:
    """Return the gates that a checkpoint may name."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return {kind.name: kind for kind in _below(Gate) if kind.name}


def make_gate(name: str, d_sae: int, **settings: Any) -> Gate:
    """Return a new gate by the name that files give it.

    Raises ValueError for an unknown name or for settings that do not fit.
    """
    checks.one_of("gate", name, tuple(sorted(gates())))
    try:
        return gates()[name].build(d_sae, **settings)
    except TypeError:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "nothing"
        raise ValueError(f"gate={name} cannot be made of {given}") from None


def _below(kind: type[Gate]) -> list[type[Gate]]:
    children = kind.__subclasses__()
    return children + [deeper for child in children for deeper in _below(child)]
