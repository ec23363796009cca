"""Which windows are scored exactly: what the index's token vectors propose for a query."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from haiftrace.scoring.layerwise.estimates import Estimates
from haiftrace.scoring.layerwise.nearest_windows import NearestWindows
from haiftrace.scoring.layerwise.reference import ReferenceSample
from haiftrace.store import Index

if TYPE_CHECKING:
    from haiftrace.engine import Batch, TokenSimilarity

CANDIDATES = 256
"""Windows that are scored exactly by default."""


@dataclass(frozen=True)
class SearchBudget:
    """How many windows are scored exactly.

    Attributes:
        exact: all of them.
        candidates: so many that are proposed.
    """

    exact: bool = False
    candidates: int = CANDIDATES


class Candidates:
    """Proposals from one index.

    Args:
        similarity: gives the token gradients of the indexed model.
        sample: the reference that scores are over.
    """

    def __init__(
        self, index: Index, similarity: Callable[[], TokenSimilarity], sample: ReferenceSample
    ) -> None:
        self._index = index
        self._similarity = similarity
        self._sample = sample

    def of(self, queries: Sequence[Batch], budget: SearchBudget) -> list[Collection[int]]:
        """Rows to be scored exactly for each query: all where none are proposed."""
        if budget.exact or not self.proposes(budget.candidates):
            return [range(len(self._index)) for _ in queries]
        return list(self._estimates.proposed(queries, budget.candidates))

    def proposes(self, count: int) -> bool:
        """Whether the index is larger than so many windows, and its vectors can be searched."""
        return count < len(self._index) and self._index.token_search is not None

    @cached_property
    def _estimates(self) -> Estimates | NearestWindows:
        search = self._index.token_search
        if search is not None and not search.scans:
            return NearestWindows(self._index, self._similarity(), self._sample)
        return Estimates(self._index, self._similarity(), self._sample.usual)
