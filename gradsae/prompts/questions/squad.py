"""Questions of SQuAD: from the hub, or from a file of rows in the same columns."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from gradsae.errors import UserError
from gradsae.interfaces import ModelSource
from gradsae.prompts.questions.question import Candidate, QuestionSet
from gradsae.seeds import make_generator
from gradsae.storage.files import expanded

COLUMNS = ("context", "question", "answers")


@final
@dataclass(frozen=True, kw_only=True)
class SquadQuestions(QuestionSet):
    """Rows with columns context, question and answers (a mapping with a list `text`).

    Contexts are shuffled by the seed, and the questions of one stay together.
    """

    hub_id: str | None = "rajpurkar/squad"
    split: str = "validation"
    revision: str | None = None
    file: str | None = None
    """JSON lines in place of the hub."""

    def __post_init__(self) -> None:
        if (self.file is None) == (self.hub_id is None):
            raise ValueError(f"name hub_id or file, one: hub_id={self.hub_id!r} file={self.file!r}")

    def candidates(self, source: ModelSource, seed: int) -> Iterator[Candidate]:
        import torch

        by_context: dict[str, list[Any]] = {}
        for i, row in enumerate(self._rows()):
            if missing := [name for name in COLUMNS if name not in row]:
                raise UserError(f"row {i} of {self.file or self.hub_id} lacks {', '.join(missing)}")
            by_context.setdefault(row["context"], []).append(row)
        if not by_context:
            raise UserError(f"{self.file or self.hub_id} holds no question")
        contexts = list(by_context)
        order = torch.randperm(len(contexts), generator=make_generator(seed, "eval squad"))
        for index in order.tolist():
            for row in by_context[contexts[index]]:
                answers = tuple(dict.fromkeys(row["answers"]["text"]))
                if answers:
                    yield Candidate(index, contexts[index], row["question"].strip(), answers)

    def _rows(self) -> Iterable[Any]:
        if self.file is not None:
            return list(_json_lines(expanded(self.file)))
        from datasets import load_dataset

        try:
            return load_dataset(self.hub_id or "", split=self.split, revision=self.revision)
        except Exception as error:  # of many libraries: network, names, hub
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"cannot load {self.hub_id} from the hub: {first}. Check the name and the network, "
                "or name a file of JSON lines with context, question and answers"
            ) from error


def _json_lines(path: Path) -> Iterator[Any]:
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield json.loads(line)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON lines ({error})") from error
