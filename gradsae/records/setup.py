"""What a record's config says to its readers: source, method, model, text, fit and task settings.

A method or source of a stranger has fields that are not known here. Those are kept and read by
name (`get`, `number`); only the names that every reader relies on have fixed types.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

_READ = ConfigDict(frozen=True, strict=True, extra="allow")


class Component(BaseModel):
    """A source, method, language model or text, with its hyperparameters."""

    model_config = _READ

    name: str = ""

    def get(self, field: str) -> Any:
        """Return a hyperparameter, or None where the component has none of this name."""
        return (self.model_extra or {}).get(field)

    def number(self, field: str) -> float | int | None:
        """Return a hyperparameter that is a number, or None."""
        value = self.get(field)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


class Source(Component):
    """Where activations come from."""

    site: str = ""
    """`resid_post.15` for one; empty where the source is no language model."""


class Ask(BaseModel):
    """Settings of the task. Each task has its own; readers rely on these."""

    model_config = _READ

    prompts: dict[str, Any] | None = None
    """The set of prompts: its class and fields."""
    scalar: str | None = None
    """What of the target is explained, of influence."""
    settings: list[dict[str, Any]] | None = None
    """The settings of a grid."""
    others: list[Any] | None = None
    """The further seeds that consistency compares with."""

    def get(self, field: str) -> Any:
        """Return another setting of the task, or None where it has none of this name."""
        return (self.model_extra or {}).get(field)


class Fit(BaseModel):
    """How long was trained."""

    model_config = _READ

    steps: int | None = None
    batch_size: int | None = None


class Setup(BaseModel):
    """The parts of a config. A part that the config lacks is empty."""

    model_config = _READ

    label: str | None = None
    """The user's own name for the row."""
    experiment: str | None = None
    source: Source = Source()
    model: Component = Component()
    corpus: Component = Component()
    trainer: Component = Component()
    fit: Fit = Fit()
    ask: Ask = Ask()
