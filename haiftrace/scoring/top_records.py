"""The best records by their best window, in memory that does not grow with the corpus."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from haiftrace.store import StoredWindow


@dataclass(frozen=True)
class Scored:
    """A window and its score.

    Attributes:
        cosine: None where the method has no record-side vector to take an angle with.
        evidence: [T] each token's share of the score, which is their sum.
        pairs: [T] for each position of a query token, its part of `evidence`; None stands for the
            response as one. Only of methods in which tokens meet.
        layers: each layer's share of the score, from the first on; None where layers are not
            judged by themselves.
    """

    window: StoredWindow
    score: float
    cosine: float | None
    evidence: np.ndarray
    pairs: Mapping[int | None, np.ndarray] | None = None
    layers: tuple[float, ...] | None = None


class Best:
    """Keeps the `top` best records, each by its best window; ties by order in the corpus."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._best: dict[int, Scored] = {}

    def add(self, scored: Scored) -> None:
        """One window more."""
        known = self._best.get(scored.window.record)
        if known is None or scored.score > known.score:
            self._best[scored.window.record] = scored
        if len(self._best) > 2 * self._top + 64:
            self._best = dict(self._ordered())

    def result(self) -> list[Scored]:
        """Best first."""
        return [scored for _, scored in self._ordered()]

    def _ordered(self) -> list[tuple[int, Scored]]:
        ordered = sorted(self._best.items(), key=lambda item: (-item[1].score, item[0]))
        return ordered[: self._top]


class Tally(Best):
    """The best records, and the score of every window that was scored."""

    def __init__(self, top: int) -> None:
        super().__init__(top)
        self._rows, self._scores = array("q"), array("d")

    def add(self, scored: Scored) -> None:
        """One window more."""
        super().add(scored)
        self.note(scored.window.row, scored.score)

    def note(self, row: int, score: float) -> None:
        """A window that is known not to be among the best."""
        self._rows.append(row)
        self._scores.append(score)

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows [n] and their scores [n], in the order in which they came."""
        return np.array(self._rows, dtype=np.int64), np.array(self._scores)
