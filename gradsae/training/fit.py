"""The one training loop: several SAEs on one stream, stopped and resumed without a trace.

Each SAE gets the batches it would get alone, so training together changes nothing but the cost.
Each keeps its own saved state, so it can go on in other company, or alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, final

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gradsae import checks
from gradsae.errors import DivergedError, UserError
from gradsae.interfaces import Kind, Progress, Stream, Trainer
from gradsae.sae.kernels.precision import PRECISIONS, Precision
from gradsae.storage.files import writing
from gradsae.storage.tensors import first_line, read_tensors, save_tensors
from gradsae.training.snapshots import Snapshots
from gradsae.training.state import check_state
from gradsae.training.stopwatch import Stopwatch

SERIAL_BELOW = 1 << 27
"""Multiply-adds of an encoder product (about 5 ms) under which training stays on one thread."""

STATE = "state.safetensors"
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
    """Training activations shown to `Method.build`."""
    log_every: int = 50
    save_every: int = 500
    """Steps between saved states that a killed run resumes from; 0 for none."""
    shared_gb: float = 4.0
    """Most memory for the weights, gradients and moments of SAEs that a sweep trains together."""
    precision: Precision = "fp32"
    """Of the products in a training step; whatever is measured later is measured in fp32."""

    def __post_init__(self) -> None:
        checks.one_of("fit.precision", self.precision, PRECISIONS)
        least = {"steps": 0, "batch_size": 2, "init_rows": 1, "log_every": 1, "save_every": 0}
        for name, low in least.items():
            checks.whole(f"fit.{name}", getattr(self, name), low)
        checks.number("fit.shared_gb", self.shared_gb, low=0)


@final
class Training(Generic[Kind]):
    """One SAE with its optimiser: how far it has come, and what it has cost."""

    def __init__(
        self,
        trainer: Trainer[Kind],
        sae: Kind,
        state_dir: Path | None = None,
        *,
        precision: Precision = "fp32",
        snapshots: Snapshots | None = None,
    ) -> None:
        self.trainer = trainer
        self.sae = sae
        self.precision: Precision = precision
        self.optimizer = trainer.optim.build(sae.parameters())
        self.state_dir = state_dir
        """Where its state is saved, and looked for when training starts."""
        self.snapshots = snapshots
        """Which SAEs on the way are kept, and where."""
        self.done = 0
        """Steps taken."""
        self.seconds = 0.0
        """Time of its own steps and its share of the stream's, also of runs before this one."""
        self.curve: dict[str, list[Any]] = {"step": []}
        """The logged steps and the parts of the loss there."""
        self.error: DivergedError | None = None
        """Why it stopped before the end."""

    def step(self, x: Float[Tensor, "batch d_in"], progress: Progress) -> dict[str, Tensor]:
        """Take one optimiser step on a batch and return the parts of the loss."""
        optim = self.trainer.optim
        for group in self.optimizer.param_groups:
            group["lr"] = optim.lr_at(*progress)
        out = self.sae(x, self.precision, self.trainer.gate_at(progress))
        loss = self.trainer.loss(self.sae, out, progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        if optim.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.sae.parameters(), optim.clip)
        self.optimizer.step()
        with torch.no_grad():
            self.trainer.after_step(self.sae, out, progress)
        self.done = progress.step + 1
        return loss.parts

    def save(self, stream: Stream) -> None:
        """Write weights, buffers, Adam's moments and the stream's position, whole or not at all."""
        if self.state_dir is None:
            return
        tensors = {"done": torch.tensor(self.done), "seconds": torch.tensor(self.seconds).double()}
        tensors |= {
            f"curve/{k}": torch.tensor(v, dtype=torch.float64) for k, v in self.curve.items()
        }
        tensors |= {f"stream/{name}": t for name, t in stream.state().items()}
        tensors |= {f"sae/{name}": t for name, t in self.sae.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam/{i}/{name}": t for name, t in moments.items()}
        with writing("the state of a training", self.state_dir / STATE) as fresh:
            save_tensors(tensors, fresh)

    @property
    def keeps(self) -> bool:
        """Whether the SAE as it is now, after `done` steps, is one of its snapshots."""
        return self.snapshots is not None and self.done in self.snapshots.steps

    def resume(self, steps: int) -> dict[str, Tensor]:
        """Take over the saved state, if there is one; return the stream's position in it.

        A state whose snapshots up to there are not all kept is left where it is: training begins.
        Raises UserError for a damaged state, or one that is not of a training of `steps` steps.
        """
        path = self.state_dir / STATE if self.state_dir else None
        if path is None or not path.exists():
            return {}
        try:
            tensors = read_tensors(path, "training state", own=True)
            weights = [p for group in self.optimizer.param_groups for p in group["params"]]
            check_state(tensors, self.sae.state_dict(), weights, steps)
            if self.snapshots and self.snapshots.missing(int(tensors["done"])):
                return {}
            self._restore(tensors)
        except torch.OutOfMemoryError:
            raise
        except UserError as error:
            raise UserError(f"{error}; delete it to restart") from None
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            raise UserError(
                f"{path}: damaged training state ({first_line(error)}); delete it to restart"
            ) from None
        return _under("stream/", tensors)

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.sae.load_state_dict(_under("sae/", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under("adam/", tensors).items():
            i, name = key.split("/")
            moments.setdefault(int(i), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.done, self.seconds = int(tensors["done"]), float(tensors["seconds"])
        self.curve = {k: t.tolist() for k, t in _under("curve/", tensors).items()}
        self.curve["step"] = [int(step) for step in self.curve["step"]]


def fit(
    trainings: Sequence[Training[Any]], stream: Stream, settings: FitSettings, *, log: Log
) -> None:
    """Train every SAE in place for `settings.steps` steps.

    A training with a `state_dir` is saved there every `save_every` steps and goes on from what it
    finds there, bit for bit; the folder stays until its owner has put the SAE in a safe place.
    Snapshots on the way are written before a state that lies behind them.
    One that is ahead of the others waits for the stream to reach it. One that diverges stops, with
    the reason in its `error`, and its last saved state stays as it was; the reason is raised only
    if no training is left.
    """
    start = _resume(trainings, stream, settings.steps)
    bar = _bar(start, settings.steps, len(trainings))
    watch = Stopwatch(trainings[0].sae.device)
    # The sum of all activations: a NaN stays in it.
    total = torch.zeros((), device=trainings[0].sae.device)
    with threads_for(max(t.sae.d_sae * t.sae.d_in for t in trainings) * settings.batch_size), bar:
        for step in bar:
            x = stream.next()
            total += x.sum()
            in_step = [i for i, t in enumerate(trainings) if t.done == step]
            watch.lap([trainings[i] for i in in_step])
            for i in in_step:
                parts = trainings[i].step(x, Progress(step, settings.steps))
                logs = step % settings.log_every == 0 or step == settings.steps - 1
                saves = settings.save_every and (step + 1) % settings.save_every == 0
                keeps = trainings[i].keeps
                if (logs or saves or keeps) and _is_sound(trainings[i], parts, total, x, step):
                    if logs:
                        _log(trainings[i], parts, step, partial(log, i))
                    if keeps and (snapshots := trainings[i].snapshots):
                        snapshots.keep(trainings[i].sae, step + 1)
                    if saves:
                        watch.read()
                        trainings[i].save(stream)
                watch.lap([trainings[i]])
            if step % settings.log_every == 0:
                watch.read()
            if all(t.error for t in trainings):
                break
    watch.read()
    errors = [t.error for t in trainings if t.error]
    if len(errors) == len(trainings):
        raise errors[0]


def _bar(start: int, steps: int, n_saes: int) -> tqdm:
    """Return the steps from `start` on, shown as they pass where someone looks."""
    title = "train" if n_saes == 1 else f"train {n_saes} SAEs"
    return tqdm(range(start, steps), initial=start, total=steps, desc=title, disable=None)


def _is_sound(
    training: Training,
    parts: dict[str, Tensor],
    total: Float[Tensor, ""],
    x: Float[Tensor, "batch d_in"],
    step: int,
) -> bool:
    """Return whether the loss and the weights are finite; if not, stop the training.

    `total` is the sum of all activations so far, and `x` the last batch of them.
    """
    weights = {name: p.detach() for name, p in training.sae.named_parameters()}
    largest = {name: torch.linalg.vector_norm(p, float("inf")) for name, p in weights.items()}
    bad = [name for name, value in {**parts, **largest}.items() if not value.isfinite()]
    if not bad:
        return True
    advice = f"(lr={training.trainer.optim.lr}); try a smaller optim.lr"
    if bool((x == x[0]).all()):
        advice = "because all rows of the batch are equal: the activations do not vary"
    if not total.isfinite():
        advice = "because the activations of its source are not all finite"
    training.done = step  # so it takes no further step
    training.error = DivergedError(
        f"training of {training.trainer.name} diverged at step {step}: {bad[0]} is not finite "
        f"{advice}"
    )
    return False


def _log(
    training: Training,
    parts: dict[str, Tensor],
    step: int,
    log: Callable[[int, dict[str, float]], None],
) -> None:
    numbers = {name: value.item() for name, value in parts.items()}
    for name, number in {"step": step, **numbers}.items():
        training.curve.setdefault(name, []).append(number)
    log(step, numbers)


def is_serial(multiply_adds: int) -> bool:
    """Whether an encoder product of this size is computed on one thread."""
    return multiply_adds < SERIAL_BELOW


@contextmanager
def threads_for(multiply_adds: int) -> Iterator[None]:
    """Train small SAEs on one thread: waking others costs more than they do."""
    before = torch.get_num_threads()
    if is_serial(multiply_adds):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _resume(trainings: Sequence[Training[Any]], stream: Stream, steps: int) -> int:
    """Take over saved states and return the step to go on with: that of the hindmost."""
    positions = [training.resume(steps) for training in trainings]
    last = min(range(len(trainings)), key=lambda i: trainings[i].done)
    if positions[last]:
        try:
            stream.restore(positions[last])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{trainings[last].state_dir}: damaged training state (the place in its stream: "
                f"{first_line(error)}); delete it to restart"
            ) from None
    return trainings[last].done


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
