"""The functions of a notebook against the tasks, against plain hooks, and against bad input."""

import inspect
import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from tiny_models import random_lm
from tiny_prompts import Windows, random_sae, tiny_lm
from torch import Tensor

import gradsae
from gradsae.api.influence import known_estimators, make_estimator
from gradsae.api.table import Token
from gradsae.errors import UserError
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.task import Influence
from gradsae.interfaces import Scores
from gradsae.lm.sites import parse_site
from gradsae.prompts.sets import GivenPrompts
from gradsae.sources.two_sparsity import TwoSparsity
from gradsae.steering.doses import respond
from gradsae.steering.interventions import Intervention, read

SITE = "resid_post.1"
TEXT = "The capital of France"


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.fixture(scope="module")
def table(lm) -> gradsae.Table:
    chosen = ["grad_times_act", "mean_act"]
    return gradsae.influence(lm, random_sae(), TEXT, site=SITE, target="x", estimators=chosen)


def test_importing_gradsae_imports_no_torch_and_its_names_are_there():
    code = (
        "import sys, gradsae\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(gradsae.__all__) <= set(dir(gradsae))\n"
        "for name in gradsae.__all__: getattr(gradsae, name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["influence", "suitability"])
def test_a_package_of_the_name_of_a_function_is_called_like_it(name: str):
    package = __import__(f"gradsae.{name}", fromlist=["x"])
    function = __import__(f"gradsae.api.{name}", fromlist=["x"])
    assert callable(package)
    assert inspect.signature(package) == inspect.signature(getattr(function, name))


def test_influence_has_the_numbers_that_the_task_writes(lm, table):
    """Effects, estimates, costs and agreement of a record, to the last digit."""
    task = Influence(
        prompts=GivenPrompts(texts=[TEXT], targets=["x"]),
        estimators=[GradTimesAct(), MeanAct()],
        ks=(10,),
    )
    record = task.measure(random_sae(), Windows(lm, place=SITE), 0)
    assert isinstance(record, Scores)
    scatter = record.series["influence/scatter"]
    ours = {row["latent"]: row for row in table.rows}
    assert set(scatter["latent"]) == set(ours)
    for i, latent in enumerate(scatter["latent"]):
        for name in ("effect", "grad_times_act", "mean_act"):
            assert ours[latent][name] == scatter[name][i]
    for row in table.parts["estimators"].rows:
        assert row["cost"] == record.scores[f"influence/cost/{row['estimator']}"]
        if row["estimator"] != "ablation":
            for measure in ("spearman", "precision_at_10", "sign_agreement"):
                name = f"influence/{measure}/{row['estimator']}"
                assert row[measure] == record.scores[name]


def test_the_true_effect_is_that_of_plain_hooks(lm, table):
    """A hook on block 1 takes out what one latent writes; log-probabilities by torch alone."""
    sae, ids = random_sae(), lm.prompt(TEXT)
    target = int(lm.tokenize("x", special=False)[0][0])
    block = lm.model.model.layers[1]

    def log_prob(edit: Any = None) -> float:
        handle = block.register_forward_hook(edit) if edit else None
        logits = lm.model(ids).logits[0, -1]
        if handle:
            handle.remove()
        return logits.log_softmax(-1)[target].item()

    acts: list[Tensor] = []
    log_prob(lambda module, args, out: acts.append(out[0] if isinstance(out, tuple) else out))
    codes = sae(acts[0][0]).codes.to_dense().clone()
    codes[0] = 0  # position 0 is left out of every edit
    for row in table.rows[:5]:
        written = codes[:, row["latent"], None] * sae.decoder()[row["latent"]]

        def without(module: Any, args: Any, out: Any, written: Tensor = written) -> Any:
            if isinstance(out, tuple):
                return (out[0] - written, *out[1:])
            return out - written

        assert log_prob() - log_prob(without) == pytest.approx(row["effect"], abs=2e-5)
        assert row["activation"] == pytest.approx(codes[:, row["latent"]].max().item(), rel=1e-5)


def test_without_the_truth_the_first_estimator_orders_the_rows(lm):
    found = gradsae.influence(
        lm, random_sae(), TEXT, site=SITE, estimators=["mean_act"], truth=False
    )
    assert "effect" not in found.columns
    assert list(found["mean_act"]) == sorted(found["mean_act"], reverse=True)
    assert found.parts["estimators"]["estimator"] == ["mean_act"]


def test_readers_see_the_labels_that_components_declare_and_code_their_names(table):
    part = table.parts["estimators"]
    for view in (repr(table), table._repr_html_()):
        assert GradTimesAct().about.label in view and "grad_times_act" not in view
        assert "Spearman" in view and "ablation (truth)" in view
    assert {"grad_times_act", "mean_act"} <= set(table.to_pandas().columns)
    assert list(part.to_pandas()["estimator"]) == ["grad_times_act", "mean_act", "ablation"]
    assert "spearman" in part.columns


def test_every_estimator_is_built_by_the_name_of_its_module():
    assert {"grad_times_act", "hop_then_verify", "mean_act"} <= set(known_estimators())
    for name in known_estimators():
        assert make_estimator(name).name


def test_steering_has_the_effects_of_the_task_and_no_effect_where_nothing_is_changed(lm, table):
    latents = table["latent"][:2]
    found = gradsae.steer(
        lm, random_sae(), TEXT, latents, [0, 1, 3], target="x", site=SITE, n_tokens=2
    )
    text = read(Windows(lm, place=SITE), random_sae(), lm.prompt(TEXT)[0])
    columns = torch.tensor([text.seen.latents.tolist().index(one) for one in latents])
    edits = [Intervention(mode="scale", dose=float(dose)) for dose in (0, 1, 3)]
    target = int(lm.tokenize("x", special=False)[0][0])
    known = respond(text, target, text.choose(columns), edits, batch_rows=8)
    assert found["effect"][1:] == pytest.approx(known.effect.tolist(), abs=1e-12)
    assert found["kl_rest"][1:] == pytest.approx(known.kl_rest.tolist(), abs=1e-12)
    assert (found["effect"][2], found["logit_change"][2], found["kl_rest"][2]) == (0, 0, 0)
    assert found["text"][0] == found["text"][2]  # dose 1 of mode scale


def test_a_latent_that_does_not_fire_needs_a_reference(lm, table):
    silent = next(i for i in range(64) if i not in table["latent"])
    with pytest.raises(UserError, match="does not fire on this prompt"):
        gradsae.steer(lm, random_sae(), TEXT, silent, 1.0, mode="set", site=SITE, n_tokens=0)
    found = gradsae.steer(
        lm, random_sae(), TEXT, silent, 1.0, mode="set", site=SITE, n_tokens=0, reference=5.0
    )
    assert found["effect"][1] != 0


def test_a_model_in_memory_gives_the_numbers_of_the_loaded_one(lm, table):
    wrapped = gradsae.load_model(lm.model, lm.tokenizer)
    assert wrapped.device == lm.device
    again = gradsae.influence(
        wrapped, random_sae(), TEXT, site=SITE, target="x", estimators=["grad_times_act"]
    )
    assert again["effect"] == table["effect"]
    with pytest.raises(UserError, match="needs its tokenizer"):
        gradsae.load_model(lm.model)


def test_a_saved_sae_comes_back_with_its_place(tmp_path, lm, table):
    placed = gradsae.load_sae(random_sae(), site=SITE)
    back = gradsae.load_sae(placed.save(tmp_path / "sae"))
    assert back.site == parse_site(SITE)
    again = gradsae.influence(lm, back, TEXT, target="x", estimators=["mean_act"])
    assert again["effect"] == table["effect"]


def test_training_by_name_is_the_recipe_of_the_command(monkeypatch):
    """The fields of conf/trainer/gba.yaml, not those of the class."""
    from gradsae.api.train import make_method

    ours: Any = make_method("gba", {"d_sae": 64, "htf": 0.2})
    assert (ours.d_sae, ours.htf, ours.ltf, ours.scale_init) == (64, 0.2, 0.005, 0.05)
    topk: Any = make_method("topk", {"d_sae": 64, "k": 4, "lr": 0.5})
    assert (topk.k, topk.optim.lr) == (4, 0.5)


def test_an_oracle_takes_the_features_of_a_source_that_knows_them_and_no_other():
    world = TwoSparsity(n_features=8, width=6, sparsities=(1, 2))
    sae = gradsae.train("ceiling_linear", world, d_sae=8, steps=1)
    cosines = (sae.sae.decoder() @ world.features().mT).max(0).values
    torch.testing.assert_close(cosines, torch.ones(8))
    with pytest.raises(UserError, match="source activations has no known features"):
        gradsae.train("ceiling_linear", torch.ones(4, 6), d_sae=8)


def test_training_on_activations_reduces_the_error_and_scores_say_so():
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 12, generator=generator), dim=1)
    coefficients = torch.rand(3000, 24, generator=generator)
    x = (coefficients * (torch.rand(3000, 24, generator=generator) < 0.1)) @ directions
    first = gradsae.train("topk", x[:2000], d_sae=48, k=3, lr=1e-2, steps=1)
    later = gradsae.train("topk", x[:2000], d_sae=48, k=3, lr=1e-2, steps=300)
    fvu = [
        dict(zip(t["score"], t["value"], strict=True))["reconstruction/fvu"]
        for t in (gradsae.score(one, x[2000:]) for one in (first, later))
    ]
    assert fvu[1] < 0.5 * fvu[0]
    scores = gradsae.score(later, x[2000:])
    row = next(row for row in scores.rows if row["score"] == "reconstruction/cosine")
    assert (row["better"], row["range"]) == ("higher", "-1 to 1") and "cosine" in row["meaning"]
    notes = " ".join(scores.notes)
    assert "recovery: " in notes and "lm_loss: " in notes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradsae.load_model("smolm2"), "there is no model 'smolm2'"),
        (lambda: gradsae.load_sae("nowhere"), "there is no folder nowhere"),
        (lambda: gradsae.load_sae(3), "an SAE must be a folder"),
        (lambda: gradsae.train("topkk", torch.ones(4, 2), d_sae=4), "did you mean 'topk'"),
        (lambda: gradsae.train("topk", torch.ones(4, 2)), "give the number of latents"),
        (
            lambda: gradsae.train("topk", torch.ones(4, 2), d_sae=4, k=2, aux=1),
            "has no field 'aux' .did you mean",
        ),
        (lambda: gradsae.train("l1", torch.ones(4, 2), d_sae=4, k=3), "it has no k"),
        (lambda: gradsae.train("topk", torch.ones(4), d_sae=4), "must be a matrix"),
        (lambda: gradsae.score(random_sae(), torch.ones(4, 3)), "d_in=32, but .* width 3"),
        (lambda: gradsae.score(random_sae(), torch.ones(4, 32), metrics=["mse"]), "no metric"),
    ],
)
def test_errors_say_what_would_be_right(call: Any, message: str):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site": None}, "does not say where it belongs"),
        ({"site": "resid_post.9"}, "9"),
        ({"site": "resid.1"}, "a site reads kind.layer"),
        ({"scalar": "loss"}, "scalar must be one of"),
        ({"estimators": ["gradient_x"]}, "there is no estimator 'gradient_x'"),
        ({"estimators": [], "truth": False}, "nothing to compute"),
        ({"target": True}, "target must be a text"),
    ],
)
def test_influence_refuses_what_it_does_not_know(lm, changes: Any, message: str):
    with pytest.raises(UserError, match=message):
        gradsae.influence(lm, random_sae(), TEXT, **{"site": SITE, **changes})


def test_another_architecture_goes_through(tmp_path):
    lm = random_lm("gpt2")
    found = gradsae.influence(lm, random_sae(), TEXT, site="mlp_out.2", estimators=["mean_act"])
    assert found.rows and "mlp_out.2" in found.title


def test_a_table_is_columns_rows_text_and_html():
    table = gradsae.Table(
        title="<b>Two</b>",
        columns={"token": ["<script>", "b"], "effect": [0.5, -1.0]},
        bars=["effect"],
        tokens=[Token("<i>", 1.0, 'a "hint"')],
        notes=["One & two."],
    )
    assert table.rows == [{"token": "<script>", "effect": 0.5}, {"token": "b", "effect": -1.0}]
    html = table._repr_html_()
    assert "<script>" not in html and "<b>Two" not in html and "<i>" not in html
    assert "left: 50.0%; width: 25.0%" in html  # half of the largest, to the right
    assert "left: 0.0%; width: 50.0%" in html  # the largest, to the left
    assert repr(table).splitlines()[1].split() == ["token", "effect"]
    frame = table.to_pandas()
    assert list(frame["effect"]) == [0.5, -1.0] and frame.attrs["title"] == "<b>Two</b>"
    with pytest.raises(UserError, match="there is no column 'x'; the columns are token, effect"):
        table["x"]
    with pytest.raises(ValueError, match="equally long"):
        gradsae.Table(title="", columns={"a": [1], "b": []})


def test_without_pandas_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        gradsae.Table(title="", columns={"a": [1]}).to_pandas()


def test_rows_are_json_values(table):
    assert json.loads(json.dumps(table.rows)) == table.rows
