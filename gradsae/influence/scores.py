"""The scores of this task: names, directions, ranges and what they mean."""

from collections.abc import Iterable
from dataclasses import replace

from gradsae.about import Score
from gradsae.influence.at_k import FAR

ALWAYS = (
    Score(
        name="influence/spearman",
        header="Spearman",
        better="higher",
        low=-1,
        high=1,
        over="prompts",
        meaning=(
            "Rank correlation over the active latents of a prompt between the estimate and "
            "the true effect of ablating the latent; mean over prompts."
        ),
    ),
    Score(
        name="influence/spearman_abs",
        header="Spearman of sizes",
        better="higher",
        low=-1,
        high=1,
        over="prompts",
        meaning=(
            "Rank correlation of the absolute estimate and the absolute effect; mean over prompts."
        ),
    ),
    Score(
        name="influence/pearson",
        header="Pearson",
        better="higher",
        low=-1,
        high=1,
        over="prompts",
        meaning=("Linear correlation of estimate and true effect; mean over prompts."),
    ),
    Score(
        name="influence/sign_agreement",
        header="sign",
        better="higher",
        low=0,
        high=1,
        over="prompts",
        meaning=("Share of the total absolute effect whose sign the estimate has."),
    ),
    Score(
        name="influence/kendall",
        header="Kendall",
        better="higher",
        low=-1,
        high=1,
        over="prompts",
        meaning=("Kendall's tau-b between estimate and true effect; mean over prompts."),
    ),
    Score(
        name="influence/calibration_slope",
        header="slope",
        better="",
        ceiling=1,
        over="prompts",
        meaning=("Slope of true effect on estimate: above 1 the estimate is too small."),
    ),
    Score(
        name="influence/relative_error",
        header="rel. error",
        better="lower",
        low=0,
        over="prompts",
        meaning=("Sum of absolute errors over sum of absolute true effects; 1 is that of zeros."),
    ),
    Score(
        name="influence/completeness_gap",
        header="completeness gap",
        better="lower",
        low=0,
        over="prompts",
        meaning=(
            "How far the sum of the estimates is from the effect of removing all active "
            "latents at once, in units of the target."
        ),
    ),
    Score(
        name="influence/unreliable",
        header="unreliable",
        better="",
        low=0,
        high=1,
        over="prompts",
        meaning=(
            "Share of latents whose second-order effect is above half of the first-order "
            "one, by a curvature."
        ),
    ),
    Score(
        name="influence/cost",
        header="cost",
        better="lower",
        low=0,
        over="prompts",
        meaning=("Forward-equivalents per prompt; a backward pass counts as two forward passes."),
    ),
    Score(
        name="influence/n_active",
        header="active latents",
        better="",
        low=0,
        over="prompts",
        meaning=("Latents open at some position of a prompt, mean over prompts."),
    ),
    Score(
        name="influence/target_prob",
        header="target probability",
        better="",
        low=0,
        high=1,
        over="prompts",
        meaning=("The model's probability of the target, mean over prompts."),
    ),
    Score(
        name="influence/median_abs_effect",
        header="median |effect|",
        better="",
        low=0,
        over="prompts",
        meaning=(
            "Median absolute effect over the latents of a prompt, mean over prompts, in "
            "units of the target."
        ),
    ),
    Score(
        name="influence/noise_floor",
        header="noise floor",
        better="",
        low=0,
        over="prompts",
        meaning=(
            "What the model's rounding does to the target, root mean square, in units of "
            "the target."
        ),
    ),
    Score(
        name="influence/joint_effect",
        header="joint effect",
        better="",
        low=0,
        over="prompts",
        meaning=("Absolute effect of removing all active latents at once, in units of the target."),
    ),
    Score(
        name="influence/sampling_error",
        header="sampling error",
        better="lower",
        low=0,
        over="prompts",
        meaning=("Of a sampled truth: mean standard error over mean absolute effect."),
    ),
    Score(
        name="influence/above_noise",
        header="above noise",
        better="higher",
        low=0,
        high=1,
        over="prompts",
        meaning=("Share of latents whose absolute effect is above their prompt's noise."),
    ),
)


def at_k(k: int) -> tuple[Score, ...]:
    """Return the scores of an estimate's first k latents."""
    return (
        Score(
            name=f"influence/precision_at_{k}",
            header=f"P@{k}",
            better="higher",
            low=0,
            high=1,
            over="prompts",
            meaning=(
                f"Share of the {k} largest estimates that are among the {k} largest true "
                "effects; signed, so it is about the latents that support the target."
            ),
        ),
        Score(
            name=f"influence/effect_recall_at_{k}",
            header=f"effect@{k}",
            better="higher",
            high=1,
            over="prompts",
            meaning=(
                f"True effect of the {k} largest estimates over that of the {k} largest effects."
            ),
        ),
        Score(
            name=f"influence/ndcg_at_{k}",
            header=f"NDCG@{k}",
            better="higher",
            low=0,
            high=1,
            over="prompts",
            meaning=(
                f"Discounted gain of the {k} largest estimates over the best possible; "
                "gains are the positive true effects."
            ),
        ),
        Score(
            name=f"influence/false_negatives_at_{k}",
            header=f"missed@{k}",
            better="lower",
            low=0,
            high=1,
            over="prompts",
            meaning=(
                f"Share of the {k} largest true effects that the estimate ranks below {FAR * k}."
            ),
        ),
    )


def every(ks: Iterable[int], questions: Iterable[str]) -> tuple[Score, ...]:
    """Return the scores of a task that asks further questions (scalars, truths) beside the usual.

    A further question's score is named `influence/spearman.QUESTION`.
    """
    usual = (*ALWAYS, *(score for k in ks for score in at_k(k)))
    further = (
        replace(
            score,
            name=f"{score.name}.{question}",
            header=f"{score.header}, {question}",
            meaning=f"For {question}: {score.meaning}",
        )
        for question in questions
        for score in usual
    )
    return (*usual, *further)
