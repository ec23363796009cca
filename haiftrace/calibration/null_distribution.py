"""What calibration keeps of a method: its draws with and without their source, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.calibration.p_values import (
    Standing,
    Standings,
    levels_apart,
    nearest_count,
    p_value,
    resolves,
)
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
FORMAT = 6
"""Of draws and groups; 2: controls have their sentence before them, sources may be near copies; 3:
margins are to the best few, and kept with their level; 4: scores are exact; 5: a control has
one length; 6: what holds a rare part of its span is left out."""


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
    def count(self) -> int:
        """How many null samples there are."""
        return int(np.count_nonzero(~np.isnan(self.null.margin_N)))

    def compared(self, level: float, tokens: int, alpha: float) -> list[Compared]:
        """What a margin is compared with: the null samples of the nearest lengths of response, and
        those at the nearest levels.

        Margins differ with the length of what is asked, and with the kind of records that come
        near it; a p-value is a matter of the few largest of either, which vary.

        Args:
            level: of the margin (see `Standing`).
            tokens: of the response.
        """
        by_length_N = np.abs(np.log(self.length_N) - np.log(tokens))
        by_level = (levels_apart(kind.level_N, level) for kind in (self.null, self.present))
        null_level_N, present_level_N = by_level
        count = nearest_count(alpha)
        return [
            Compared(
                self._lengths(self.null.nearest(by_length_N, count)),
                self.null.margin_N[self.null.nearest(by_length_N, count)],
                self.present.margin_N[self.present.nearest(by_length_N, count)],
            ),
            Compared(
                self._lengths(self.null.nearest(null_level_N, count)),
                self.null.margin_N[self.null.nearest(null_level_N, count)],
                self.present.margin_N[self.present.nearest(present_level_N, count)],
            ),
        ]

    def _lengths(self, places: np.ndarray) -> tuple[int, ...]:
        return tuple(np.unique(self.length_N[places]).tolist())

    def powers(self, alpha: float = ALPHA) -> dict[int, float]:
        """Power by length of response; empty where the null samples cannot resolve alpha."""
        found: dict[int, float] = {}
        if not resolves(self.count, alpha):
            return found
        for length in np.unique(self.length_N).tolist():
            here = (self.length_N == length) & ~np.isnan(self.present.margin_N)
            clears = [
                largest_p(margin, self.compared(level, length, alpha)) <= alpha
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
