"""What each score means, in one place: tables, board and figures take their words from here."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Score:
    header: str
    """Short, for the head of a column."""

    better: str
    """higher, lower, or the empty string where neither is."""

    bounds: str
    meaning: str


SCORES: dict[str, Score] = {
    "recovery/frr_0.8": Score(
        header="FRR .8",
        better="higher",
        bounds="0 to 1",
        meaning="Feature recovery rate: share of true features that some latent matches with "
        "a cosine above 0.8.",
    ),
    "recovery/frr_0.9": Score(
        header="FRR .9",
        better="higher",
        bounds="0 to 1",
        meaning="The same with a cosine above 0.9.",
    ),
    "recovery/mcc": Score(
        header="MCC",
        better="higher",
        bounds="-1 to 1",
        meaning="Mean cosine of each true feature with its latent in the best one-to-one "
        "matching; a feature left without a latent counts 0.",
    ),
    "recovery/precision_0.9": Score(
        header="precision .9",
        better="higher",
        bounds="0 to 1",
        meaning="Share of live latents that match some true feature with a cosine above 0.9.",
    ),
    "recovery/rate_error": Score(
        header="rate error",
        better="lower",
        bounds="0 to 1",
        meaning="Mean over features of |p - f| / max(p, f), with p the firing rate of the "
        "feature's latent and f its own.",
    ),
    "detection/f1": Score(
        header="F1",
        better="higher",
        bounds="0 to 1",
        meaning="Each feature's latent as a detector of the feature being active: mean F1 over "
        "features; one without a latent counts 0.",
    ),
    "latents/f1": Score(
        header="F1 of latents",
        better="higher",
        bounds="0 to 1",
        meaning="Each latent as a detector of the feature nearest to it: mean F1 over latents, "
        "as in published SynthSAEBench tables. Features that no latent is near cost nothing.",
    ),
    "coverage/f1": Score(
        header="coverage",
        better="higher",
        bounds="0 to 1",
        meaning="Share of all features with a latent whose F1, as a detector of the feature, is "
        "above 0.8.",
    ),
    "consistency/mcs_0.9": Score(
        header="MCS .9",
        better="higher",
        bounds="0 to 1",
        meaning="Share of latents that have a latent of another seed with a cosine above 0.9.",
    ),
    "consistency/pw_mcc": Score(
        header="pairwise MCC",
        better="higher",
        bounds="-1 to 1",
        meaning="MCC between the dictionaries of two seeds, mean over pairs.",
    ),
    "reconstruction/fvu": Score(
        header="FVU",
        better="lower",
        bounds="from 0",
        meaning="Fraction of variance unexplained on held-out activations. A good value is no "
        "sign of recovery.",
    ),
    "reconstruction/fvu/with_outliers": Score(
        header="FVU with outliers",
        better="lower",
        bounds="from 0",
        meaning="The same with the outlier tokens that training and the other scores leave out.",
    ),
    "sparsity/l0": Score(
        header="L0",
        better="",
        bounds="0 to the number of latents",
        meaning="Mean number of active latents per activation. Compare methods at like L0.",
    ),
    "sparsity/dead": Score(
        header="dead",
        better="lower",
        bounds="0 to 1",
        meaning="Share of latents that never fire on held-out activations.",
    ),
    "lm/ce_recovered": Score(
        header="CE recovered",
        better="higher",
        bounds="at most 1",
        meaning="Cross-entropy with the reconstruction spliced in: 1 is that of the untouched "
        "model, 0 that with zeros in its place; an SAE can do worse.",
    ),
    "lm/kl": Score(
        header="KL",
        better="lower",
        bounds="from 0, nats",
        meaning="KL from the model's next-token distribution to that with the reconstruction.",
    ),
    "influence/spearman": Score(
        header="Spearman",
        better="higher",
        bounds="-1 to 1",
        meaning="Rank correlation over the active latents of a prompt between the estimate and "
        "the true effect of ablating the latent; mean over prompts.",
    ),
    "influence/pearson": Score(
        header="Pearson",
        better="higher",
        bounds="-1 to 1",
        meaning="Linear correlation of estimate and true effect; mean over prompts.",
    ),
    "influence/sign_agreement": Score(
        header="sign",
        better="higher",
        bounds="0 to 1",
        meaning="Share of the total absolute effect whose sign the estimate has.",
    ),
    "influence/precision_at_10": Score(
        header="P@10",
        better="higher",
        bounds="0 to 1",
        meaning="Share of the ten largest estimates that are among the ten largest true effects; "
        "signed, so it is about the latents that support the target.",
    ),
    "influence/kendall": Score(
        header="Kendall",
        better="higher",
        bounds="-1 to 1",
        meaning="Kendall's tau-b between estimate and true effect; mean over prompts.",
    ),
    "influence/effect_recall_at_10": Score(
        header="effect@10",
        better="higher",
        bounds="at most 1",
        meaning="True effect of the ten largest estimates over that of the ten largest effects.",
    ),
    "influence/ndcg_at_10": Score(
        header="NDCG@10",
        better="higher",
        bounds="0 to 1",
        meaning="Discounted gain of the ten largest estimates over the best possible; gains are "
        "the positive true effects.",
    ),
    "influence/false_negatives_at_10": Score(
        header="missed@10",
        better="lower",
        bounds="0 to 1",
        meaning="Share of the ten largest true effects that the estimate ranks below 50.",
    ),
    "influence/calibration_slope": Score(
        header="slope",
        better="",
        bounds="any, 1 is best",
        meaning="Slope of true effect on estimate: above 1 the estimate is too small.",
    ),
    "influence/relative_error": Score(
        header="rel. error",
        better="lower",
        bounds="from 0",
        meaning="Sum of absolute errors over sum of absolute true effects; 1 is that of zeros.",
    ),
    "influence/cost": Score(
        header="cost",
        better="lower",
        bounds="from 0",
        meaning="Forward-equivalents per prompt; a backward pass counts as two forward passes.",
    ),
    "steering/effect": Score(
        header="effect",
        better="higher",
        bounds="nats",
        meaning="Log-probability of the target clean minus with the latents switched off: "
        "positive where they support the target.",
    ),
    "steering/kl_rest": Score(
        header="KL of the rest",
        better="lower",
        bounds="from 0, nats",
        meaning="KL from the clean next-token distribution to that with the latents off, both "
        "without the target: the side effect.",
    ),
    "steering/selectivity": Score(
        header="selectivity",
        better="",
        bounds="any",
        meaning="Mean effect over the root of twice the mean KL of the rest: 1 where the target "
        "moves as much as a typical other token.",
    ),
    "steering/ppl_ratio": Score(
        header="perplexity ratio",
        better="lower",
        bounds="from 0",
        meaning="Perplexity of unrelated text with the latents off, over that of the clean model; "
        "1 is no damage.",
    ),
    "masking/drop": Score(
        header="drop",
        better="higher",
        bounds="nats",
        meaning="Log-probability of the teacher-forced answer minus that with the ranking's first "
        "latents off, on questions that the unedited model answers right.",
    ),
    "masking/mark_drop": Score(
        header="drop of the mark",
        better="",
        bounds="nats",
        meaning="The same of the answer format's bracket, which the GradSAE release scores.",
    ),
    "masking/em": Score(
        header="EM",
        better="lower",
        bounds="0 to 1",
        meaning="Exact match of what the model writes with these latents off; 1 without a mask.",
    ),
    "masking/f1": Score(
        header="F1",
        better="lower",
        bounds="0 to 1",
        meaning="Token F1 of what the model writes with these latents off; 1 without a mask.",
    ),
    "masking/deletion_area": Score(
        header="deletion",
        better="lower",
        bounds="any",
        meaning="Area of faithfulness over log K while the first K go.",
    ),
    "masking/insertion_area": Score(
        header="insertion",
        better="higher",
        bounds="any",
        meaning="Area of faithfulness over log K while only the first K stay.",
    ),
    "masking/oracle_overlap": Score(
        header="true top K",
        better="higher",
        bounds="0 to 1",
        meaning="Share of the ranking's first latents that are first by true effect.",
    ),
    "masking/swap_gain": Score(
        header="swap",
        better="higher",
        bounds="nats",
        meaning="Rise of another answer on the same context when its question's first latents are "
        "put in place of the own ones.",
    ),
    "masking/swap_em": Score(
        header="swap EM",
        better="higher",
        bounds="0 to 1",
        meaning="Exact match of what the steered model writes with that other answer.",
    ),
    "budget/effect_at_kl": Score(
        header="effect at KL",
        better="higher",
        bounds="nats",
        meaning="Rise of the target's log-probability where the KL of the rest reaches its budget.",
    ),
    "budget/effect_at_ppl": Score(
        header="effect at ppl",
        better="higher",
        bounds="nats",
        meaning="Rise of the target's log-probability where the perplexity of unrelated text has "
        "risen by its budget, whatever the KL.",
    ),
    "budget/safe_effect": Score(
        header="safe effect",
        better="higher",
        bounds="nats",
        meaning="The same at the last dose at which neither KL nor perplexity passed its budget.",
    ),
    "budget/safe_dose": Score(
        header="safe dose",
        better="",
        bounds="from 0",
        meaning="That dose, in units of each latent's largest value on the prompt.",
    ),
    "budget/flips": Score(
        header="flips",
        better="lower",
        bounds="0 to 1",
        meaning="Share of top-1 predictions on unrelated text that changed at it.",
    ),
    "budget/stability": Score(
        header="stability",
        better="higher",
        bounds="0 to 1",
        meaning="Share of positions of unrelated text at which the target moves as it does on the "
        "prompt; half is chance.",
    ),
    "budget/slope_gap": Score(
        header="slope gap",
        better="lower",
        bounds="from 0",
        meaning="Share by which finite differences at dose 0 depart from the gradient: a check of "
        "the edits.",
    ),
    "budget/predicts": Score(
        header="predicts",
        better="higher",
        bounds="-1 to 1",
        meaning="Rank correlation, over latents steered alone, of the size of the score and of the "
        "effect at the KL budget.",
    ),
}

ESTIMATORS = (
    *("grad_times_act", "norm_exact", "positive_mean", "released_gradsae", "abs_grad"),
    *("norm_frozen", "relp", "relp_frozen_attention", "grad_drop", "curvature_1", "mean_act"),
    *("output_score", "random_matched", "random"),
)
SELECTORS = ("grad_times_act", "mean_act", "random_matched")
RANKINGS = (
    *("oracle", "grad_times_act", "released_mark", "released_gradsae", "mean_act"),
    *("random_matched", "random"),
)

VARIANTS = {
    "grad_times_act": "grad x act",
    "positive_mean": "GradSAE as printed",
    "released_gradsae": "released GradSAE",
    "abs_grad": "|grad| x act",
    "norm_exact": "gradient, norms exact",
    "norm_frozen": "norms frozen",
    "relp": "RelP",
    "relp_frozen_attention": "RelP, attention frozen",
    "grad_drop": "GradDrop",
    "curvature_1": "curvature, 1 probe",
    "ig_3": "joint-path IG, 3 points",
    "ig_8": "joint-path IG, 8 points",
    "path_ig_1x4": "own-path IG, 4 latents",
    "screen_verify_10fe": "screen, verify to 10",
    "screen_size_verify_10fe": "screen and size, verify to 10",
    "screen_by_size_verify_10fe": "screen, verify the largest to 10",
    "part_verify_10fe": "part, verify to 10",
    "part_verify_20fe": "part, verify to 20",
    "hop_lean10_10fe": "hop, verify to 10",
    "hop_lean10_20fe": "hop, verify to 20",
    "mean_act": "mean act",
    "random": "random",
    "random_matched": "random, matched",
    "random_direction": "random direction",
    "ablation": "ablation (truth)",
    "oracle": "true effect",
    "oracle_greedy": "true effect, greedy",
    "released_mark": "released, on the bracket",
    "output_score": "output score",
    "chance": "chance",
}

FORERUNNERS = ("first_hop_", "hop_verify_", "hop_top10_", "hop_doubt10_")
"""How the names of earlier forms of `hop_then_verify` begin. What they gave is in results/LOG.md;
older records hold them, tables and figures leave them out."""

CONTROLS = ("random", "random_matched", "random_direction", "chance")

COLUMNS: dict[str, tuple[str, ...]] = {
    "recovery": (
        *("recovery/mcc", "recovery/frr_0.8", "recovery/frr_0.9", "recovery/precision_0.9"),
        *("recovery/rate_error", "detection/f1", "consistency/mcs_0.9", "reconstruction/fvu"),
        *("lm/ce_recovered", "lm/kl", "sparsity/l0", "sparsity/dead"),
    ),
    "grid": (
        *("recovery/mcc", "recovery/frr_0.9", "detection/f1", "reconstruction/fvu"),
        *("sparsity/l0", "sparsity/dead"),
    ),
    "consistency": ("consistency/mcs_0.9", "consistency/pw_mcc"),
    "influence": (
        *("influence/spearman", "influence/pearson", "influence/sign_agreement"),
        *("influence/precision_at_10", "influence/cost"),
    ),
    "steering": (
        *("steering/effect", "steering/kl_rest", "steering/selectivity", "steering/ppl_ratio"),
    ),
    "masking": (
        *("masking/drop", "masking/mark_drop", "masking/em", "masking/f1"),
        *("masking/deletion_area", "masking/insertion_area", "masking/oracle_overlap"),
        *("masking/swap_gain", "masking/swap_em"),
    ),
    "steering_budget": (
        *("budget/effect_at_kl", "budget/effect_at_ppl", "budget/safe_effect"),
        *("budget/safe_dose", "budget/flips", "budget/stability"),
        *("budget/predicts", "budget/slope_gap"),
    ),
}
"""Columns of the tables of a task; of a grid, the default's. Influence and steering have a line per
variant."""

ONLY_ON_THE_BOARD = {
    *("recovery/precision_0.9", "recovery/rate_error", "lm/kl"),
}
"""Left out of the tables on the terminal, to keep them narrow."""


def header(name: str) -> str:
    """Column head of any score, known or not."""
    base, _, variant = name.rpartition("/")
    if name in SCORES:
        return SCORES[name].header
    if base in SCORES:
        return f"{SCORES[base].header} {VARIANTS.get(variant, variant)}"
    return name


def format_score(value: float | None) -> str:
    """Three decimals, or three digits of what is larger; a dash for what is absent."""
    if value is None:
        return "-"
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 100_000 or size < 0.0005:
        return f"{value:.1e}"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3f}"
