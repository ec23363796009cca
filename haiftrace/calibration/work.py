"""What exact scores of controls would cost, which decides whether they are computed."""

from __future__ import annotations

from dataclasses import dataclass

EXACT_WORK = {"cpu": 2e13, "cuda": 1e16}
"""Floating-point operations that exact scores of all controls may take: some minutes."""

_ROOM = 2e9
"""Bytes of gradients that share a pass; not the machine's own, so that all decide alike."""


@dataclass(frozen=True)
class Scoring:
    """The exact scores of all controls by one method.

    Attributes:
        directions: gradients that ask, of all controls.
        windows: each direction meets so many.
        length: mean tokens of a window.
        parameters, counted: of the model, and of the scope.
    """

    directions: int
    windows: int
    length: float
    parameters: int
    counted: int

    def by_tokens(self) -> float:
        """Operations where each direction meets every token.

        A forward-mode pass is about two forward passes; otherwise every token's gradient is formed,
        by about half a backward pass over its window, and met with as many directions as fit.
        """
        pairs = self.directions * self.windows * self.length
        forward = 4 * self.parameters * pairs
        gradients = 2 * self.parameters * self.length * self.windows * self.length
        return min(forward, 2 * self.counted * pairs + self._passes(1) * gradients)

    def by_sums(self) -> float:
        """Operations where each direction meets one sum of gradients a window."""
        pairs = self.directions * self.windows
        # A question holds its gradient and its direction, which scoring copies once more.
        backward = 6 * self.parameters * self.windows * self.length
        return 2 * self.counted * pairs + self._passes(3) * backward

    def _passes(self, copies: int) -> float:
        return max(1.0, 4 * self.counted * copies * self.directions / _ROOM)
