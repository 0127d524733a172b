"""What a contributor can add: a source, a method or trainer, a metric, a task.

Shape names, used all over the package:
    batch   activations in a batch        d_in        width of one activation
    d_sae   latents of an SAE             n_features  true directions (known sources only)
    nnz     stored entries of a code      pos, vocab  token positions, vocabulary
"""

from gradsae.interfaces.methods import Kind, Loss, Method, Progress, Trainer
from gradsae.interfaces.sources import (
    Biased,
    HeldOut,
    Hierarchy,
    KnownSource,
    ModelSource,
    Source,
    Stream,
)
from gradsae.interfaces.tasks import (
    Candidate,
    Metric,
    ModelTask,
    SAETask,
    Scores,
    Skipped,
    Snapshot,
    Task,
)

__all__ = [
    "Biased",
    "Candidate",
    "HeldOut",
    "Hierarchy",
    "Kind",
    "KnownSource",
    "Loss",
    "Method",
    "Metric",
    "ModelSource",
    "ModelTask",
    "Progress",
    "SAETask",
    "Scores",
    "Skipped",
    "Snapshot",
    "Source",
    "Stream",
    "Task",
    "Trainer",
]
