"""Speed on a real language model: SmolLM2 at block 15 of 30, on the CPU, from the model's cache.

Downloads the model and a text once if they are not there. The SAEs are random or barely trained.
"""

import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.places import CONF
from benchmarks.speed.case import Case, Work

if TYPE_CHECKING:
    from torch import Tensor

    from gradsae.lm.model import LM
    from gradsae.prompts.seen import SeenPrompt
    from gradsae.sae.model import SAE

LAYER = 15
CONTEXT = 128
BATCH_WINDOWS = 8
HARVEST_TOKENS = 32_768  # one whole shard
TEXT = (
    "The town lies on the east bank of the river, where the road from the coast meets the old "
    "railway line; a market has been held there every week since the twelfth century."
)
N_POS = 32
D_SAE, K = 4096, 32
BATCH_ROWS = 64
BATCH_SIZE, N_SAES = 2048, 8


def cases() -> list[Case]:
    return [
        harvest(HARVEST_TOKENS),
        ablation(),
        gradient(),
        eight_saes(20_480),
        eight_saes(200_000),
    ]


def harvest(n_tokens: int) -> Case:
    """Harvest, against a forward pass of the same windows that stops at the same block."""
    return Case(
        name="harvest",
        shape=f"smollm2 block {LAYER}, {n_tokens} tokens",
        unit=f"read {n_tokens} tokens in windows of {CONTEXT} (bfloat16 where the CPU has it), "
        "filter, shuffle, hash and store them; the other side runs the same blocks, keeps nothing",
        ours=lambda: _harvest(n_tokens),
        contenders={"bare forward": lambda: _bare_forward(n_tokens)},
        bars={"bare forward": 0.9},
        pairs=5,
    )


def ablation() -> Case:
    """Exact ablation, against one full forward per latent."""
    return Case(
        name="ablation",
        shape=f"smollm2 block {LAYER}, {N_POS} tokens, {D_SAE} latents",
        unit=f"the exact effects of all active latents of a {N_POS}-token prompt, reading it "
        "included; the plain loop runs the whole model once per latent, logits at the last "
        "position only",
        ours=_ablation,
        contenders={"plain": _plain_ablation},
        bars={"plain": 6.0},
        pairs=5,
    )


def gradient() -> Case:
    """The gradient estimate from the tokens on, against one full forward of the same prompt."""
    return Case(
        name="gradient estimate",
        shape=f"smollm2 block {LAYER}, {N_POS} tokens, {D_SAE} latents",
        unit=f"read a {N_POS}-token prompt through the SAE, score its active latents by gradient "
        "times activation; the floor is one forward of the model, logits at the last position only",
        ours=_gradient_estimate,
        contenders={"floor": _full_forward},
        bars={"floor": 3.0},
        pairs=5,
    )


def eight_saes(n_tokens: int) -> Case:
    """Eight SAEs over one harvest, against one run from nothing (of the eight that there are)."""
    return Case(
        name="eight SAEs",
        shape=f"smollm2 block {LAYER}, {n_tokens} tokens, {D_SAE} latents",
        unit=f"tokenise and harvest {n_tokens} tokens into a new store, then train {N_SAES} TopK "
        f"SAEs on it for one epoch; the other side makes one SAE in this way, so {N_SAES} times "
        f"the ratio is the gain over {N_SAES} separate runs. The loaded model is shared by both",
        ours=lambda: _saes_from_nothing(n_tokens, N_SAES),
        contenders={"one of eight runs": lambda: _saes_from_nothing(n_tokens, 1)},
        bars={"one of eight runs": 3 / N_SAES},
        pairs=5,
    )


def _built(path: str, **fields: Any) -> Any:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    return instantiate(OmegaConf.load(CONF / path), **fields, _convert_="all")


@lru_cache(maxsize=2)
def _lm(dtype: str) -> "LM":
    from gradsae.lm.model import load

    return load(_built("model/smollm2.yaml", dtype=dtype))


def _fast_dtype() -> str:
    from gradsae.sources.lm_layer import multiplies_bfloat16

    return "bfloat16" if multiplies_bfloat16("cpu") else "float32"


def _windows(n_tokens: int) -> "Tensor":
    """Random tokens: the time of a forward pass does not depend on what they say."""
    import torch

    from gradsae.seeds import make_generator

    shape, generator = (n_tokens // CONTEXT, CONTEXT), make_generator(0, "speed/windows")
    return torch.randint(100, 40_000, shape, generator=generator)


def _harvest(n_tokens: int) -> Work:
    from gradsae.lm.sites import Site
    from gradsae.sources.harvest import Harvest
    from gradsae.sources.store import Recipe

    lm, site = _lm(_fast_dtype()), Site("resid_post", LAYER)
    train, heldout = _windows(n_tokens), _windows(BATCH_WINDOWS * CONTEXT)
    sizes = {"n_tokens": train.numel(), "n_eval_tokens": heldout.numel()}
    names = {"weights_id": "speed", "corpus_id": "random tokens", "site": str(site)}
    dtypes = {"model_dtype": _fast_dtype(), "dtype": "bfloat16"}
    filters = {"drop_special": True, "outlier_factor": 10.0}
    fields: dict[str, Any] = {**sizes, **names, **dtypes, **filters}
    recipe = Recipe(paths=[], context_length=CONTEXT, seed=0, **fields)
    job: dict[str, Any] = {"recipe": recipe, "lm": lm, "site": site, "batch_windows": BATCH_WINDOWS}
    windows: Any = {"train": train, "eval": heldout}

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            Harvest(folder=Path(folder), windows=windows, **job).run()

    return work


def _bare_forward(n_tokens: int) -> Work:
    """The transformers model alone, cut off by a hook after the block."""
    import torch

    class Stop(Exception):  # noqa: N818  not an error
        pass

    def stop(*_: Any) -> None:
        raise Stop

    model = _lm(_fast_dtype()).model.model
    batches = [*_windows(n_tokens).split(BATCH_WINDOWS), _windows(BATCH_WINDOWS * CONTEXT)]

    @torch.no_grad()
    def work() -> None:
        handle = model.layers[LAYER].register_forward_hook(stop)
        for token_ids in batches:
            with suppress(Stop):
                model(input_ids=token_ids, use_cache=False)
        handle.remove()

    return work


@lru_cache(maxsize=1)
def _sae() -> "SAE":
    """TopK with tied unit directions at random."""
    import torch

    from gradsae.sae.model import make_sae
    from gradsae.seeds import make_generator

    d_in = _lm("float32").d_model
    sae = make_sae(d_in=d_in, d_sae=D_SAE, gate="topk", k=K, tied=True)
    with torch.no_grad():
        directions = torch.randn(D_SAE, d_in, generator=make_generator(0, "speed/sae"))
        sae.W_enc.copy_(directions / directions.norm(dim=1, keepdim=True))
    return sae


def _seen() -> "SeenPrompt":
    import torch

    from gradsae.lm.sites import Site
    from gradsae.prompts.seen import see

    lm, dropped = _lm("float32"), torch.arange(N_POS) == 0
    token_ids = lm.prompt(TEXT)[0, :N_POS]
    return see(lm, Site("resid_post", LAYER), _sae(), token_ids, dropped)


def _ablation() -> Work:
    """Reads the prompt anew each time: else the clean keys and values would be there already."""
    import torch

    from gradsae.influence.ablation import ablate
    from gradsae.influence.target import NextToken

    def work() -> "Tensor":
        seen = _seen()
        columns = torch.arange(seen.n_active)
        return ablate(seen, NextToken(token=7), columns, batch_rows=BATCH_ROWS).effect

    return work


def _plain_ablation() -> Work:
    """What a user would write first: the whole model once per latent, edited by a hook."""
    import torch

    seen, lm = _seen(), _lm("float32")
    written = (seen.codes * seen.scale).mT

    def log_prob(change: "Tensor") -> "Tensor":
        handle = lm.model.model.layers[LAYER].register_forward_hook(
            lambda _m, _a, out: out + change
        )
        logits = lm.model(input_ids=seen.token_ids[None], use_cache=False, logits_to_keep=1).logits
        handle.remove()
        return logits[0, -1].log_softmax(0)[7]

    @torch.no_grad()
    def work() -> "Tensor":
        clean = log_prob(torch.zeros(()))
        changes = (written[c, :, None] * -seen.directions[c] for c in range(seen.n_active))
        return torch.stack([clean - log_prob(change) for change in changes])

    return work


def _gradient_estimate() -> Work:
    from gradsae.influence.estimators.grad_times_act import GradTimesAct
    from gradsae.influence.target import NextToken
    from gradsae.seeds import make_generator

    generator = make_generator(0, "speed/gradient")
    return lambda: GradTimesAct().scores(_seen(), NextToken(token=7), generator)


def _full_forward() -> Work:
    import torch

    lm = _lm("float32")
    token_ids = lm.prompt(TEXT)[:, :N_POS]

    @torch.no_grad()
    def work() -> "Tensor":
        return lm.model(input_ids=token_ids, use_cache=False, logits_to_keep=1).logits

    return work


def _saes_from_nothing(n_tokens: int, n_saes: int) -> Work:
    import torch

    from gradsae.optim import Optim
    from gradsae.seeds import make_generator
    from gradsae.sources.lm_layer import LmLayer
    from gradsae.trainers.topk import TopK
    from gradsae.training.fit import FitSettings, Training, fit

    trainer, cpu = TopK(d_sae=D_SAE, k=K, optim=Optim(lr=3e-4)), torch.device("cpu")
    settings = FitSettings(steps=n_tokens * 9 // 10 // BATCH_SIZE, batch_size=BATCH_SIZE)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = LmLayer(
                model=_built("model/smollm2.yaml"),
                corpus=_built("corpus/prose.yaml"),
                layer=LAYER,
                n_tokens=n_tokens,
                n_eval_tokens=1024,
                read_dtype="auto",
                device="cpu",
                root=folder,
            )
            sample = source.stream(settings.init_rows, 0, cpu).next()
            trainings = [
                Training(trainer, trainer.build(sample, make_generator(seed, "init")))
                for seed in range(n_saes)
            ]
            fit(trainings, source.stream(BATCH_SIZE, 0, cpu), settings, log=lambda *_: None)

    return work
