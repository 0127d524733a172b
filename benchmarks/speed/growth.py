"""How the cost of ours grows with d_sae, k, batch and n_features, one of them changed at a time."""

import statistics
from dataclasses import dataclass

from benchmarks.speed import generator
from benchmarks.speed.case import Setup
from benchmarks.speed.steps import Shape, ours
from benchmarks.speed.table import duration
from benchmarks.speed.worker import LEAST_SECONDS, timed

HEAD = ("unit of work", "changed", "value", "time", "per sample")
REPEATS = 5
BASE = Shape(1024, 768, 16384, 32)


@dataclass(frozen=True, kw_only=True)
class Growth:
    unit: str
    changed: str
    value: int
    seconds: float
    samples: int

    def cells(self) -> tuple[str, ...]:
        per_sample = duration(self.seconds / self.samples)
        return self.unit, self.changed, str(self.value), duration(self.seconds), per_sample


def measure() -> list[Growth]:
    """Return the median time of a TopK step and of a draw from the 16k world, size by size."""
    return [
        *_steps("d_sae", (1024, 4096, 16384, 65536)),
        *_steps("k", (8, 32, 128, 512)),
        *_steps("batch", (256, 1024, 4096)),
        *_draws(),
    ]


def _steps(changed: str, values: tuple[int, ...]) -> list[Growth]:
    grown = []
    for value in values:
        shape = BASE._replace(**{changed: value})
        seconds = median_seconds(lambda s=shape: ours("topk", s), REPEATS)
        grown.append(
            Growth(
                unit=f"topk step, otherwise {BASE}",
                changed=changed,
                value=value,
                seconds=seconds,
                samples=shape.batch,
            )
        )
    return grown


def median_seconds(setup: Setup, repeats: int) -> float:
    """Return the median time of one unit of work after a warm-up."""
    work = setup()
    work()
    n = max(1, round(LEAST_SECONDS / timed(work, 1)))
    return statistics.median(timed(work, n) for _ in range(repeats))


def _draws() -> list[Growth]:
    return [
        Growth(
            unit="draw from the 16k world's law, 768 dims",
            changed="n_features",
            value=n_features,
            seconds=median_seconds(lambda n=n_features: generator.ours(n), REPEATS),
            samples=generator.BATCH,
        )
        for n_features in generator.SIZES[::2]
    ]
