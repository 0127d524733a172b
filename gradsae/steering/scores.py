"""The scores of the two tasks of steering: names, directions, ranges and what they mean."""

from gradsae.about import Score

SCORES = (
    Score(
        name="steering/effect",
        header="effect",
        better="higher",
        unit="nats",
        over="prompts",
        meaning=(
            "Log-probability of the target clean minus with the latents switched off: "
            "positive where they support the target."
        ),
    ),
    Score(
        name="steering/kl_rest",
        header="KL of the rest",
        better="lower",
        low=0,
        unit="nats",
        over="prompts",
        meaning=(
            "KL from the clean next-token distribution to that with the latents off, both "
            "without the target: the side effect."
        ),
    ),
    Score(
        name="steering/selectivity",
        header="selectivity",
        better="",
        over="prompts",
        meaning=(
            "Mean effect over the root of twice the mean KL of the rest: 1 where the target "
            "moves as much as a typical other token."
        ),
    ),
    Score(
        name="steering/ppl_ratio",
        header="perplexity ratio",
        better="lower",
        low=0,
        over="prompts",
        meaning=(
            "Perplexity of unrelated text with the latents off, over that of the clean "
            "model; 1 is no damage."
        ),
    ),
    Score(
        name="steering/advantage",
        header="advantage",
        better="higher",
        unit="nats",
        over="prompts",
        meaning=("Effect of grad x act minus that of matched random latents, paired."),
    ),
    Score(
        name="steering/match_gap",
        header="match gap",
        better="lower",
        low=0,
        over="prompts",
        meaning=(
            "Mean absolute log ratio of the strengths of chosen and matched latents; 0 is a "
            "perfect match."
        ),
    ),
    Score(
        name="steering/slope",
        header="slope",
        better="",
        unit="nats",
        over="prompts",
        meaning=(
            "Gradient of the log-probability of the target by a factor on its latents, at factor 1."
        ),
    ),
    Score(
        name="steering/slope_gap",
        header="slope gap",
        better="lower",
        low=0,
        over="prompts",
        meaning=(
            "Share by which finite differences depart from that gradient: a check of the edits."
        ),
    ),
)

BUDGET_SCORES = (
    Score(
        name="budget/effect_at_kl",
        header="effect at KL",
        better="higher",
        unit="nats",
        over="prompts",
        meaning=(
            "Rise of the target's log-probability where the KL of the rest reaches its budget."
        ),
    ),
    Score(
        name="budget/effect_at_ppl",
        header="effect at ppl",
        better="higher",
        unit="nats",
        over="prompts",
        meaning=(
            "Rise of the target's log-probability where the perplexity of unrelated text "
            "has risen by its budget, whatever the KL."
        ),
    ),
    Score(
        name="budget/safe_effect",
        header="safe effect",
        better="higher",
        unit="nats",
        over="prompts",
        meaning=("The same at the last dose at which neither KL nor perplexity passed its budget."),
    ),
    Score(
        name="budget/safe_dose",
        header="safe dose",
        better="",
        low=0,
        over="prompts",
        meaning=("That dose, in units of each latent's largest value on the prompt."),
    ),
    Score(
        name="budget/flips",
        header="flips",
        better="lower",
        low=0,
        high=1,
        over="prompts",
        meaning=("Share of top-1 predictions on unrelated text that changed at it."),
    ),
    Score(
        name="budget/stability",
        header="stability",
        better="higher",
        low=0,
        high=1,
        chance=0.5,
        over="prompts",
        meaning=(
            "Share of positions of unrelated text at which the target moves as it does on "
            "the prompt; half is chance."
        ),
    ),
    Score(
        name="budget/slope_gap",
        header="slope gap",
        better="lower",
        low=0,
        over="prompts",
        meaning=(
            "Share by which finite differences at dose 0 depart from the gradient: a check "
            "of the edits."
        ),
    ),
    Score(
        name="budget/predicts",
        header="predicts",
        better="higher",
        low=-1,
        high=1,
        over="prompts",
        meaning=(
            "Rank correlation, over latents steered alone, of the size of the score and of "
            "the effect at the KL budget."
        ),
    ),
    Score(
        name="budget/predicts_signed",
        header="predicts, signed",
        better="higher",
        low=-1,
        high=1,
        over="prompts",
        meaning=("The same of the signed values."),
    ),
    Score(
        name="budget/grad_predicts_better",
        header="grad x act predicts better by",
        better="",
        low=-2,
        high=2,
        over="prompts",
        meaning=("Rank correlation of grad x act minus that of this score."),
    ),
    Score(
        name="budget/reached",
        header="reached",
        better="",
        low=0,
        high=1,
        over="prompts",
        meaning=("Share of prompts where the KL budget was reached."),
    ),
    Score(
        name="budget/reached_ppl",
        header="reached, ppl",
        better="",
        low=0,
        high=1,
        over="prompts",
        meaning=("Share of prompts where the perplexity budget was reached."),
    ),
    Score(
        name="budget/ppl_ratio",
        header="perplexity ratio",
        better="lower",
        low=0,
        over="prompts",
        meaning=(
            "Perplexity of unrelated text at the last safe dose, over that of the clean model."
        ),
    ),
    Score(
        name="budget/advantage",
        header="advantage",
        better="higher",
        unit="nats",
        over="prompts",
        meaning=("Effect at the KL budget minus that of matched random latents, paired."),
    ),
)
