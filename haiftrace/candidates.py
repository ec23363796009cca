"""Which windows are scored exactly: what the index's vectors propose for a question.

The same vectors estimate every window's score, which is the background of a verdict.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods import GradientMethod, Method, Rule
from haiftrace.methods.settings import MethodSettings
from haiftrace.scoring.directions import Question
from haiftrace.store import Index

if TYPE_CHECKING:
    from haiftrace.engine import GradientEngine

CANDIDATES = 256
"""Windows that are scored exactly where nothing else is said."""


@dataclass(frozen=True)
class Room:
    """How many windows are scored exactly.

    Attributes:
        exact: all of them.
        candidates: see `TraceSettings`.
    """

    exact: bool
    candidates: int | None


class Candidates:
    """Proposals from one index.

    Args:
        index: the opened index.
        engine: over the index's own scope.
    """

    def __init__(self, index: Index, engine: GradientEngine) -> None:
        self._index = index
        self._engine = engine

    def of(
        self,
        question: Question,
        methods: Sequence[GradientMethod],
        settings: MethodSettings,
        room: Room,
        notes: dict[str, list[str]],
    ) -> Collection[int]:
        """Rows to be scored exactly: what any of the methods needs."""
        everything = range(len(self._index))
        count = room.candidates or CANDIDATES
        if room.exact or count >= len(everything):
            return everything
        unfit = [m for m in methods if not has_vector(m, settings)]
        for method in unfit:
            notes[method.name].append(
                f"the index holds no vector that fits {method.name}: every record was scored"
            )
        if unfit:
            return everything
        vector = self.projected(question)
        rows: set[int] = set()
        for method in methods:
            rows |= set(self._proposed(vector, str(method.shortlist_column), count))
        return rows

    def projected(self, question: Question) -> np.ndarray:
        """[D] the projection of the unit vector v/‖v‖, as the index's vectors are projected."""
        projector = self._engine.projector(
            self._index.layout.projection_dim, self._index.settings["seed"]
        )
        # A unit vector keeps tiny gradients within float32.
        projected: np.ndarray = (
            self._engine.project(question.direction.unit, projector).float().cpu().numpy()
        )
        return projected

    def has_background(self, method: Method, settings: MethodSettings) -> bool:
        """Whether the index's vectors rank every window for a method."""
        return isinstance(method, GradientMethod) and has_vector(method, settings)

    def background(
        self, question: Question, method: Method, settings: MethodSettings
    ) -> np.ndarray | None:
        """[N] projected scores of every window over ‖v‖; None where no vector fits the method."""
        (found,) = self.backgrounds([question], method, settings)
        return found

    def backgrounds(
        self, questions: Sequence[Question], method: Method, settings: MethodSettings
    ) -> list[np.ndarray] | list[None]:
        """The same of several questions."""
        if not self.has_background(method, settings):
            return [None for _ in questions]
        assert isinstance(method, GradientMethod)
        column = str(method.shortlist_column)
        scale = self._index.column(column) if column else 1.0
        sides = (self.projected(question) for question in questions)
        return [
            self._index.vectors_inner_products(side).astype(np.float64) * scale for side in sides
        ]

    def _proposed(self, vector: np.ndarray, column: str, count: int) -> list[int]:
        if not column:
            proposed, _ = self._index.shortlist(vector, count)
        else:
            products = self._index.vectors_inner_products(vector) * self._index.column(column)
            proposed = np.argsort(-products, kind="stable")[:count]
        return [int(row) for row in proposed]


def has_vector(method: GradientMethod, settings: MethodSettings) -> bool:
    """Whether the index's vectors rank for this method: they are HAIF's sums of unit gradients."""
    plain = settings.combine == "sum" and settings.adjustment == Rule().adjustment
    return method.shortlist_column is not None and (plain or not method.adjusted)
