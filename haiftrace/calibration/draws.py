"""What calibration keeps of a method: its draws with and without their source, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.calibration.statistics import Standing, Standings, p_value, resolves
from haiftrace.methods import Method
from haiftrace.methods.settings import MethodSettings
from haiftrace.store import Index
from haiftrace.store.manifest import plain

if TYPE_CHECKING:
    from torch import Tensor

ALPHA = 0.01
"""False-accusation rate at which power is told."""
GROUPS = "near-copies"
"""The supplement with the group of each record."""
FORMAT = 4
"""Of draws and groups; 2: controls have their sentence before them, sources may be near copies; 3:
margins are to the best few, and kept with their level; 4: scores are exact."""


@dataclass(frozen=True)
class Draw:
    """One control at one length.

    Attributes:
        length: tokens of the span.
        null: that of the best record where source and near copies are left out.
        present: of a source: the best of the record's near copies that hold the span, since a
            question has other words around it too; where there is none, the record itself.
    """

    length: int
    null: Standing
    present: Standing


@dataclass(frozen=True)
class Compared:
    """Draws that a margin is compared with.

    Attributes:
        lengths: tokens of their spans.
        null, present: their margins, without and with their source.
    """

    lengths: tuple[int, ...]
    null: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class Draws:
    """Draws of one method, N in all.

    Attributes:
        length_N: tokens of each control's span.
        null, present: see `Draw`.
    """

    length_N: np.ndarray
    null: Standings
    present: Standings

    @cached_property
    def counts(self) -> dict[int, int]:
        """How many null draws each length has, ascending."""
        lengths, counts = np.unique(
            self.length_N[~np.isnan(self.null.margin_N)], return_counts=True
        )
        return dict(zip(lengths.tolist(), counts.tolist(), strict=True))

    def lengths(self, alpha: float) -> list[int]:
        """The lengths with enough null draws for a p-value as low as alpha."""
        return [length for length, count in self.counts.items() if resolves(count, alpha)]

    def compared(self, level: float, alpha: float) -> list[Compared]:
        """What a margin at a level is compared with: the draws of each length that resolves alpha,
        and of all of them together those at the nearest levels.

        Alpha is a matter of the few largest draws, which vary, and margins differ with the length
        of what is asked: no draws are trusted alone. A length with less than half of the draws of
        another, since few windows are so long, counts among all of them only.
        """
        lengths, most = self.lengths(alpha), max(self.counts.values(), default=0)
        many = [length for length in lengths if 2 * self.counts[length] >= most]
        of_each = [(length, self.length_N == length) for length in many]
        among_N = np.isin(self.length_N, lengths)
        return [
            *(Compared((n,), self.null.all(of_N), self.present.all(of_N)) for n, of_N in of_each),
            Compared(
                tuple(lengths),
                self.null.near(level, among_N, alpha),
                self.present.near(level, among_N, alpha),
            ),
        ]

    def powers(self, alpha: float = ALPHA) -> dict[int, float]:
        """Power by length, of those that resolve alpha: each draw against the null at its level."""
        found = {}
        for length in self.lengths(alpha):
            here = (self.length_N == length) & ~np.isnan(self.present.margin_N)
            clears = [
                largest_p(margin, self.compared(level, alpha)) <= alpha
                for margin, level in zip(
                    self.present.margin_N[here], self.present.level_N[here], strict=True
                )
            ]
            found[length] = float(np.mean(clears)) if clears else 0.0
        return found


def largest_p(margin: float, compared: Sequence[Compared]) -> float:
    """The p-value that counts: the largest."""
    return max(p_value(margin, one.null) for one in compared)


def calibration_name(method: str) -> str:
    """Name of the supplement with a method's draws."""
    return f"calibration-{method}"


def told(method: Method, settings: MethodSettings) -> dict[str, Any]:
    """The settings that a method's draws hold for."""
    return plain(settings.described([method]))


def draw_tensors(draws: Sequence[Draw]) -> dict[str, Tensor]:
    """A block of draws as it is kept."""
    import torch

    tensors = {"length": torch.tensor([draw.length for draw in draws], dtype=torch.int64)}
    for kind in ("null", "present"):
        for part in ("margin", "level"):
            values = [getattr(getattr(draw, kind), part) for draw in draws]
            tensors[f"{kind}-{part}"] = torch.tensor(values, dtype=torch.float64)
    return tensors


def read_draws(index: Index, method: str) -> Draws:
    """A method's draws; `index.supplement(calibration_name(method))` must be there.

    Raises:
        IndexStoreError: a file is damaged.
    """
    blocks = [tensors for tensors, _ in index.supplement_tensors(calibration_name(method))]

    def joined(key: str) -> np.ndarray:
        parts = [block[key].numpy() for block in blocks]
        return np.concatenate(parts) if parts else np.zeros(0)

    null, present = (
        Standings(joined(f"{kind}-margin"), joined(f"{kind}-level")) for kind in ("null", "present")
    )
    return Draws(joined("length"), null, present)


def read_groups(index: Index) -> np.ndarray | None:
    """[R] the near-copy group of each record; None where the index holds none."""
    if index.supplement(GROUPS) is None:
        return None
    for tensors, _ in index.supplement_tensors(GROUPS):
        groups: np.ndarray = tensors["groups"].numpy()
        return groups
    return None


def by_record(values_N: np.ndarray, record_N: np.ndarray, records: int) -> np.ndarray:
    """[records] the largest value of each record's windows; -inf where it has none here."""
    best = np.full(records, -np.inf)
    np.maximum.at(best, record_N, values_N)
    return best
