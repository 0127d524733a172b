"""Drawing samples of a realistic world: 16,384 features in 768 dimensions, 1,024 rows a batch."""

from typing import TYPE_CHECKING, Any

from benchmarks.speed.case import Case, Work

if TYPE_CHECKING:
    from gradsae.sources.forest import Forest

BATCH = 1024
SIZES = tuple(1024 * 2**i for i in range(7))
"""Features from 1k to 64k, for how the cost of `ours(n)` grows."""


def cases() -> list[Case]:
    return [
        Case(
            name="generator",
            shape="16384 features, 768 dims",
            unit=f"draw {BATCH} rows with Zipf rates, hierarchy and correlation, and their x",
            ours=lambda: ours(16384),
            contenders={"saelens": lambda: saelens(16384)},
            bars={"saelens": 20},
        )
    ]


def world(n_features: int, width: int = 768) -> "Forest":
    """Return the published world with another number of features, its trees in proportion.

    Without the gradient steps on the directions, which cost minutes and do not change the draw.
    """
    from gradsae.sources.forest import Forest

    return Forest(
        n_features=n_features,
        width=width,
        n_roots=n_features // 128,
        orthogonal_steps=0,
        seed=42,
    )


def ours(n_features: int) -> Work:
    import torch

    stream = world(n_features).stream(BATCH, 0, torch.device("cpu"))
    return stream.next


def saelens(n_features: int) -> Work:
    """Return sae-lens's sampling in dense fp32, on a CPU its fastest setting.

    `use_sparse_tensors` was some twenty times slower (43 to 67 s against 2.5 to 3.6 s a batch,
    version 6.54, two busy cores).
    """
    from benchmarks.speed.peers import module

    synthetic = module("sae_lens.synthetic", "pip install '.[peers]'")
    model: Any = synthetic.SyntheticModel(_config(synthetic, world(n_features)))
    return lambda: model.sample(BATCH)


def _config(synthetic: Any, source: "Forest") -> Any:
    """Return sae-lens's config of the same law."""
    return synthetic.SyntheticModelConfig(
        num_features=source.n_features,
        hidden_dim=source.width,
        firing_probability=synthetic.ZipfianFiringProbabilityConfig(
            exponent=source.rate_exponent,
            max_prob=source.highest_rate,
            min_prob=source.lowest_rate,
        ),
        hierarchy=synthetic.HierarchyConfig(
            total_root_nodes=source.n_roots,
            branching_factor=source.branching,
            max_depth=source.depth,
            mutually_exclusive_portion=source.exclusive,
            compensate_probabilities=source.compensate,
            scale_children_by_parent=source.scale_children,
        ),
        correlation=synthetic.LowRankCorrelationConfig(
            rank=source.correlation_rank, correlation_scale=source.correlation_scale
        ),
        std_firing_magnitudes=synthetic.FoldedNormalMagnitudeConfig(
            mean=source.spread_mean, std=source.spread_std
        ),
        mean_firing_magnitudes=synthetic.LinearMagnitudeConfig(
            start=source.first_mean, end=source.last_mean
        ),
        bias=source.bias,
        seed=source.seed,
    )
