"""Records as the suite writes them, with made-up but plausible numbers, for figures and board."""

from dataclasses import asdict
from typing import Any

import numpy as np

from gradsae.optim import Optim
from gradsae.records.record import Record
from gradsae.trainers.batchtopk import BatchTopK
from gradsae.trainers.controls import ABOUT as CONTROLS
from gradsae.trainers.gba import GBA
from gradsae.trainers.jumprelu import JumpReLU
from gradsae.trainers.l1 import L1
from gradsae.trainers.topk import TopK

OPTIM = Optim(lr=1e-3)
METHODS = {
    **{
        each.name: each.about
        for each in (
            TopK(d_sae=16, k=2, optim=OPTIM),
            BatchTopK(d_sae=16, k=2, optim=OPTIM),
            L1(d_sae=16, l1=0.1, optim=OPTIM),
            JumpReLU(d_sae=16, coefficient=0.1, optim=OPTIM),
            GBA(d_sae=16, optim=OPTIM),
        )
    },
    **CONTROLS,
}
"""What the writer of a record says of its method."""

PROVENANCE = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "device": "cpu",
    "gpu": None,
    "cpu": "AMD EPYC 9B14",
    "cores": 2,
    "platform": "Linux x86_64",
    "command": "python -m benchmarks.run -m experiment=example",
    "model": {"name": "smollm2", "quantisation": "4-bit-rounded (Q4_1 GGUF)"},
}

TOY = {"source": {"name": "two_sparsity", "n_features": 128, "width": 42}}
SUPERPOSITION = {"source": {"name": "superposition", "n_features": 256, "width": 64, "s": 4}}


def layer(depth: int, corpus: str = "code") -> dict[str, Any]:
    return {
        "source": {"name": "lm_layer", "site": f"resid_post.{depth}"},
        "model": {"name": "smollm2"},
        "corpus": {"name": corpus},
    }


def record(
    task: str, where: dict[str, Any], trainer: dict[str, Any], seed: int, **parts: Any
) -> Record:
    config = {"experiment": "example", **where, "trainer": trainer}
    if "label" in parts:
        config["label"] = parts.pop("label")
    config["experiment"] = parts.pop("experiment", "example")
    scores = {name: float(value) for name, value in parts.pop("scores").items()}
    fields: dict[str, Any] = {
        "task": {"name": task, "version": 1},
        "config": config,
        "seeds": {"world": seed, "data": seed, "init": seed, "eval": 0},
        "created": "2026-11-22T06:15:00+00:00",
        "cost": {
            "seconds": 41.5,
            "forward_equivalents": 0,
            "tokens": 1_536_000,
            "peak_bytes": 800_000_000,
        },
        "provenance": PROVENANCE,
        "scores": scores,
    }
    if trainer.get("name") in METHODS:
        fields["about"] = {"method": asdict(METHODS[trainer["name"]])}
    return Record(**{**fields, **parts})


def curve(rng: np.random.Generator, end_fvu: float, end_l0: float) -> dict[str, list[Any]]:
    step = np.arange(0, 3001, 100)
    decay = np.exp(-step / 400)
    return {
        "step": step.tolist(),
        "fvu": (end_fvu + (1 - end_fvu) * decay + rng.normal(0, 0.004, len(step))).tolist(),
        "l0": (end_l0 * (1 + 4 * decay)).tolist(),
        "dead": (0.08 * (1 - decay)).tolist(),
    }


def frr_curve(frr8: float, frr9: float) -> dict[str, list[Any]]:
    tau = np.linspace(0.3, 0.99, 24)
    middle = 0.85 + 0.1 * (frr9 - 0.5)
    frr = np.clip((frr8 + frr9) / 2 / (1 + np.exp((tau - middle - 0.08) * 25)) * 1.05, 0, 1)
    chance = 1 / (1 + np.exp((tau - 0.5) * 40))
    return {"tau": tau.tolist(), "frr": frr.tolist(), "chance": chance.tolist()}


def density(rng: np.random.Generator, centre: float) -> dict[str, list[Any]]:
    edges = np.linspace(-5, 0, 41)
    count, _ = np.histogram(rng.normal(centre, 0.5, 4096).clip(-5, 0), edges)
    return {"log10_rate": ((edges[1:] + edges[:-1]) / 2).tolist(), "count": count.tolist()}


def recovery(
    where: dict[str, Any],
    trainer: dict[str, Any],
    seed: int,
    frr: tuple[float, float],
    l0: float,
    **parts: Any,
) -> Record:
    """One synthetic cell whose FRR at .8 and .9 is near `frr`."""
    rng = np.random.default_rng([seed, int(l0 * 10), int(frr[0] * 100)])
    frr8, frr9 = (float(np.clip(x + rng.normal(0, 0.02) * (0 < x < 1), 0, 1)) for x in frr)
    scores = {
        "recovery/frr_0.8": frr8,
        "recovery/frr_0.9": frr9,
        "recovery/frr_0.95": frr9 * 0.6,
        "recovery/frr_area": 0.9 * frr8,
        "recovery/mcc": 0.55 + 0.42 * (frr8 + frr9) / 2,
        "recovery/precision_0.9": 0.4 * frr9,
        "recovery/rate_error": 0.12 - 0.1 * frr9,
        "detection/f1": 0.3 + 0.6 * frr9,
        "latents/f1": 0.2 + 0.6 * frr9,
        "coverage/f1": 0.7 * frr9,
        "recovery/mcc/chance": 0.42 + rng.normal(0, 0.004),
        "recovery/frr_0.8/chance": 0.0,
        "recovery/frr_0.9/chance": 0.0,
        "reconstruction/fvu": 0.3 - 0.25 * frr9 + rng.normal(0, 0.003),
        "sparsity/l0": l0,
        "sparsity/dead": 0.05,
    }
    series = parts.pop("series", None) or {
        "training/curve": curve(rng, scores["reconstruction/fvu"], l0),
        "recovery/frr_curve": frr_curve(frr8, frr9),
        "sparsity/density": density(rng, -1.6),
    }
    skipped = {"lm/kl": "the source is not a language model"}
    n = {"recovery/mcc": 128}
    return record(
        "recovery",
        where,
        trainer,
        seed,
        scores=scores,
        series=series,
        skipped=skipped,
        n=n,
        **parts,
    )


WORLD = {"n_features": 128, "width": 42, "l0": 4, "exponent": 0.5, "noise": 0.1}


def swept(experiment: str, trainer: dict[str, Any], seed: int, /, **source: Any) -> Record:
    """One cell of an experiment of `benchmarks.figures.swept` or `resonance`."""
    where = {"source": {"name": "superposition", "coefficients": "balanced", **WORLD, **source}}
    return recovery(where, trainer, seed, (0.95, 0.7), 4.0, experiment=experiment)


def lm_recovery(trainer: dict[str, Any], seed: int, l0: float, fvu: float) -> Record:
    rng = np.random.default_rng([seed, int(l0)])
    scores = {
        "consistency/mcs_0.9": 0.3 + rng.normal(0, 0.01),
        "reconstruction/fvu": fvu + rng.normal(0, 0.004),
        "reconstruction/fvu/with_outliers": 0.02,
        "sparsity/l0": l0 + rng.normal(0, 0.3),
        "sparsity/dead": 0.03,
        "lm/ce_recovered": 0.97 - fvu / 5 + rng.normal(0, 0.002),
        "lm/kl": 0.1 + fvu / 2,
    }
    series = {
        "training/curve": curve(rng, fvu, l0),
        "sparsity/density": density(rng, -2.6 + l0 / 100),
    }
    skipped = {"recovery": "lm_layer has no known features"}
    return record(
        "recovery", layer(15), trainer, seed, scores=scores, series=series, skipped=skipped
    )


def lm_consistency(trainer: dict[str, Any], share: float) -> Record:
    """Three seeds of one method; the fewer latents a rule keeps, the more are found."""
    alphas = [0.001, 0.01, 0.05, 1.0]
    rules = ["act", "z", "rate", "mean"]
    columns = {
        "rule": [rule for rule in rules for _ in alphas],
        "alpha": alphas * len(rules),
        "share": [share ** (alpha**0.1) for _ in rules for alpha in alphas],
        "cosine": [0.5 + share / 4] * (len(rules) * len(alphas)),
    }
    name = "consistency/mcs_0.9"
    scores = {name: share, f"{name}/chance": 0.0, "consistency/pw_mcc": 0.4 + share / 2}
    for rule in rules:
        scores |= {f"{name}/top_{rule}_{p}": share ** ((p / 100) ** 0.1) for p in (1, 5)}
    intervals = {k: [v - 0.05, v + 0.04] for k, v in scores.items() if not k.endswith("/chance")}
    fields: dict[str, Any] = {"series": {"consistency/selection": columns}, "intervals": intervals}
    return record("consistency", layer(15), trainer, 0, scores=scores, **fields)


def grid(trainer: dict[str, Any], seed: int, experiment: str) -> Record:
    """Three settings of k on one world; the second is the best."""
    scores = {"recovery.mcc": [0.5, 0.8, 0.7], "recovery.frr_0.9": [0.1, 0.4, 0.3]}
    columns = {"k": [8, 16, 32], "is_default": [True, False, False], **scores}
    where = {**SUPERPOSITION, "ask": {"settings": [{"k": 8}, {"k": 16}, {"k": 32}]}}
    return record(
        *("grid", where, trainer, seed),
        scores={"recovery/mcc": 0.5},
        series={"grid/scores": {**columns, "detection.f1": [0.2, 0.6, 0.5]}},
        label="plain",
        experiment=experiment,
    )


QUALITY = {"grad_times_act": 0.95, "released_gradsae": 0.45, "mean_act": 0.35, "random": 0.0}
COST = {"grad_times_act": 3.0, "released_gradsae": 3.0, "mean_act": 1.0, "random": 0.0}


def influence(depth: int, trainer: dict[str, Any], seed: int, prompts: int = 24) -> Record:
    rng = np.random.default_rng([seed, depth])
    scores: dict[str, float] = {"influence/cost/ablation": 180.0}
    intervals, n, columns = {}, {"influence/prompts": prompts}, {}
    effect = rng.standard_t(2, 1200) * 0.02
    for name, quality in QUALITY.items():
        noise = rng.standard_t(3, 1200) * 0.02
        estimate = quality * effect + np.sqrt(1 - quality**2) * noise
        columns[name] = (np.abs(estimate) if name != "grad_times_act" else estimate).tolist()
        mid = quality - 0.002 * depth * (name == "released_gradsae") + rng.normal(0, 0.01)
        for score, scale in [("spearman", 1), ("pearson", 0.95), ("precision_at_10", 0.9)]:
            key = f"influence/{score}/{name}"
            scores[key] = scale * mid
            intervals[key] = [scale * mid - 0.03, scale * mid + 0.025]
            n[key] = prompts
        scores[f"influence/sign_agreement/{name}"] = 0.5 + 0.45 * quality
        scores[f"influence/cost/{name}"] = COST[name]
    scatter = {
        "prompt": (np.arange(1200) % prompts).tolist(),
        "latent": rng.integers(0, 4096, 1200).tolist(),
        "effect": effect.tolist(),
        **columns,
    }
    series = {"influence/scatter": scatter, **_checks(prompts)}
    return record(
        *("influence", layer(depth), trainer, seed),
        scores=scores,
        intervals=intervals,
        n=n,
        series=series,
    )


def _checks(prompts: int) -> dict[str, dict[str, list[Any]]]:
    """Recall that rises to 1 at 200 of the 200 active latents of each prompt."""
    checks = [0, 5, 10, 20, 50, 200]
    rows = [(name, k, n) for name in QUALITY for n in checks for k in (5, 10)]
    recall = [QUALITY[name] + (1 - QUALITY[name]) * max(n, k) / 200 for name, k, n in rows]
    columns = {
        **{"estimator": [name for name, _, _ in rows], "k": [k for _, k, _ in rows]},
        **{"checks": [n for _, _, n in rows], "recall": recall},
        "cost": [COST[name] + n / 2 for name, _, n in rows],
    }
    per_prompt = {"prompt": list(range(prompts)), "text": ["The war"] * prompts}
    per_prompt |= {name: [200] * prompts for name in ("n_active", "n_ablated")}
    per_prompt["target"] = [" of"] * prompts
    return {"influence/recall_after_checks": columns, "influence/per_prompt": per_prompt}


def steering(trainer: dict[str, Any], seed: int) -> Record:
    strength = {"grad_times_act": 1.0, "mean_act": 0.35, "random_matched": 0.05}
    rows: list[dict[str, Any]] = []
    for selector, power in strength.items():
        for mode, doses in [("scale", [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]), ("set", [0.0, 1.0, 4.0])]:
            for dose in doses:
                x = dose - 1 if mode == "scale" else dose
                effect, kl = (
                    power * np.tanh(x / 2) * 1.5,
                    (0.02 + 0.05 * power) * x * x / (1 + x / 9),
                )
                rows.append(
                    {
                        **{"selector": selector, "mode": mode, "dose": dose, "effect": effect},
                        **{"effect_low": effect - 0.15, "effect_high": effect + 0.15},
                        **{"kl_rest": kl, "kl_low": 0.8 * kl, "kl_high": 1.2 * kl},
                        "ppl_ratio": 1 + kl / 5,
                    }
                )
    series = {
        "steering/dose_response": {
            key: [float(r[key]) if not isinstance(r[key], str) else r[key] for r in rows]
            for key in rows[0]
        },
        "steering/samples": {
            "selector": ["grad_times_act"],
            "dose": [4.0],
            "before": ["The <b>president</b>"],
            "after": ["def president(self):"],
        },
    }
    scores = {
        f"steering/{what}/{selector}": value * power + (what == "ppl_ratio")
        for selector, power in strength.items()
        for what, value in [
            ("selectivity", 3.0),
            ("effect", 1.2),
            ("kl_rest", 0.4),
            ("ppl_ratio", 0.1),
        ]
    }
    return record("steering", layer(15), trainer, seed, scores=scores, series=series)


def gba_toy() -> list[Record]:
    recipes: list[tuple[str, dict[str, Any], tuple[float, float], float]] = [
        ("TopK K=10", {"name": "topk", "k": 10}, (1.0, 0.93), 10),
        ("TopK K=20", {"name": "topk", "k": 20}, (0.88, 0.48), 20),
        ("TopK K=30", {"name": "topk", "k": 30}, (0.6, 0.2), 30),
        ("TopK K=50", {"name": "topk", "k": 50}, (0.3, 0.05), 50),
        ("GBA, as published (a = 1)", {"name": "gba", "scale_init": 1.0}, (0.0, 0.0), 12),
        ("GBA, a = .05, tied", {"name": "gba", "scale_init": 0.05}, (0.96, 0.2), 9),
        (
            "GBA, a = .05, untied, quantile start",
            {"name": "gba", "scale_init": 0.05, "tied": False},
            (1.0, 1.0),
            9,
        ),
        (
            "GBA, wrong frequency range",
            {"name": "gba", "htf": 0.01, "ltf": 0.0001},
            (0.35, 0.03),
            4,
        ),
    ]
    return [
        recovery(TOY, trainer, seed, frr, l0, label=label, experiment="gba_toy")
        for label, trainer, frr, l0 in recipes
        for seed in range(5)
    ]


def all_records() -> list[Record]:
    topk, l1, gba = {"name": "topk", "k": 32}, {"name": "l1", "lam": 0.01}, {"name": "gba"}
    methods = [(topk, (0.95, 0.7), 4.0), (l1, (0.8, 0.5), 7.5), (gba, (0.98, 0.9), 3.8)]
    found = gba_toy()
    found += [
        recovery(SUPERPOSITION, trainer, seed, frr, l0)
        for trainer, frr, l0 in methods
        for seed in range(3)
    ]
    for seed in range(3):
        found += [
            lm_recovery({"name": "topk", "k": k}, seed, k, fvu)
            for k, fvu in [(16, 0.42), (32, 0.35), (64, 0.28)]
        ]
        found += [
            lm_recovery({"name": "l1", "lam": lam}, seed, l0, fvu)
            for lam, l0, fvu in [(0.03, 20, 0.5), (0.01, 45, 0.38), (0.003, 110, 0.28)]
        ]
        found.append(lm_recovery(gba, seed, 38, 0.34))
    for trainer in (topk, l1, gba):
        found += [influence(depth, trainer, seed) for depth in (8, 15, 22) for seed in range(1)]
        found.append(steering(trainer, 0))
    consistency = {"consistency/mcs_0.9": 0.31, "consistency/pw_mcc": 0.62}
    chance = {"consistency/mcs_0.9/chance": 0.0, "consistency/pw_mcc/chance": 0.19}
    found.append(record("consistency", layer(15), topk, 0, scores=consistency | chance))
    return found
