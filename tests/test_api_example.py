"""The notebook example of the README, run small: another model, fewer steps, the same lines."""

from pathlib import Path
from typing import Any

import pytest

SNIPPET = Path(__file__).parents[1] / "docs" / "snippets" / "notebook.py"
SMALLER = {
    '"smollm2"': '"tiny_random"',
    '"lm_layer", d_sae=2048, k=32': "activations, d_sae=64, k=4, steps=20",
    '"lm_layer"': "activations",
    "suitability(activations": "suitability(activations, d_sae=64, k=4, steps=20",
}
"""Nothing is fetched: the activations of 40 texts at block 1 of the random model stand for those
of a layer of SmolLM2."""


@pytest.fixture(scope="module")
def ran() -> dict[str, Any]:
    import torch

    import gradsae
    from gradsae.lm.sites import parse_site

    lm = gradsae.load_model("tiny_random")
    texts = torch.randint(0, 256, (40, 24), generator=torch.Generator().manual_seed(0))
    acts = lm.read(parse_site("resid_post.1"), texts)[:, 1:].flatten(0, 1)
    code = SNIPPET.read_text()
    for ours, smaller in SMALLER.items():
        assert ours in code, f"the snippet no longer holds {ours}"
        code = code.replace(ours, smaller)
    code = code.replace('target=" Paris"', 'target=" Paris", site="resid_post.1"')
    code = code.replace("dose=[0, 2, 4]", 'dose=[0, 2, 4], site="resid_post.1", n_tokens=3')
    names: dict[str, Any] = {"activations": acts}
    exec(compile(code, str(SNIPPET), "exec"), names)
    return names


def test_the_example_has_at_most_ten_lines():
    assert len(SNIPPET.read_text().split("\n\n", 1)[1].strip().splitlines()) <= 10


def test_every_line_of_the_example_gives_what_its_comment_says(ran: dict[str, Any]):
    assert {"effect", "grad_times_act", "hop_lean10_10fe"} <= set(ran["frame"].columns)
    assert len(ran["frame"]) == len(ran["table"]) > 3
    assert ran["steered"]["edit"] == ["none", "scale 0", "scale 2", "scale 4"]
    assert "sparsity/l0" in ran["scores"]["score"]
    assert "Suitability" in ran["fit_for_gba"].title


def test_the_results_show_themselves_in_a_notebook(ran: dict[str, Any]):
    for name in ("table", "steered", "scores", "fit_for_gba"):
        html = ran[name]._repr_html_()
        assert html.count("<table>") == 1 + len(ran[name].parts)
        assert "<script" not in html
