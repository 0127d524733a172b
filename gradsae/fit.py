"""The one training loop: several SAEs on one stream, stopped and resumed without a trace.

Each SAE gets the batches it would get alone, so training together changes nothing but the cost.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gradsae import checks
from gradsae.errors import UserError
from gradsae.interfaces import Progress, Stream, Trainer
from gradsae.sae import SAE

SERIAL_BELOW = 1 << 27
"""Multiply-adds of an encoder product (about 5 ms) under which training stays on one thread."""

Log = Callable[[int, int, dict[str, float]], None]
"""log(index of the SAE, step, parts)."""


@final
@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How long and how wide: the same for every method that is compared."""

    steps: int
    batch_size: int
    """Activations in a batch, not sequences."""
    init_rows: int = 8192
    """Training activations shown to `Trainer.build`."""
    log_every: int = 50
    save_every: int = 500
    """Steps between saved states that a killed run resumes from; 0 for none."""

    def __post_init__(self) -> None:
        least = {"steps": 0, "batch_size": 1, "init_rows": 1, "log_every": 1, "save_every": 0}
        for name, low in least.items():
            checks.whole(f"fit.{name}", getattr(self, name), low)


@final
class Training:
    """One SAE with its optimiser."""

    def __init__(self, trainer: Trainer, sae: SAE) -> None:
        self.trainer = trainer
        self.sae = sae
        self.optimizer = trainer.optim.build(sae.parameters())

    def step(self, x: Float[Tensor, "batch d_in"], progress: Progress) -> dict[str, Tensor]:
        """Take one optimiser step on a batch and return the parts of the loss."""
        optim = self.trainer.optim
        for group in self.optimizer.param_groups:
            group["lr"] = optim.lr_at(*progress)
        out = self.sae(x)
        loss = self.trainer.loss(self.sae, out, progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        if optim.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.sae.parameters(), optim.clip)
        self.optimizer.step()
        with torch.no_grad():
            self.trainer.after_step(self.sae, out, progress)
        return loss.parts

    def state(self) -> dict[str, Tensor]:
        """Return weights, buffers and Adam's moments under flat names."""
        tensors = {f"sae/{name}": t for name, t in self.sae.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam/{i}/{name}": t for name, t in moments.items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.sae.load_state_dict(_under("sae/", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under("adam/", tensors).items():
            i, name = key.split("/")
            moments.setdefault(int(i), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def fit(
    trainings: Sequence[Training],
    stream: Stream,
    settings: FitSettings,
    *,
    log: Log,
    state_dir: Path | None = None,
) -> None:
    """Train every SAE in place for `settings.steps` steps.

    With `state_dir`, the state is saved there every `save_every` steps and, if the folder holds
    one, training goes on from it bit for bit; the folder is removed at the end.
    """
    start = _resume(trainings, stream, state_dir)
    steps = range(start, settings.steps)
    bar = tqdm(steps, initial=start, total=settings.steps, desc="train", disable=None)
    with _threads(trainings, settings.batch_size), bar:
        for step in bar:
            x = stream.next()
            for i, training in enumerate(trainings):
                parts = training.step(x, Progress(step, settings.steps))
                if step % settings.log_every == 0 or step == settings.steps - 1:
                    numbers = {name: value.item() for name, value in parts.items()}
                    _check_finite(training, step, numbers)
                    log(i, step, numbers)
            if state_dir and settings.save_every and (step + 1) % settings.save_every == 0:
                _save(trainings, stream, step + 1, state_dir)
    if state_dir:
        shutil.rmtree(state_dir, ignore_errors=True)


@contextmanager
def _threads(trainings: Sequence[Training], batch_size: int) -> Iterator[None]:
    """Train small SAEs on one thread: waking others costs more than they do."""
    before = torch.get_num_threads()
    if max(t.sae.W_enc.numel() for t in trainings) * batch_size < SERIAL_BELOW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_finite(training: Training, step: int, parts: dict[str, float]) -> None:
    bad = [name for name, value in parts.items() if not abs(value) < float("inf")]
    if bad:
        lr = training.trainer.optim.lr
        raise UserError(
            f"training of {training.trainer.name} diverged at step {step}: {bad[0]} is not finite "
            f"(lr={lr}); try a smaller optim.lr"
        )


def _save(trainings: Sequence[Training], stream: Stream, step: int, folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"step": torch.tensor(step)}
    tensors |= {f"stream/{name}": t for name, t in stream.state().items()}
    for i, training in enumerate(trainings):
        tensors |= {f"{i}/{name}": t for name, t in training.state().items()}
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / "state.partial"
    save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, fresh)
    fresh.replace(folder / "state.safetensors")


def _resume(trainings: Sequence[Training], stream: Stream, folder: Path | None) -> int:
    """Restore the saved state, if there is one, and return the step to go on with."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "state.safetensors" if folder else None
    if path is None or not path.exists():
        return 0
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged training state ({error}); delete it to restart") from None
    stream.restore(_under("stream/", tensors))
    for i, training in enumerate(trainings):
        training.restore(_under(f"{i}/", tensors))
    return int(tensors["step"])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
