"""Absorption: does a parent's latent fall silent where a child of the feature takes over?"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.about import Score
from gradsae.interfaces import Hierarchy, Metric, Scores, Skipped, Source
from gradsae.metrics.common import as_control, chance_control, merge, ratio_interval
from gradsae.metrics.joint import join, partner_values, partners
from gradsae.metrics.truth import Truth, known_rows
from gradsae.sae.codes import SparseCodes
from gradsae.sae.dictionary import Dictionary


class Context(NamedTuple):
    """Number of rows of one kind with each edge's parent active, and of those on which its latent
    fires."""

    rows: Int[Tensor, " n_edges"]
    hits: Int[Tensor, " n_edges"]

    def recall(self) -> Float[Tensor, " n_edges"]:
        """Return the share of these rows on which the latent fires; NaN where there is no row."""
        return self.hits.double() / self.rows


class Contexts(NamedTuple):
    with_child: Context
    without_child: Context
    childless: Context
    """Without any of the parent's children."""


def count_contexts(
    truth: SparseCodes, fires: Bool[Tensor, " nnz"], edges: Int[Tensor, "n_edges 2"]
) -> Contexts:
    """Count where the latent of each edge's parent fires, with and without the child.

    `truth` holds active entries only; `fires` says for each whether its feature's latent fires.
    """
    width, (parent, child) = truth.d_sae, edges.unbind(1)
    columns = truth.transpose
    many = columns.offsets.long().diff()[child]
    edge = torch.arange(len(edges)).repeat_interleave(many)
    nth = torch.arange(len(edge)) - (many.cumsum(0) - many)[edge]
    rows = columns.rows[columns.offsets.long()[child][edge] + nth]  # where each edge's child is on
    keys = (truth.rows * width + truth.latents).sort()
    sought = rows * width + parent[edge]
    place = torch.searchsorted(keys.values, sought).clamp_max_(max(len(keys.values) - 1, 0))
    both = keys.values[place] == sought
    edge, entry = edge[both], keys.indices[place[both]]
    single = torch.ones_like(fires)
    single[entry] = False

    def count(which: Tensor, n: int) -> Context:
        hit = fires.long()
        rows = torch.bincount(truth.latents[which], minlength=n)
        return Context(rows, torch.zeros(n).long().index_add(0, truth.latents[which], hit[which]))

    with_child = Context(
        torch.bincount(edge, minlength=len(edges)),
        torch.zeros(len(edges)).long().index_add(0, edge, fires[entry].long()),
    )
    everywhere = count(torch.ones_like(single), width)
    childless = count(single, width)
    without = Context(*(a[parent] - b for a, b in zip(everywhere, with_child, strict=True)))
    return Contexts(with_child, without, Context(*(part[parent] for part in childless)))


def score_gaps(
    name: str,
    with_child: Context,
    other: Context,
    judged: Bool[Tensor, " n_edges"],
    parent: Int[Tensor, " n_edges"],
    min_rows: int,
    seed: int,
) -> Scores:
    """Score the mean over edges of recall in the other context minus recall with the child.

    Interval: 95 % bootstrap over parents (children of one parent share its latent).
    """
    used = judged & (with_child.rows >= min_rows) & (other.rows >= min_rows)
    if not bool(used.any()):
        reason = "no parent has a latent near it" if not bool(judged.any()) else "too few rows"
        reason += f" ({len(parent)} edges, {int(judged.sum())} of them with a latent)"
        return Scores(scores={}, skipped={name: reason})
    gaps = (other.recall() - with_child.recall())[used]
    _, unit = parent[used].unique(return_inverse=True)
    zeros = torch.zeros(int(unit.max()) + 1, dtype=torch.float64)
    sums, sizes = zeros.index_add(0, unit, gaps), zeros.index_add(0, unit, torch.ones_like(gaps))
    interval = ratio_interval(sums, sizes, seed)
    return Scores(
        scores={name: gaps.mean().item()},
        intervals={} if interval is None else {name: interval},
        n={name: len(gaps)},
    )


def score_absorption(
    sae: Dictionary,
    truth: Truth,
    edges: Int[Tensor, "n_edges 2"],
    cosine: int | float,
    min_rows: int,
    seed: int,
) -> Scores:
    """Return the scores of `Absorption`, without control."""
    joint = join(sae, truth)
    near = partners(sae, joint, truth.features)
    fires = partner_values(joint, near.latent_of) > 0
    contexts, parent = count_contexts(joint.truth, fires, edges), edges[:, 0]
    judged = (near.latent_of >= 0)[parent] & (near.cosine[parent] > cosine)
    with_child, without, childless = contexts
    given = (judged, parent, min_rows, seed)
    share = {"absorption/judged": judged.double().mean().item()}
    return merge(
        [
            Scores(scores=share, n={"absorption/judged": len(edges)}),
            Scores(scores={}, n={"absorption/rows": joint.codes.n_rows}),
            score_gaps("absorption/gap", with_child, without, *given),
            score_gaps("absorption/gap/childless", with_child, childless, *given),
        ]
    )


@final
@dataclass(frozen=True, kw_only=True)
class Absorption(Metric):
    """Recall of a parent feature's latent, where a child is absent and where it is active.

    Asked for in SAELens issue 729. Recall is taken over held-out rows with the parent of an edge
    (parent, child) active: the share on which the parent's latent fires. The latent is the parent's
    partner in the one-to-one matching by cosine (as in Detection). An edge is judged if the cosine
    is above `cosine`, and enters a gap if both kinds of rows number at least `min_rows`.

    Intervals: 95 % bootstrap over parents. `/chance`: the same SAE with its directions drawn at
    random (`Dictionary.chance`), at any cosine, since none of its latents comes near a feature.
    Skipped for a source without a hierarchy.
    """

    SCORES: ClassVar[tuple[Score, ...]] = (
        Score(
            name="absorption/gap",
            header="absorption",
            better="lower",
            low=-1,
            high=1,
            ceiling=0,
            meaning=(
                "Recall of a parent feature's latent where the child is absent minus where it is "
                "active; mean over edges. Above 0 the latent misses its feature where the child "
                "is active."
            ),
        ),
        Score(
            name="absorption/gap/childless",
            header="absorption, childless",
            better="lower",
            low=-1,
            high=1,
            ceiling=0,
            meaning=(
                "The same against rows on which no child of the parent is active: siblings that "
                "absorb the parent as well make the first score small, not this one."
            ),
        ),
        Score(
            name="absorption/judged",
            header="judged",
            better="",
            low=0,
            high=1,
            meaning=(
                "Share of edges whose parent has a latent at a cosine above the field `cosine`. "
                "SAEs that differ here were judged on different edges."
            ),
        ),
    )

    n_rows: int = 16_384
    cosine: int | float = 0.7
    min_rows: int = 10

    def __post_init__(self) -> None:
        checks.whole("n_rows", self.n_rows, 1)
        checks.share("cosine", self.cosine)
        checks.whole("min_rows", self.min_rows, 1)

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        if not isinstance(source, Hierarchy):
            return Skipped(f"the features of {source.name} form no hierarchy")
        edges = source.edges()
        if len(edges) == 0:
            return Skipped(f"no feature of this {source.name} has a parent")
        truth = known_rows(source, self.n_rows, seed)
        if isinstance(truth, Skipped):
            return truth
        control = chance_control(sae, seed)
        scores = score_absorption(sae, truth, edges, self.cosine, self.min_rows, seed)
        chance = score_absorption(control, truth, edges, -1, self.min_rows, seed)
        return merge([scores, as_control(chance)])
