"""What the families of methods over full gradients share: what a query of theirs takes."""

from __future__ import annotations

from collections.abc import Sequence

from haiftrace.scoring.indexed_model import IndexedModel

QUERIES_OF_A_PASS = 64
"""Queries whose scores are computed in one pass, at most: what is not durable is lost with it."""


class FullGradientFamily:
    """Scores an index's windows by full gradients, of the traced checkpoint or of several."""

    def __init__(self, model: IndexedModel) -> None:
        self._model = model

    def notes(self) -> Sequence[str]:
        """What the user should know of the model's full gradients."""
        return self._model.engine.notes

    def queries_of_a_pass(self, memory: int) -> int:
        """Queries of which two gradients, and a copy in the pass, fit the memory.

        The two are the query's own and its query vector, or those at two checkpoints.
        """
        room = memory // (3 * self._model.engine.gradient_bytes)
        return max(1, min(QUERIES_OF_A_PASS, room))

    def token_work(self) -> int:
        """None: a query is one vector, whatever its length."""
        return 0
