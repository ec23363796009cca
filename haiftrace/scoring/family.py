"""What scores the windows of an index by the methods of one kind: the protocol, and its values.

A family is made over an indexed model (see `families`). Whoever traces, calibrates or measures asks
the family of a method, and nothing else depends on the method's kind.

Shape letters: N windows of the index, K windows that were scored, T positions of a query.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from haiftrace.methods import Rule
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Progress
from haiftrace.scoring.candidates import SearchBudget
from haiftrace.scoring.top_records import ScoredWindow

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import Batch


@dataclass(frozen=True)
class ScoringQuery:
    """A traced response as a family takes it.

    Attributes:
        batch: the prompt and response as one record; its labels are the query tokens.
        prompt, response: their texts; of the response what is traced.
    """

    batch: Batch
    prompt: str = ""
    response: str = ""

    @property
    def token_count(self) -> int:
        """How many query tokens there are."""
        return int(self.batch.labels_BT.sum())

    @property
    def mean_weights_BT(self) -> Tensor:
        """[1, T] the weight of each query token in the mean loss."""
        return self.batch.labels_BT.double() / self.batch.labels_BT.sum()


@dataclass(frozen=True)
class ScoringRun:
    """What a pass scores with.

    Attributes:
        settings: those of the methods.
        rule: how the methods that adjust weight and combine tokens.
        budget: how many windows are scored exactly, where candidates are proposed.
        top: records that are wanted, with evidence.
    """

    settings: MethodSettings
    rule: Rule
    progress: Progress
    budget: SearchBudget = field(default_factory=SearchBudget)
    top: int = 10


@dataclass(frozen=True)
class QueryScores:
    """The scores of one query by one method.

    Attributes:
        rows_K: of the windows that were scored, ascending.
        scores_K: a score each.
        scale: what makes a score comparable between queries, see `Method.score_scale`.
    """

    rows_K: np.ndarray
    scores_K: np.ndarray
    scale: float = 1.0

    def of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """[n] the scores of these windows, which must have been scored."""
        scores: np.ndarray = self.scores_K[np.searchsorted(self.rows_K, rows)]
        return scores

    def put(self, rows: Sequence[int], scores_W: np.ndarray) -> None:
        """Fills in the scores of those windows that are among the scored ones."""
        place_W = np.searchsorted(self.rows_K, rows).clip(max=len(self.rows_K) - 1)
        own_W = self.rows_K[place_W] == np.asarray(rows)
        self.scores_K[place_W[own_W]] = scores_W[own_W]

    def by_record(self, record_N: np.ndarray, records: int) -> np.ndarray:
        """[records] the largest comparable score of a record's windows; -inf where it has none.

        Args:
            record_N: the record of every window of the index.
        """
        largest = np.full(records, -np.inf)
        np.maximum.at(largest, record_N[self.rows_K], self.scores_K * self.scale)
        return largest


@dataclass(frozen=True)
class Ranking:
    """What a trace of one query by one method gives.

    Attributes:
        records: the records with the largest scores, each by its best window, best first.
        scores: of every window that was scored.
        notes: what the user should know of how they came to be.
    """

    records: tuple[ScoredWindow, ...]
    scores: QueryScores
    notes: tuple[str, ...] = ()

    @property
    def scored(self) -> int:
        """How many windows were scored."""
        return len(self.scores.rows_K)


Rankings = list[dict[str, Ranking]]
"""By query, and by the method's name."""


class Family(Protocol):
    """Scores the windows of one index by the methods of one kind (`Method.family`)."""

    def notes(self) -> Sequence[str]:
        """What the user should know of the gradients that these methods take."""
        ...

    def query_bytes(self, methods: Sequence[Any]) -> int:
        """Bytes that `trace` holds for a query; 0 where it divides the queries itself."""
        ...

    def trace(
        self, queries: Sequence[ScoringQuery], methods: Sequence[Any], run: ScoringRun
    ) -> Rankings:
        """Exact scores of the candidates, and the evidence of the records that score highest.

        Raises:
            UsageError: the settings allow of no score.
        """
        ...

    def queries_of_a_pass(self, memory: int) -> int:
        """Queries that `scores` is best given at a time, for so many bytes."""
        ...

    def token_work(self) -> int:
        """Multiplications that one query token takes at one label, beside those of the pass."""
        ...

    def scores(
        self,
        queries: Sequence[ScoringQuery],
        rows: Sequence[Collection[int]],
        methods: Sequence[Any],
        run: ScoringRun,
    ) -> Mapping[str, Sequence[QueryScores]]:
        """Exact scores without evidence, by the method's name and then by query.

        Args:
            rows: windows to be scored for each query; others may be scored too.

        Raises:
            KeyError: the index does not hold what a method needs.
        """
        ...
