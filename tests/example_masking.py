"""Records of masking and of steering on a budget, with made-up but plausible numbers."""

from collections import defaultdict
from typing import Any

import numpy as np
from example_records import layer, record

from gradsae.records.record import Record

POWER = {"oracle": 1.0, "grad_times_act": 0.9, "released_mark": 0.4, "mean_act": 0.2}
POWER |= {"random_matched": 0.1, "random": 0.02}
KS = (1, 10, 30)
TEXT = "Anna has a dog. Tom has a <b>cat</b>.\nQuestion: Which animal does Tom have?\nAnswer:"


def _table(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            table[name].append(value)
    return dict(table)


def masking(depth: int, trainer: dict[str, Any], seed: int) -> Record:
    curve = []
    for ranking, power in POWER.items():
        for kind in ("top", "bottom", "keep"):
            if (ranking, kind) in (("random_matched", "bottom"), ("random_matched", "keep")):
                continue
            for k in KS:
                drop = 4 * power * np.log1p(k) / np.log1p(30)
                drop = {"top": drop, "bottom": 0.01, "keep": 4 - drop}[kind]
                line = {"ranking": ranking, "kind": kind, "k": str(k), "n_latents": float(k)}
                line |= {"drop": drop, "mark_drop": 0.5 * drop, "faithfulness": 1 - drop / 4}
                line |= {"em": max(0.0, 1 - drop / 2), "f1": max(0.0, 1 - drop / 3)}
                curve.append(line | {"drop_low": drop - 0.2, "drop_high": drop + 0.2, "n": 20})
    rng = np.random.default_rng([seed, depth])
    truth = np.sort(rng.standard_t(2, 30))[::-1]
    names = [name for name in POWER if name != "random_matched"]
    noisy = {n: POWER[n] * truth + (1 - POWER[n]) * rng.standard_t(3, 30) for n in names}
    ranks = {f"rank.{n}": (np.argsort(np.argsort(-v)) + 1).tolist() for n, v in noisy.items()}
    tokens = TEXT.split(" ")
    latents = {"question": [0] * 30, "latent": rng.permutation(4096)[:30].tolist()}
    latents |= {"peak": rng.integers(0, len(tokens), 30).tolist()}
    latents |= {n: v.tolist() for n, v in noisy.items()} | ranks
    asked = {"question": 0, "context": 0, "text": TEXT, "answer": "cat", "n_tokens": len(tokens)}
    asked |= {"n_active": 30, "log_prob": -0.4, "log_prob_without_latents": -6.2}
    tables = {
        "masking/curve": _table(curve),
        "masking/questions": _table([asked]),
        "masking/latents": latents,
        "masking/tokens": {
            "question": [0] * len(tokens),
            "position": list(range(len(tokens))),
            "token": [f" {token}" for token in tokens],
        },
    }
    scores = {f"masking/drop/{n}": 3 * p for n, p in POWER.items()}
    return record(
        *("masking", layer(depth), trainer, seed),
        scores=scores,
        intervals={name: [v - 0.2, v + 0.2] for name, v in scores.items()},
        n={"masking/questions": 20} | {name: 10 for name in scores},
        series=tables,
    )


def budget(depth: int, trainer: dict[str, Any], seed: int) -> Record:
    rows, scores = [], {}
    for selector, power in (("grad_times_act", 1.0), ("mean_act", 0.3), ("random_matched", 0.05)):
        for dose in (0.1, 0.4, 1.6, 6.4):
            effect = power * np.tanh(dose)
            line = {"selector": selector, "dose": dose, "effect": effect}
            line |= {"effect_low": effect - 0.1, "effect_high": effect + 0.1}
            rows.append(line | {"kl_rest": 0.02 * dose**2, "safe": 1.0, "n": 20})
        scores[f"budget/effect_at_kl/{selector}"] = power
        if selector != "random_matched":
            scores[f"budget/predicts/{selector}"] = 0.6 * power
    return record(
        *("steering_budget", layer(depth), trainer, seed),
        scores=scores,
        intervals={name: [v - 0.1, v + 0.1] for name, v in scores.items()},
        n={"budget/prompts": 20} | {name: 20 for name in scores},
        series={"budget/ladder": _table(rows)},
    )
