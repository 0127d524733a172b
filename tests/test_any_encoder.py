"""Any encoder goes through training, checkpoints and every task: toys of ISTA and of pursuit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_masking
import test_steering_budget
import test_steering_task
import torch
from own_encoders import IstaSAE, MatchingPursuitSAE, OwnEncoder
from scipy.stats import entropy
from tiny_prompts import Windows, tiny_lm
from torch import Tensor, nn
from toy import OPTIM, ToyStream, held_out_fvu, no_log, start, train

from gradsae.api.saes import load_sae
from gradsae.errors import UserError
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.task import Influence
from gradsae.interfaces import HeldOut, Scores
from gradsae.metrics.across_seeds import Consistency
from gradsae.metrics.detection import Detection
from gradsae.metrics.lm_loss import LMLoss
from gradsae.metrics.reconstruction import Reconstruction
from gradsae.metrics.recovery import Recovery
from gradsae.metrics.shrinkage import Shrinkage
from gradsae.prompts.seen import see_from
from gradsae.prompts.sets import CutPrompts
from gradsae.sae import model as saes
from gradsae.sae.dictionary import Dictionary
from gradsae.sae.foreign import adopt
from gradsae.sae.model import make_sae
from gradsae.seeds import Seeds, make_generator
from gradsae.sources.activations import Activations
from gradsae.sources.superposition import Superposition
from gradsae.training import checkpoints
from gradsae.training.checkpoints import Request
from gradsae.training.fit import FitSettings, Training, fit

METHODS = [OwnEncoder(d_sae=24, optim=OPTIM, encoder=each) for each in ("ista", "pursuit")]
WORLD = Superposition(n_features=12, width=8, l0=2)


def ids(method: OwnEncoder) -> str:
    return method.name


def of_model(method: OwnEncoder, lm) -> Dictionary:
    sample = torch.randn(64, lm.d_model, generator=make_generator(0, "test")) * 0.2
    wide = replace(method, d_sae=64, k=8)
    return wide.build(sample, make_generator(0, "init")).requires_grad_(False)


@pytest.fixture(scope="module")
def source() -> Windows:
    return Windows(tiny_lm())


def request(method: OwnEncoder, root: Path, **settings) -> Request:
    return Request(
        source=WORLD,
        method=method,
        settings=FitSettings(**{"steps": 6, "batch_size": 32, "init_rows": 64, **settings}),
        seeds=Seeds(world=0, data=0, init=0, eval=0),
        root=root,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_the_training_loop_trains_an_encoder_of_its_own(method):
    before, after = (held_out_fvu(train(method, steps)) for steps in (0, 150))
    assert after < 0.6 * before


@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_a_training_that_was_cut_off_goes_on_bit_for_bit(method, tmp_path):
    whole = train(method, 20)
    train(method, 20, state_dir=tmp_path)  # its last saved state is that of step 20
    cut = start(method, seed=1, state_dir=tmp_path)
    stream = ToyStream()
    fit([cut], stream, FitSettings(steps=20, batch_size=256, save_every=10), log=no_log)
    assert cut.done == 20
    for name, tensor in whole.state_dict().items():
        assert torch.equal(cut.sae.state_dict()[name], tensor), name


@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_a_checkpoint_is_found_again_with_the_same_codes(method, tmp_path):
    first, second = (checkpoints.get(request(method, tmp_path), log=lambda *_: None) for _ in "ab")
    assert (first.found, second.found) == (False, True) and type(first.sae) is type(second.sae)
    x = WORLD.held_out(16, 0).x
    with torch.no_grad():
        one, other = first.sae(x), second.sae(x)
    assert torch.equal(one.codes.to_dense(), other.codes.to_dense())
    assert torch.equal(one.recon, other.recon)


def test_a_file_never_says_which_class_to_build(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoints.get(request(METHODS[0], tmp_path), log=lambda *_: None)
    with pytest.raises(UserError, match="only its method can rebuild"):
        saes.load(next(folder.iterdir()))


class Forgetful(OwnEncoder):
    """Builds one thing, and says that it is another one."""

    def blank(self, d_in: int) -> Dictionary:
        return IstaSAE(d_in, self.d_sae + 1, penalty=0.05, n_steps=20)

    def build(self, sample: Tensor, generator: torch.Generator) -> Dictionary:
        return METHODS[0].build(sample, generator)


def test_a_method_that_could_not_load_its_checkpoint_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match=r"differ in \('D', \(24, 8\)\), \('D', \(25, 8\)\)"):
        checkpoints.get(request(Forgetful(d_sae=24, optim=OPTIM), tmp_path), log=lambda *_: None)


def test_bf16_is_refused_for_an_encoder_that_computes_in_fp32():
    sae = METHODS[0].blank(8)
    with pytest.raises(UserError, match=r"set fit\.precision=fp32"):
        sae(torch.zeros(2, 8), "bf16")


@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_every_metric_of_recovery_measures_it_and_chance_is_below_the_truth(method):
    """An SAE whose atoms are the true features recovers all of them; its chance control none."""
    sae = replace(method, d_sae=12, k=2).blank(8)
    sae.get_parameter("D").data.copy_(WORLD.features())
    found = Recovery().measure(sae, WORLD, 0)
    assert isinstance(found, Scores)
    assert found.scores["recovery/mcc"] == pytest.approx(1)
    assert found.scores["recovery/mcc/chance"] < 0.9
    for metric in (Detection(), Reconstruction(), Shrinkage()):
        answer = metric.measure(sae, WORLD, 0)
        assert isinstance(answer, Scores) and answer.scores


@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_consistency_measures_it_and_says_why_there_is_no_z_score(method):
    runs = [train(method, 20) for _ in "ab"]

    rows = Activations(x=ToyStream(seed=5).next())
    found = Consistency(others=(1,), n_rows=200).compare(runs, rows, 0)
    assert found.scores["consistency/mcs_0.9"] == 1  # both were trained alike
    assert "linear encoder" in found.skipped["consistency/mcs_0.9/top_z_5"]
    assert "consistency/mcs_0.9/top_act_5" in found.scores


def task_scores(task, sae: Dictionary, source: Windows) -> Scores:
    found = task.measure(sae, source, 0)
    assert isinstance(found, Scores) and found.scores
    return found


@pytest.mark.parametrize("method", METHODS, ids=ids)
@torch.no_grad()
def test_a_latent_is_switched_off_as_its_encoder_and_atoms_say(method, source):
    """The edit by hand: each position loses the latent's code times its atom."""
    sae = of_model(method, source.lm())
    seen = see_from(source, sae, source.eval_windows(1, 0)[0])
    codes = sae(seen.clean).codes.to_dense()
    codes[0] = 0.0  # position 0 is dropped
    for column, latent in enumerate(seen.latents.tolist()[:5]):
        expected = seen.clean - codes[:, latent, None] * sae.get_parameter("D")[latent]
        found = seen.without(torch.tensor([column]))[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_influence_measures_it_and_a_gradient_ranks_its_latents_better_than_activations(
    method, source
):
    task = Influence(
        prompts=CutPrompts(n_prompts=3, length=10),
        estimators=(GradTimesAct(), MeanAct()),
        ks=(3,),
        batch_rows=16,
    )
    scores = task_scores(task, of_model(method, source.lm()), source).scores
    kind = "influence/spearman"
    assert scores[f"{kind}/grad_times_act"] > max(0.5, scores[f"{kind}/mean_act"])


class Hooked:
    """A model whose block 1 writes without, or with, some latents: by a plain hook, outside of
    everything that the tasks share."""

    def __init__(self, lm, sae: Dictionary, token_ids: Tensor) -> None:
        self.lm, self.sae, self.token_ids = lm, sae, token_ids
        self.codes = torch.zeros(0)
        self.clean = self.log_probs(lambda codes: codes)

    @torch.no_grad()
    def log_probs(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Log-probabilities after each token, with the codes changed at all positions but 0."""

        def hook(module, args, output):
            x = output[0] if isinstance(output, tuple) else output
            self.codes = self.sae(x[0]).codes.to_dense()
            difference = change(self.codes.clone()) - self.codes
            difference[0] = 0.0
            edited = x + (difference @ self.sae.get_parameter("D"))[None]
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        handle = self.lm.model.model.layers[1].register_forward_hook(hook)
        logits = self.lm.model(self.token_ids[None]).logits[0]
        handle.remove()
        return logits.double().log_softmax(-1)

    def seen_codes(self) -> Tensor:
        """The clean codes, without those of position 0, which no task sees."""
        self.log_probs(lambda codes: codes)
        return torch.cat([torch.zeros_like(self.codes[:1]), self.codes[1:]])

    def most_active(self, k: int) -> list[int]:
        """The latents with the largest mean code, the largest first."""
        return self.seen_codes().mean(0).topk(k).indices.tolist()

    def without(self, latents: list[int]) -> Tensor:
        def off(codes: Tensor) -> Tensor:
            codes[:, latents] = 0.0
            return codes

        return self.log_probs(off)

    def with_added(self, latent: int, dose: float) -> Tensor:
        size = dose * self.seen_codes()[:, latent].max()

        def add(codes: Tensor) -> Tensor:
            codes[:, latent] += size
            return codes

        return self.log_probs(add)


@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_steering_it_does_what_a_plain_hook_does(method, source):
    task, sae, lm = test_steering_task.steering(), of_model(method, source.lm()), source.lm()
    trials = task_scores(task, sae, source).series["steering/trials"]
    rows = list(zip(*(trials[c] for c in ("prompt", "selector", "mode", "dose")), strict=True))
    for prompt, window in enumerate(source.eval_windows(3, 0)):
        hooked = Hooked(lm, sae, window[:10])
        target = int(hooked.clean[-1].argmax())
        latents = hooked.most_active(task.k)
        expected = hooked.without(latents)[-1, target] - hooked.clean[-1, target]
        found = trials["effect"][rows.index((prompt, "mean_act", "scale", 0.0))]
        assert found == pytest.approx(float(expected), abs=1e-4)
        assert abs(found) > 1e-3


def ends_at(budget: float, kl: list[float], effect: list[float]) -> float:
    """The effect where the KL first reaches the budget, on a line over the root of the KL."""
    stop = next((i for i, value in enumerate(kl) if value > budget), len(kl) - 1) + 1
    roots = np.sqrt([0.0, *kl[:stop]])
    return float(np.interp(np.sqrt(budget), roots[-2:], [0.0, *effect[:stop]][-2:]))


@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_steering_it_on_a_budget_ends_where_a_plain_hook_spends_the_budget(method, source):
    task, sae, lm = test_steering_budget.task(), of_model(method, source.lm()), source.lm()
    table = task_scores(task, sae, source).series["budget/latents"]
    windows = source.eval_windows(3, 0)
    found, expected = [], []
    for prompt, latent, effect_at_kl in zip(
        table["prompt"], table["latent"], table["effect_at_kl"], strict=True
    ):
        hooked = Hooked(lm, sae, windows[prompt][:10])
        clean = hooked.clean[-1]
        target = int(clean.argmax())
        steered = [hooked.with_added(latent, dose)[-1] for dose in task.doses]
        rest = [np.delete(row.exp().numpy(), target) for row in (clean, *steered)]
        kl = [float(entropy(rest[0], row)) for row in rest[1:]]  # it makes both sum to 1
        effect = [float(row[target] - clean[target]) for row in steered]
        found.append(effect_at_kl)
        expected.append(ends_at(task.kl_budget, kl, effect))
    assert len(found) == 3 * task.n_single
    assert found == pytest.approx(expected, abs=1e-3)
    assert max(map(abs, found)) > 0.01


right = test_masking.right


@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_masking_it_takes_from_the_answer_what_a_plain_hook_takes(method, source, right):
    task, sae, lm = test_masking.task(), of_model(method, source.lm()), source.lm()
    scores = task_scores(task, sae, source)
    drops = []
    for question in task.questions.draw(source, 0).questions:
        hooked, n = Hooked(lm, sae, question.token_ids), len(question.answer_ids)

        def answer(log_probs: Tensor, ids=question.answer_ids, n=n) -> float:
            return sum(float(log_probs[j - n, token]) for j, token in enumerate(ids))

        clean = answer(hooked.clean)
        drops.append(clean - answer(hooked.without(hooked.most_active(int(task.main_k)))))
        if len(drops) == task.n_pages:  # the page of the first question
            table = scores.series["masking/latents"]
            expected = [clean - answer(hooked.without([latent])) for latent in table["latent"]]
            assert table["oracle"] == pytest.approx(expected, abs=1e-4)
            assert max(expected) > 0.01
    assert len(drops) == 2
    found = scores.scores["masking/drop/mean_act"]
    assert found == pytest.approx(sum(drops) / 2, abs=1e-4)


class WithRows(Windows):
    """Windows that also offers held-out rows, for their mean."""

    def held_out(self, n: int, seed: int) -> HeldOut:
        return HeldOut(x=torch.randn(32, self.model.d_model, generator=make_generator(seed, "x")))


@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_the_lm_loss_splices_its_reconstruction(method, source):
    sae = of_model(method, source.lm())
    answer = LMLoss(n_windows=2).measure(sae, WithRows(source.lm()), 0)
    assert isinstance(answer, Scores) and answer.scores


def test_chance_is_a_rotation_that_keeps_what_the_sae_does():
    """Rows turned the other way get the same codes, and their reconstruction turns with them."""
    sae, x = train(METHODS[1], 20), ToyStream(seed=5).next()[:50]
    control = sae.chance(make_generator(0, "test"))
    Q = control.get_buffer("Q")
    torch.testing.assert_close(Q @ Q.mT, torch.eye(12), atol=1e-5, rtol=0)
    with torch.no_grad():
        out, turned = sae(x), control(x @ Q.mT)
    torch.testing.assert_close(turned.codes.to_dense(), out.codes.to_dense(), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned.recon @ Q, out.recon, atol=1e-4, rtol=0)
    torch.testing.assert_close(control.decoder() @ Q, sae.decoder(), atol=1e-5, rtol=0)


class Theirs(nn.Module):
    """An SAE as other libraries write it: a ReLU, and weights the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(12, 20)
        self.decoder = nn.Linear(20, 12)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x).relu()

    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(codes)


class Squared(Theirs):
    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(codes.square())


class Signed(Theirs):
    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)


@torch.no_grad()
def test_a_module_in_memory_is_the_same_function_as_ours_with_its_weights():
    theirs, x = Theirs(), ToyStream(seed=5).next()
    adopted = adopt(theirs)
    ours = make_sae(d_in=12, d_sae=20, gate="relu", pre_bias=False)
    assert ours.W_dec is not None
    ours.W_enc.copy_(theirs.encoder.weight)
    ours.b_enc.copy_(theirs.encoder.bias)
    ours.W_dec.copy_(theirs.decoder.weight.mT)
    ours.b_dec.copy_(theirs.decoder.bias)
    one, other = adopted(x), ours(x)
    torch.testing.assert_close(one.codes.to_dense(), other.codes.to_dense())
    torch.testing.assert_close(one.recon, other.recon)
    torch.testing.assert_close(adopted.decoder(), ours.decoder())
    torch.testing.assert_close(adopted.inside(x), ours.inside(x))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(3, 4), "Linear has no method encode"),
        (Squared(), r"Squared\.decode is not its codes times its directions"),
        (Signed(), "negative codes"),
    ],
    ids=["no SAE", "another decoder", "negative codes"],
)
def test_a_module_that_tasks_would_measure_wrongly_is_refused(module, message):
    with pytest.raises(UserError, match=message):
        adopt(module)


def test_an_sae_of_ours_is_adopted_as_it_is():
    ours = make_sae(d_in=4, d_sae=6, gate="relu")
    assert adopt(ours) is ours


def test_an_sae_of_sae_lens_in_memory_gets_our_kernels():
    lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    config = lens.TopKSAEConfig(d_in=12, d_sae=20, k=3)
    theirs, x = lens.TopKSAE(config), ToyStream(seed=5).next()
    ours = load_sae(theirs).sae
    assert isinstance(ours, saes.SAE)
    with torch.no_grad():
        torch.testing.assert_close(ours(x).codes.to_dense(), theirs.encode(x))
        torch.testing.assert_close(ours(x).recon, theirs(x))


def test_a_training_needs_no_encoder_weights_to_choose_its_threads():
    training = Training(METHODS[1], METHODS[1].blank(12))
    assert training.sae.most_open == 3
    assert isinstance(training.sae, MatchingPursuitSAE)
