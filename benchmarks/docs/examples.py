"""Examples that the documentation shows: shortened records, and the notebook."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradsae.records.record import load

EXAMPLES = {
    "recovery": "fe4265319a0eb4e4",
    "consistency": "9b4fb6d4dbef2a4e",
    "grid": "c5a73d322333be49",
    "influence": "f53670f912259479",
    "masking": "fdbc52bacf6226e2",
    "steering": "ff36bee474881ae6",
    "steering_budget": "519051f942b3421a",
}
"""Task: the id of a published record that shows its shape."""
READING = {
    "recovery": "`config.ask` names the metrics and their settings. A metric gives several scores.",
    "consistency": "`config.ask.others` are the seeds of the other trainings, each with data and "
    "initial weights of its own. `top_act_1` is the first 1 % of latents by maximum activation.",
    "grid": "`config.ask.settings` are the settings tried. The scores are those of the default, "
    "which is a setting among them; `grid/scores` has a row for each.",
    "influence": "The last part of a score's name is the estimator. `influence/per_prompt` has "
    "a row for each prompt, `influence/scatter` one for each latent.",
    "masking": "The last part is the estimator that ranked the latents. `rankings` in `ask` is the "
    "list of estimators: the key is older than the word.",
    "steering": "The last part is the estimator that chose the latents.",
    "steering_budget": "As steering; `safe` is the share of prompts within both budgets.",
}


def examples(folder: Path) -> str:
    """Return one shortened record per task, each with a line on how to read it."""
    parts = []
    for task, name in EXAMPLES.items():
        record = asdict(load(folder / f"{name}.json"))
        text = json.dumps(shortened(record), indent=2, ensure_ascii=False)
        text = text.replace("`", "\\u0060")  # the same JSON, and no end of the block
        parts.append(f"### {task}\n\n{READING[task]}\n\n```json\n{text}\n```")
    return "\n\n".join(parts)


def shortened(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a record depends on its task, with few scores and two rows a series."""
    series = {
        name: {column: values[:2] for column, values in list(columns.items())[:4]}
        for name, columns in list(record["series"].items())[:2]
    }
    return {
        "id": record["id"],
        "task": record["task"],
        "config": {"ask": record["config"]["ask"]},
        "seeds": record["seeds"],
        **{key: dict(list(record[key].items())[:4]) for key in ("scores", "intervals", "n")},
        "skipped": record["skipped"],
        "series": series,
        "cost": record["cost"],
        "artifacts": record["artifacts"],
    }


def notebook(path: Path) -> str:
    """Return the example for notebooks as a block of code."""
    return f"```python\n{path.read_text().strip()}\n```"
