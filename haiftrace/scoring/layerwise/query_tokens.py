"""The query tokens of several queries as one set, so that they share every pass.

Shape letters: Q query tokens of all queries, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from haiftrace.engine import Batch, TokenSimilarity

BATCH_TOKENS = 512
"""Padded tokens of queries whose passes are done as one."""


@dataclass(frozen=True)
class QueryTokens:
    """The per-token gradients of several queries, in order.

    Attributes:
        gradients: of all their tokens.
        starts: where each query's tokens begin among them, and where the last one's end.
    """

    gradients: Any
    starts: tuple[int, ...]

    @classmethod
    def of(cls, similarity: TokenSimilarity, queries: Sequence[Batch]) -> QueryTokens:
        """Of queries of one record each."""
        counts = [int(query.labels_BT.sum()) for query in queries]
        gradients = similarity.queries(list(_batched(queries)))
        return cls(gradients, tuple(np.cumsum([0, *counts]).tolist()))

    @property
    def count(self) -> int:
        """How many queries there are."""
        return len(self.starts) - 1

    def places(self, number: int) -> range:
        """The places of a query's tokens."""
        return range(self.starts[number], self.starts[number + 1])

    def subset(self, numbers: Sequence[int]) -> QueryTokens:
        """Those of the queries with these numbers."""
        if len(numbers) == self.count:
            return self
        counts = [len(self.places(number)) for number in numbers]
        starts = tuple(np.cumsum([0, *counts]).tolist())
        return QueryTokens(self.gradients.select(self.places_of(numbers)), starts)

    def places_of(self, numbers: Sequence[int]) -> list[int]:
        """The places of the tokens of the queries with these numbers, in order."""
        return [place for number in numbers for place in self.places(number)]


def _batched(queries: Sequence[Batch]) -> Iterator[Batch]:
    """Batches of queries, in their order."""
    from haiftrace.engine import make_batch

    for run in _packed(queries, BATCH_TOKENS):
        yield make_batch(
            [query.ids_BT[0].tolist() for query in run],
            [query.labels_BT[0].tolist() for query in run],
            run[0].ids_BT.device,
        )


def _packed(queries: Sequence[Batch], room: int) -> Iterator[list[Batch]]:
    """Runs of queries whose padded tokens fit, of one query at least."""
    run: list[Batch] = []
    for query in queries:
        longest = max([query.length, *(other.length for other in run)])
        if run and longest * (len(run) + 1) > room:
            yield run
            run = []
        run.append(query)
    if run:
        yield run
