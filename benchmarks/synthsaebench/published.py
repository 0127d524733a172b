"""What others published of SynthSAEBench-16k. Read from their pages; shown and never ranked."""

from dataclasses import dataclass, field
from typing import final

MILLION = 1_000_000
PAPER = "SAELens, docs/synth_sae_bench.md at 53c8bea"
AUTHOR = "chanind/claude-auto-research-synthsaebench, README.md"
SEARCH = "bigsnarfdude/researchRalph, results.tsv at 872fcc8"


@final
@dataclass(frozen=True, kw_only=True)
class Published:
    """One line of somebody's table."""

    method: str
    world: str
    """`v1` or `v2`."""
    source: str
    rows: int
    """Rows that the training saw."""
    seeds: int
    scores: dict[str, float] = field(default_factory=dict)
    """Means over seeds, by their names; what they do not state is left out."""


def _of_paper(
    method: str, l0: int, f1: float, mcc: float, uniqueness: float, ev: float
) -> Published:
    scores = {
        **{"f1_score": f1, "mcc": mcc, "uniqueness": uniqueness},
        **{"sae_l0": float(l0), "explained_variance": ev},
    }
    rows = 200 * MILLION
    return Published(method=method, world="v2", source=PAPER, rows=rows, seeds=5, scores=scores)


def _of_search(method: str, millions: int, f1: float, **more: float) -> Published:
    return Published(
        method=method,
        world="v1",
        source=SEARCH,
        rows=millions * MILLION,
        seeds=1,
        scores={"f1_score": f1, **more},
    )


PUBLISHED = (
    _of_paper("Matryoshka", 25, 0.8793, 0.7927, 0.9987, 0.7792),
    _of_paper("JumpReLU", 25, 0.7317, 0.7527, 0.9885, 0.7951),
    _of_paper("BatchTopK", 25, 0.7316, 0.7574, 0.9837, 0.7923),
    _of_paper("Standard L1", 25, 0.5562, 0.6039, 0.8976, 0.7654),
    _of_paper("MatchPursuit", 25, 0.4464, 0.6930, 0.8281, 0.8351),
    _of_paper("Matryoshka", 20, 0.8601, 0.7455, 0.9874, 0.7699),
    _of_paper("JumpReLU", 20, 0.8241, 0.7434, 0.9781, 0.7906),
    _of_paper("BatchTopK", 20, 0.8183, 0.7526, 0.9760, 0.7889),
    _of_paper("Standard L1", 20, 0.5777, 0.5834, 0.8528, 0.7501),
    _of_paper("MatchPursuit", 20, 0.4439, 0.6748, 0.7552, 0.8267),
    _of_search(
        "ISTA Matryoshka, polished",
        200,
        0.9894,
        **{"precision": 0.9905, "recall": 0.9891, "mcc": 0.8245, "sae_l0": 25, "dead_latents": 0},
    ),
    Published(
        method="LISTA Matryoshka",
        world="v1",
        source=AUTHOR,
        rows=200 * MILLION,
        seeds=1,
        scores={"f1_score": 0.97},
    ),
    _of_search("ISTA Matryoshka, k from 100 to 25", 50, 0.9754),
    _of_search("ISTA Matryoshka", 50, 0.899),
    _of_search("Matryoshka", 50, 0.755),
    _of_search("BatchTopK", 50, 0.610),
)
