"""How many controls an index is calibrated with where the user does not say: what they cost."""

from __future__ import annotations

from dataclasses import dataclass

LEAST = 200
"""Controls that alpha 0.01 takes, whatever they cost: the largest two of them may be exceeded."""

LITTLE_WORK = 1e12
"""Multiplications that take a CPU less than a minute."""


@dataclass(frozen=True)
class ControlCost:
    """What controls cost by the layerwise method, beside the passes through the windows.

    Attributes:
        windows: each control is scored on so many.
        labels: mean labels of a window.
        tokens: mean query tokens of a control.
        dot_work: multiplications of one query token's inner products with one label.
        index_work: multiplications that indexing took, about.
    """

    windows: int
    labels: float
    tokens: float
    dot_work: int
    index_work: float

    def affordable(self, wanted: int) -> int:
        """So many of the wanted controls as cost no more than indexing, or little.

        All of them where their tokens cost nothing: such a method is calibrated by request.
        """
        if not self.dot_work:
            return wanted
        each = self.windows * self.labels * self.tokens * self.dot_work
        most = max(self.index_work, LITTLE_WORK) / max(each, 1.0)
        return min(wanted, max(LEAST, int(most)))
