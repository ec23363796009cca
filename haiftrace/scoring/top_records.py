"""The records with the largest scores, in memory that does not grow with the evidence of others."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from haiftrace.store import StoredWindow


@dataclass(frozen=True)
class ScoredWindow:
    """A window and its score.

    Attributes:
        cosine: None where the method has no record-side vector to take an angle with.
        evidence: [T] what each token adds to the score, which is their sum.
        pairs: [T] for each position of a query token, what it and each token add to the score; None
            of methods that take the query as one vector.
        layers: what each layer adds to the score, from the first on; None where layers are not
            judged by themselves.
    """

    window: StoredWindow
    score: float
    cosine: float | None
    evidence: np.ndarray
    pairs: Mapping[int, np.ndarray] | None = None
    layers: tuple[float, ...] | None = None


class TopRecords:
    """Keeps the `top` records that score highest, each by its best window, and all scores.

    Ties are by order in the corpus.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._by_record: dict[int, ScoredWindow] = {}
        self._rows, self._scores = array("q"), array("d")

    def add(self, scored: ScoredWindow) -> None:
        """A window with its evidence."""
        known = self._by_record.get(scored.window.record)
        if known is None or scored.score > known.score:
            self._by_record[scored.window.record] = scored
        if len(self._by_record) > 2 * self._top + 64:
            self._by_record = dict(self._ordered())
        self.add_score(scored.window.row, scored.score)

    def add_score(self, row: int, score: float) -> None:
        """A window that is known not to be of the records that score highest."""
        self._rows.append(row)
        self._scores.append(score)

    def result(self) -> tuple[ScoredWindow, ...]:
        """The records, best first."""
        return tuple(scored for _, scored in self._ordered())

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows [K], ascending, and their scores [K]."""
        rows_K, scores_K = np.array(self._rows, dtype=np.int64), np.array(self._scores)
        order = np.argsort(rows_K, kind="stable")
        return rows_K[order], scores_K[order]

    def _ordered(self) -> list[tuple[int, ScoredWindow]]:
        ordered = sorted(self._by_record.items(), key=lambda item: (-item[1].score, item[0]))
        return ordered[: self._top]


def top_rows(scores_K: np.ndarray, rows_K: np.ndarray, record_N: np.ndarray, top: int) -> list[int]:
    """The best row of each of the `top` records that score highest, ties by order in the corpus.

    Args:
        scores_K, rows_K: of the windows that were scored, rows ascending.
        record_N: the record of every window of the index.
    """
    rows: dict[int, int] = {}
    for k in np.argsort(-scores_K, kind="stable"):
        row = int(rows_K[k])
        rows.setdefault(int(record_N[row]), row)
        if len(rows) == top:
            break
    return list(rows.values())
