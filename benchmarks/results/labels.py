"""Names of settings, for rows and legends: the method, and the fields in which it differs."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from benchmarks.results.declared import MAX_LABEL
from benchmarks.results.reading import LOCAL_ORIGIN
from benchmarks.results.settings import Setting
from gradsae.tables.printing import printable

NAMES = {"label", "experiment"}
ALWAYS = {"k", "l1"}
"""Hyperparameters that set the sparsity: shown also where they do not differ."""

NOT_HYPERPARAMETERS = {"name", "d_sae"}


def labels(settings: Sequence[Setting]) -> list[str]:
    """Return a name for each setting: its label, or the method and the fields that differ."""
    telling = _telling(settings)
    names = [_label(setting, telling[setting.method]) for setting in settings]
    same: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        same.setdefault(name, []).append(i)
    for name, places in same.items():
        if len(places) > 1:
            for i, difference in zip(
                places, differences([settings[i] for i in places]), strict=True
            ):
                names[i] = f"{name} ({difference})"
    return names


def _telling(settings: Sequence[Setting]) -> dict[str, set[str]]:
    """Return, by method, the hyperparameters in which its settings differ or that always show."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for setting in settings:
        alike.setdefault(setting.method, []).append(hyperparameters(setting))
    return {
        method: {
            key
            for key in dict.fromkeys(key for values in every for key in values)
            if key in ALWAYS or len({values.get(key) for values in every}) > 1
        }
        for method, every in alike.items()
    }


def differences(settings: Sequence[Setting], parts: Sequence[str] | None = None) -> list[str]:
    """Return the difference of each setting: up to two fields of the config, or the record's id.

    With `parts`, only fields of these parts of the config.
    """
    configs = [setting.first.config for setting in settings]
    if parts is not None:
        configs = [{k: v for k, v in config.items() if k in parts} for config in configs]
    flat = [dict(_flat(seedless(config))) for config in configs]
    keys = [
        k for k in flat[0] if len({str(config.get(k)) for config in flat}) > 1 and k not in NAMES
    ]
    for n in range(1, min(2, len(keys)) + 1):
        texts = [
            ", ".join(f"{k.rpartition('.')[2]}={_value(config.get(k))}" for k in keys[:n])
            for config in flat
        ]
        if len(set(texts)) == len(texts):
            return texts
    if len({setting.origin for setting in settings}) == len(settings):
        return [setting.origin.replace(LOCAL_ORIGIN, "this machine") for setting in settings]
    return [f"{setting.origin} {setting.first.id[:6]}" for setting in settings]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _label(setting: Setting, telling: Collection[str]) -> str:
    given = setting.first.config.get("label")
    if isinstance(given, str) and given.strip():
        return printable(given.strip(), MAX_LABEL)
    mine = hyperparameters(setting)
    shown = [f"{key}={_value(value)}" for key, value in mine.items() if key in telling]
    words = [setting.about.label, *shown]
    return printable(" ".join(words), MAX_LABEL)


def hyperparameters(setting: Setting) -> dict[str, Any]:
    trainer = setting.first.config.get("trainer")
    if not isinstance(trainer, dict):
        return {}
    return {
        key: value
        for key, value in trainer.items()
        if key not in NOT_HYPERPARAMETERS and isinstance(value, str | int | float)
    }


def _value(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number:
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 and value == round(value) else f"{value:g}"


def seedless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: seedless(v) for k, v in value.items() if k not in {"seed", "seeds"}}
    return value
