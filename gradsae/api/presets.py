"""Components by name: the same words, with the same settings, as on the command line.

The settings stand in YAML files that travel with the package (`gradsae/conf`), so that `topk` in a
notebook and `trainer=topk` in a command are one recipe.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from gradsae.errors import UserError


def folder() -> Path:
    """Return the folder of the composed settings that the package carries."""
    return Path(str(files("gradsae") / "conf")).resolve()


def names(group: str) -> list[str]:
    """Return the names of a group (trainer, source, model, metric, ...), sorted."""
    inside = folder() / group
    paths = sorted(inside.rglob("*.yaml"))
    return [path.relative_to(inside).with_suffix("").as_posix() for path in paths]


def build(
    group: str,
    name: str,
    *,
    words: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Any:
    """Return a component of a group by name.

    Args:
        group: "trainer", "source", "model".
        name: Name of a file of the group.
        words: Values of words at the top of a config that several components share: d_sae, k, lr.
        changes: Fields of the built component to set otherwise.

    Raises:
        UserError: No such name or field, or a value that the component refuses.
    """
    choices = names(group)
    if name not in choices:
        raise UserError(f"there is no {group} {name!r}{_nearest(name, choices)}")
    overrides = [f"{group}={name}", *(f"{key}={value}" for key, value in (words or {}).items())]
    return changed(instantiated(compose(overrides), group), dict(changes or {}), f"{group} {name}")


def compose(overrides: list[str]) -> Any:
    """Return the composed config of some words; a Hydra that the caller uses is left as it is."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from gradsae.config.source import install

    install()
    try:
        with initialize_config_dir(str(folder()), version_base="1.3"):
            config = hydra_compose("config", overrides=overrides)
            OmegaConf.resolve(config)
            return config
    except HydraException as error:
        raise UserError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error


def instantiated(config: Any, field: str) -> Any:
    """Return the component that stands in one field of a composed config."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    try:
        return instantiate(OmegaConf.select(config, field), _convert_="object")
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(f"{field}: {str(cause).splitlines()[0]}") from error


def changed(component: Any, changes: Mapping[str, Any], title: str) -> Any:
    """Return a component with some of its fields set otherwise.

    A name with a dot sets a field of an inner component: `{"optim.lr": 1e-3}`. `title` names the
    component in messages: `trainer topk`.
    """
    values: dict[str, Any] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        settable = [field.name for field in fields(component) if field.init]
        if head not in settable:
            raise UserError(f"{title} has no field {head!r}{_nearest(head, settable)}")
        inner = values.get(head, getattr(component, head))
        if rest and not is_dataclass(inner):
            raise UserError(f"{title}: {head} is {inner!r} and has no field {rest!r}")
        values[head] = changed(inner, {rest: value}, f"{head} of {title}") if rest else value
    try:
        return replace(component, **values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{title}: {error}") from error


def _nearest(name: str, choices: list[str]) -> str:
    near = get_close_matches(name, choices, n=1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{meant}; there are {', '.join(choices)}"
