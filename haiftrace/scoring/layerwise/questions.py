"""The query tokens of several questions as one set, so that they share every pass.

Shape letters: Q query tokens of all questions, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from haiftrace.engine import Batch, TokenSimilarity

TOKENS_TOGETHER = 512
"""Padded tokens of questions whose passes are done as one."""


@dataclass(frozen=True)
class AskedTokens:
    """Query gradients of some questions, in order.

    Attributes:
        queries: of all their tokens.
        starts: where each question's tokens begin among them, and where the last one's end.
    """

    queries: Any
    starts: tuple[int, ...]

    @classmethod
    def of(cls, similarity: TokenSimilarity, questions: Sequence[Batch]) -> AskedTokens:
        """Of questions of one record each."""
        counts = [int(question.labels_BT.sum()) for question in questions]
        queries = similarity.queries(list(_together(questions)))
        return cls(queries, tuple(np.cumsum([0, *counts]).tolist()))

    @property
    def count(self) -> int:
        """How many questions there are."""
        return len(self.starts) - 1

    def places(self, number: int) -> range:
        """The places of one question's tokens."""
        return range(self.starts[number], self.starts[number + 1])

    def taken(self, numbers: Sequence[int]) -> AskedTokens:
        """Those of some questions."""
        if len(numbers) == self.count:
            return self
        counts = [len(self.places(number)) for number in numbers]
        starts = tuple(np.cumsum([0, *counts]).tolist())
        return AskedTokens(self.queries.taken(self.places_of(numbers)), starts)

    def places_of(self, numbers: Sequence[int]) -> list[int]:
        """The places of the tokens of some questions, in order."""
        return [place for number in numbers for place in self.places(number)]


def _together(questions: Sequence[Batch]) -> Iterator[Batch]:
    """Batches of questions, in their order."""
    from haiftrace.engine import make_batch

    for some in _packed(questions, TOKENS_TOGETHER):
        yield make_batch(
            [question.ids_BT[0].tolist() for question in some],
            [question.labels_BT[0].tolist() for question in some],
            some[0].ids_BT.device,
        )


def _packed(questions: Sequence[Batch], room: int) -> Iterator[list[Batch]]:
    """Runs of questions whose padded tokens fit, of one question at least."""
    run: list[Batch] = []
    for question in questions:
        longest = max([question.length, *(other.length for other in run)])
        if run and longest * (len(run) + 1) > room:
            yield run
            run = []
        run.append(question)
    if run:
        yield run
