"""Questions from templates: small facts about invented people, several questions on one context."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

import torch

from gradsae import checks
from gradsae.interfaces import ModelSource
from gradsae.prompts.questions.question import Candidate, QuestionSet
from gradsae.seeds import make_generator


class Relation(NamedTuple):
    fact: str
    question: str
    values: tuple[str, ...]


NAMES = (
    *("Anna", "Peter", "Maria", "Tom", "Julia", "David", "Laura", "Paul", "Emma", "Jack"),
    *("Sarah", "Mark", "Alice", "Henry", "Lucy", "George"),
)
RELATIONS = (
    Relation(
        "{name} lives in {value}.",
        "In which city does {name} live?",
        ("Paris", "London", "Berlin", "Rome", "Madrid", "Tokyo", "Boston", "Chicago", "Dublin"),
    ),
    Relation(
        "{name} works as a {value}.",
        "What is the job of {name}?",
        ("teacher", "doctor", "farmer", "lawyer", "pilot", "baker", "painter", "writer", "nurse"),
    ),
    Relation(
        "{name} has a {value}.",
        "Which animal does {name} have?",
        ("dog", "cat", "horse", "rabbit", "parrot", "goat", "snake", "turtle"),
    ),
    Relation(
        "{name} drives a {value} car.",
        "Which colour is the car of {name}?",
        ("red", "blue", "green", "black", "white", "yellow", "silver"),
    ),
    Relation(
        "{name} plays the {value}.",
        "Which instrument does {name} play?",
        ("piano", "guitar", "violin", "flute", "trumpet", "drums", "cello"),
    ),
    Relation(
        "{name} was born in {value}.",
        "In which month was {name} born?",
        ("January", "March", "April", "May", "June", "August", "October", "December"),
    ),
)


@final
@dataclass(frozen=True, kw_only=True)
class TemplateQuestions(QuestionSet):
    """A few facts about each of some people; every fact can be asked about."""

    n_people: int = 2
    n_facts: int = 2
    """About each person."""

    def __post_init__(self) -> None:
        checks.whole("n_people", self.n_people, 1, len(NAMES))
        checks.whole("n_facts", self.n_facts, 1, len(RELATIONS))

    def candidates(self, source: ModelSource, seed: int) -> Iterator[Candidate]:
        generator = make_generator(seed, "eval questions")
        index = 0
        while True:
            yield from self._context(index, generator)
            index += 1

    def _context(self, index: int, generator: torch.Generator) -> list[Candidate]:
        """No value is there twice, so each question has one answer."""
        people = [NAMES[i] for i in _draw(len(NAMES), self.n_people, generator)]
        chosen = [RELATIONS[i] for i in _draw(len(RELATIONS), self.n_facts, generator)]
        values = {r: _draw(len(r.values), self.n_people, generator) for r in chosen}
        facts = [
            (relation, name, relation.values[values[relation][i]])
            for i, name in enumerate(people)
            for relation in chosen
        ]
        context = " ".join(r.fact.format(name=name, value=value) for r, name, value in facts)
        order = _draw(len(facts), len(facts), generator)
        return [
            Candidate(index, context, r.question.format(name=name), (value,))
            for r, name, value in (facts[i] for i in order)
        ]


def _draw(n: int, k: int, generator: torch.Generator) -> list[int]:
    return torch.randperm(n, generator=generator)[:k].tolist()
