"""LM loss: what does the model lose when the reconstruction takes the activation's place?"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from gradsae import checks
from gradsae.about import Score
from gradsae.interfaces import Metric, ModelSource, Scores, Skipped, Source
from gradsae.lm.model import LM
from gradsae.lm.sites import Site
from gradsae.metrics.common import ratio_interval
from gradsae.sae.dictionary import Dictionary

Dropped = Callable[[Tensor, Tensor], Tensor]
"""(token_ids [batch pos], acts [batch pos d_in]) -> positions that keep the model's activation."""
Replace = Callable[[Tensor], Tensor]
"""Activations of some positions [n d_in], in the model's dtype -> what the model gets instead."""

N_PASSES = 4
"""Clean, spliced, zero-ablated and mean-ablated; the last two are run once for many SAEs."""


N_REMEMBERED = 1024
"""Most windows whose ablated runs are remembered."""


class Ablated(NamedTuple):
    """Summed cross-entropies of one window, in nats, without any SAE."""

    zero: float
    mean: float


_ablated: dict[str, Ablated] = {}


class Window(NamedTuple):
    """Sums over the predicted tokens of one window, in nats."""

    clean: float
    spliced: float
    zero: float
    mean: float
    kl: float
    """KL(clean || spliced) of the next-token distribution."""
    n_tokens: int
    n_dropped: int
    """Positions that kept the model's activation."""


def splice(
    acts: Float[Tensor, "batch pos d_in"], replaced: Bool[Tensor, "batch pos"], replace: Replace
) -> Float[Tensor, "batch pos d_in"]:
    """Return `acts` with some positions replaced; bit-equal where `replace` is the identity."""
    edited = acts.clone()
    if bool(replaced.any()):
        edited[replaced] = replace(acts[replaced]).to(acts.dtype)
    return edited


def cross_entropy(logits: Float[Tensor, "1 pos vocab"], token_ids: Int[Tensor, "1 pos"]) -> float:
    """Return the summed negative log-likelihood of tokens 1, 2, ... of a window, in nats."""
    return F.cross_entropy(logits[0, :-1], token_ids[0, 1:], reduction="none").double().sum().item()


def kl_divergence(
    clean: Float[Tensor, "1 pos vocab"], other: Float[Tensor, "1 pos vocab"]
) -> float:
    """Return KL(clean || other) in nats, summed over the positions that predict a token."""
    log_p, log_q = clean[0, :-1].log_softmax(-1), other[0, :-1].log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).double().sum().item()


def ablate(
    lm: LM,
    site: Site,
    token_ids: Int[Tensor, "1 pos"],
    replaced: Bool[Tensor, "1 pos"],
    mean: Float[Tensor, " d_in"],
) -> Ablated:
    """Run one window with zeros, and with the mean, at the replaced positions.

    Many SAEs are measured on the same windows, so the sums are remembered by their inputs.
    """
    module = lm.decoder.layout_of(site.layer)  # a site is where the paths say
    key = sha256(f"{lm.weights_id} {lm.dtype} {lm.device} {site} {module} {mean.dtype}".encode())
    for tensor in (token_ids, replaced, mean):
        key.update(tensor.cpu().numpy().tobytes())
    name = key.hexdigest()
    if name not in _ablated:

        def loss(value: Tensor) -> float:
            fill: Replace = lambda acts: value.to(acts).expand_as(acts)  # noqa: E731
            edited = lm.logits(token_ids, edit=(site, lambda acts: splice(acts, replaced, fill)))
            return cross_entropy(edited, token_ids)

        if len(_ablated) >= N_REMEMBERED:
            del _ablated[next(iter(_ablated))]
        _ablated[name] = Ablated(zero=loss(torch.zeros_like(mean)), mean=loss(mean))
    return _ablated[name]


@torch.no_grad()
def run_window(
    lm: LM,
    site: Site,
    token_ids: Int[Tensor, "1 pos"],
    dropped: Dropped,
    reconstruct: Replace,
    mean: Float[Tensor, " d_in"],
) -> Window:
    """Run one window four times: clean, and with the reconstruction, zeros and the mean put in."""
    clean_acts: list[Tensor] = []

    def keep(acts: Tensor) -> Tensor:
        clean_acts.append(acts)
        return acts

    clean = lm.logits(token_ids, edit=(site, keep))
    replaced = ~dropped(token_ids, clean_acts[0])
    spliced = lm.logits(token_ids, edit=(site, lambda acts: splice(acts, replaced, reconstruct)))
    kl, ce_spliced = kl_divergence(clean, spliced), cross_entropy(spliced, token_ids)
    del spliced
    zero, mean_ablated = ablate(lm, site, token_ids, replaced, mean)
    return Window(
        clean=cross_entropy(clean, token_ids),
        spliced=ce_spliced,
        zero=zero,
        mean=mean_ablated,
        kl=kl,
        n_tokens=token_ids.shape[1] - 1,
        n_dropped=int((~replaced).sum()),
    )


def score_windows(windows: list[Window], seed: int) -> Scores:
    """Return the scores of `LMLoss` from sums of windows; each window is one bootstrap unit."""
    columns = torch.tensor(windows, dtype=torch.float64).T
    clean, spliced, zero, mean, kl, tokens, dropped = columns
    ratios = {
        "lm/ce_clean": (clean, tokens),
        "lm/ce_spliced": (spliced, tokens),
        "lm/ce_zero": (zero, tokens),
        "lm/ce_mean": (mean, tokens),
        "lm/ce_delta": (spliced - clean, tokens),
        "lm/kl": (kl, tokens),
        "lm/ce_recovered": (zero - spliced, zero - clean),
        "lm/ce_recovered/mean": (mean - spliced, mean - clean),
    }
    scores, intervals, skipped = {}, {}, {}
    for name, (above, below) in ratios.items():
        if not below.sum() > 0:
            skipped[name] = "the ablation does not raise the cross-entropy of these windows"
            continue
        scores[name] = (above.sum() / below.sum()).item()
        interval = ratio_interval(above, below, seed)
        if interval is not None:
            intervals[name] = interval
    n = dict.fromkeys(scores, int(tokens.sum()))
    n |= {"lm/windows": len(windows), "lm/dropped": int(dropped.sum())}
    return Scores(
        scores=scores,
        intervals=intervals,
        n=n,
        skipped=skipped,
        forward_equivalents=float(N_PASSES * len(windows)),
    )


@final
@dataclass(frozen=True, kw_only=True)
class LMLoss(Metric):
    """Cross-entropy and next-token distribution with the SAE's reconstruction spliced in.

    At the source's site every position gets the reconstruction, except those that an SAE of this
    source never saw (special tokens, outliers; `lm/dropped` counts them): they keep the model's
    activation in every variant. Cross-entropies are means over all next-token predictions of the
    held-out windows; intervals are 95 % bootstraps over windows. The mean activation is that of the
    source's held-out rows without outliers. A reconstruction equal to the activation gives exactly
    `ce_recovered` 1, `ce_delta` 0 and `kl` 0.
    """

    SCORES: ClassVar[tuple[Score, ...]] = (
        Score(
            name="lm/ce_recovered",
            header="CE recovered",
            better="higher",
            high=1,
            over="windows",
            meaning=(
                "1 - (spliced - clean) / (zeros - clean) of cross-entropies: 1 is that of the "
                "untouched model, 0 that with zeros; an SAE can do worse."
            ),
        ),
        Score(
            name="lm/ce_recovered/mean",
            header="CE recovered, mean",
            better="higher",
            high=1,
            over="windows",
            meaning=(
                "The same with the mean activation in the place of zeros, which is the harder "
                "baseline."
            ),
        ),
        Score(
            name="lm/ce_clean",
            header="CE",
            better="",
            low=0,
            unit="nats",
            over="windows",
            meaning=("Cross-entropy of the untouched model."),
        ),
        Score(
            name="lm/ce_spliced",
            header="CE spliced",
            better="lower",
            low=0,
            unit="nats",
            over="windows",
            meaning=("Cross-entropy with the reconstruction spliced in."),
        ),
        Score(
            name="lm/ce_zero",
            header="CE of zeros",
            better="",
            low=0,
            unit="nats",
            over="windows",
            meaning=("Cross-entropy with zeros in the place of the activation."),
        ),
        Score(
            name="lm/ce_mean",
            header="CE of the mean",
            better="",
            low=0,
            unit="nats",
            over="windows",
            meaning=("Cross-entropy with the mean activation in its place."),
        ),
        Score(
            name="lm/ce_delta",
            header="CE lost",
            better="lower",
            unit="nats",
            over="windows",
            meaning=("Cross-entropy with the reconstruction less that of the untouched model."),
        ),
        Score(
            name="lm/kl",
            header="KL",
            better="lower",
            low=0,
            unit="nats",
            over="windows",
            detail=True,
            meaning=(
                "KL from the model's next-token distribution to that with the reconstruction, mean "
                "over predictions."
            ),
        ),
    )

    n_windows: int = 32
    n_rows: int = 4096
    """Held-out rows whose mean is the mean-ablation."""

    def __post_init__(self) -> None:
        checks.whole("n_windows", self.n_windows, 1)
        checks.whole("n_rows", self.n_rows, 1)

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        if not isinstance(source, ModelSource):
            return Skipped(f"{source.name} is not read from a language model")
        lm, site = source.lm(), source.site()
        x, _, outlier = source.held_out(self.n_rows, seed)
        mean = (x if outlier is None else x[~outlier]).float().mean(0).to(lm.device)

        def reconstruct(acts: Tensor) -> Tensor:
            return sae(acts.to(sae.device, sae.dtype)).recon.to(acts)

        usable = [ids for ids in source.eval_windows(self.n_windows, seed) if len(ids) > 1]
        if not usable:
            return Skipped("there is no held-out window of two tokens or more")
        windows = [
            run_window(lm, site, ids[None].to(lm.device), source.dropped, reconstruct, mean)
            for ids in tqdm(usable, desc="lm loss", disable=None)
        ]
        return score_windows(windows, seed)
