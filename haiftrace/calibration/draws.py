"""What calibration keeps of a method: its draws with and without their source, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.calibration.statistics import (
    OF_STRENGTHS,
    STATISTICS,
    WITHIN_A_QUESTION,
    Values,
    power,
    resolves,
)
from haiftrace.methods import LateMethod, Method, find_methods
from haiftrace.methods.settings import MethodSettings
from haiftrace.store import Index
from haiftrace.store.manifest import plain

if TYPE_CHECKING:
    from torch import Tensor

ALPHA = 0.01
"""False-accusation rate at which the statistic is chosen."""
GROUPS = "near-copies"
"""The supplement with the group of each record."""
ESTIMATED = "estimated"
"""The setting that says whether the draws are of estimated scores."""
FORMAT = 3
"""Of draws and groups; 2: controls have their sentence before them, sources may be near copies; 3:
short spans begin long ones, and margins are kept over the median too."""


@dataclass(frozen=True)
class Draw:
    """One control at one length.

    Attributes:
        length: tokens of the span.
        null: statistics of the best record where source and near copies are left out.
        present: of a source: the best of the record's near copies that hold the span, since a
            question has other words around it too; where there is none, the record itself.
    """

    length: int
    null: Values
    present: Values


@dataclass(frozen=True)
class Draws:
    """Draws of one method, N in all.

    Attributes:
        length_N: tokens of each control's span.
        null_N, present_N: by statistic.
        candidates: the statistics that one is chosen from.
    """

    length_N: np.ndarray
    null_N: Mapping[str, np.ndarray]
    present_N: Mapping[str, np.ndarray]
    candidates: Sequence[str] = WITHIN_A_QUESTION

    def lengths(self, statistic: str) -> list[int]:
        """The lengths that have a null draw, ascending."""
        defined = ~np.isnan(self.null_N[statistic])
        return [int(length) for length in np.unique(self.length_N[defined])]

    def null(self, statistic: str, length: int) -> np.ndarray:
        """Null draws of a length."""
        return self._defined(self.null_N[statistic], length)

    def present(self, statistic: str, length: int) -> np.ndarray:
        """Draws of a length with the source there."""
        return self._defined(self.present_N[statistic], length)

    def _defined(self, values: np.ndarray, length: int) -> np.ndarray:
        chosen = values[self.length_N == length]
        return chosen[~np.isnan(chosen)]

    def powers(self, statistic: str, alpha: float = ALPHA) -> dict[int, float]:
        """Power by length."""
        return {
            length: power(self.present(statistic, length), self.null(statistic, length), alpha)
            for length in self.lengths(statistic)
        }

    def chosen(self) -> str:
        """Of the candidates that with the largest mean power over the lengths, the first of equals.

        At `ALPHA`, or the smallest that the draws of a length resolve, where that is larger.
        """

        def mean_power(statistic: str) -> float:
            found = []
            for length in self.lengths(statistic):
                null = self.null(statistic, length)
                alpha = ALPHA if resolves(len(null), ALPHA) else 1.0 / (1 + len(null))
                found.append(power(self.present(statistic, length), null, alpha))
            return float(np.mean(found)) if found else -1.0

        return max(self.candidates, key=mean_power)


def calibration_name(method: str) -> str:
    """Name of the supplement with a method's draws."""
    return f"calibration-{method}"


def is_estimated(index: Index, method: str) -> bool:
    """Whether a method's draws, where the index has any, are of estimated scores."""
    entry = index.supplement(calibration_name(method))
    return entry is not None and bool(entry.settings.get(ESTIMATED, False))


def told(method: Method, settings: MethodSettings) -> dict[str, Any]:
    """The settings that a method's draws hold for."""
    return plain(settings.described([method]))


def candidates_of(method: Method) -> tuple[str, ...]:
    """The statistics that compare a method's scores within one question.

    HAIF-LI's score is a sum of deviations over the question's other records already; its margin is
    no longer comparable between questions of other lengths and kinds. Of the other late interaction
    the margin counts relative to the level of the question's scores.
    """
    if isinstance(method, LateMethod):
        return ("score",) if method.standardised else OF_STRENGTHS
    return WITHIN_A_QUESTION


def draw_tensors(draws: Sequence[Draw]) -> dict[str, Tensor]:
    """A block of draws as it is kept."""
    import torch

    tensors = {"length": torch.tensor([draw.length for draw in draws], dtype=torch.int64)}
    for statistic in STATISTICS:
        for kind in ("null", "present"):
            values = [getattr(draw, kind)[statistic] for draw in draws]
            tensors[f"{kind}-{statistic}"] = torch.tensor(values, dtype=torch.float64)
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

    return Draws(
        joined("length"),
        {statistic: joined(f"null-{statistic}") for statistic in STATISTICS},
        {statistic: joined(f"present-{statistic}") for statistic in STATISTICS},
        candidates_of(find_methods(method)[0]),
    )


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
