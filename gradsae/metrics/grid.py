"""The grid task: which further settings of a method are trained, and the table of their scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, final

from gradsae import checks
from gradsae.about import plain
from gradsae.interfaces import Candidate, Method, Metric, Scores, Skipped, Source, Task
from gradsae.metrics.measuring import ask_metrics, check_metrics, measure_metrics
from gradsae.seeds import Seeds

SERIES = "grid/scores"
"""One row per setting: the varied fields, `is_default`, and the scores, `recovery.mcc` for one."""


@final
@dataclass(frozen=True, kw_only=True)
class Grid(Task):
    """The method as configured (the default) beside other settings of it."""

    name: ClassVar[str] = "grid"
    version: ClassVar[int] = 1
    is_on_board: ClassVar[bool] = False
    headline: ClassVar[tuple[str, ...]] = (
        "recovery/mcc",
        "recovery/frr_0.9",
        "detection/f1",
        "reconstruction/fvu",
        "sparsity/l0",
        "sparsity/dead",
    )
    measures_training: ClassVar[bool] = True
    may_diverge: ClassVar[bool] = True

    settings: Sequence[Mapping[str, Any]] = ()
    """Each has the fields that it sets and their values: `k`, `optim.lr` for a field inside."""
    only: Sequence[int] | None = None
    """Places in `settings`, from 0, of those that are trained beside the default; null for all."""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """Metrics of the SAE of each setting."""

    def __post_init__(self) -> None:
        check_metrics(self.metrics)
        if not self.settings:
            raise ValueError("this trainer has no grid; conf/grid holds one per trainer")
        fields_of = {tuple(sorted(setting)) for setting in self.settings}
        if len(fields_of) != 1 or not all(self.settings):
            raise ValueError(f"settings must all set the same fields, got {self.settings!r}")
        for place in self.only or ():
            checks.whole("each of only", place, 0, len(self.settings) - 1)

    def asks(self) -> dict[str, Any]:
        return {
            "settings": plain(self.settings),
            "only": plain(self.only),
            **ask_metrics(self.metrics),
        }

    def candidates(self, method: Method[Any], seeds: Seeds) -> list[tuple[Method[Any], Seeds]]:
        return [(each, seeds) for each in self.methods(method)]

    def measure_all(
        self, candidates: Sequence[Candidate], source: Source, seed: int
    ) -> Scores | Skipped:
        answers = [
            each.sae
            if isinstance(each.sae, Skipped)
            else measure_metrics(self.metrics, each.sae, source, seed)
            for each in candidates
        ]
        return self.table([each.method for each in candidates], answers)

    def names(self) -> list[str]:
        """Return the fields that vary."""
        return list(self.settings[0])

    def methods(self, default: Method[Any]) -> list[Method[Any]]:
        """Return the settings, each once, the default first.

        Raises ValueError where the method has no such field or refuses the value.
        """
        places = range(len(self.settings)) if self.only is None else self.only
        methods = [default]
        for place in places:
            method = changed(default, self.settings[place])
            if method not in methods:
                methods.append(method)
        return methods

    def table(self, methods: Sequence[Method[Any]], answers: Sequence[Scores | Skipped]) -> Scores:
        """Return the default's scores, and those of all settings as one series.

        A setting that failed has a row without scores, and `skipped` says why under the row's
        number, from 0. At least one must not have failed.
        """
        first, *further = [answer for answer in answers if isinstance(answer, Scores)]
        columns: dict[str, list[Any]] = {
            name: [value_of(method, name) for method in methods] for name in self.names()
        }
        columns["is_default"] = [i == 0 for i in range(len(methods))]
        for name in first.scores:
            if name.count("/") == 1:
                columns[name.replace("/", ".")] = [
                    answer.scores.get(name) if isinstance(answer, Scores) else None
                    for answer in answers
                ]
        default = first if isinstance(answers[0], Scores) else Scores(scores={})
        return replace(
            default,
            series={SERIES: columns},
            skipped={**default.skipped, **self._failed(methods, answers)},
            forward_equivalents=sum(answer.forward_equivalents for answer in [first, *further]),
        )

    def _failed(
        self, methods: Sequence[Method[Any]], answers: Sequence[Scores | Skipped]
    ) -> dict[str, str]:
        reasons: dict[str, str] = {}
        for i, (method, answer) in enumerate(zip(methods, answers, strict=True)):
            if isinstance(answer, Skipped):
                fields = ", ".join(f"{name}={value_of(method, name)}" for name in self.names())
                reasons[f"grid/setting_{i}"] = f"{fields}: {answer.reason}"
        return reasons


def changed(component: Any, values: Mapping[str, Any]) -> Any:
    """Return a component with other values in some fields: `lr` for its own, `optim.lr` inside."""
    outer = {name: value for name, value in values.items() if "." not in name}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if rest:
            inner.setdefault(first, {})[rest] = value
    for name in [*outer, *inner]:
        _check_field(component, name)
    for name, part in inner.items():
        outer[name] = changed(getattr(component, name), part)
    return replace(component, **outer)


def value_of(component: Any, name: str) -> Any:
    """Return the value of a field, `optim.lr` for one inside."""
    for part in name.split("."):
        component = getattr(component, part)
    return component


def _check_field(component: Any, name: str) -> None:
    names = [field.name for field in fields(component)] if is_dataclass(component) else []
    if name not in names:
        kind = type(component).__name__
        raise ValueError(f"{kind} has no field {name!r}; it has {', '.join(names) or 'none'}")
