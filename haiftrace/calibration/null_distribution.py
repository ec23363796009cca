"""The null distribution of a method: its control samples, with and without their source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.calibration.p_values import (
    Margin,
    Margins,
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
"""False-accusation rate at which power is reported."""
GROUPS = "near-copies"
"""The supplement with the group of each record."""
FORMAT = 7
"""Of samples and groups; 2: controls have their sentence before them, sources may be near copies;
3: margins are to the best few, and kept with their level; 4: scores are exact; 5: a control has
one length; 6: what holds a rare pair of tokens of its span is left out; 7: other names of keys."""


@dataclass(frozen=True)
class ControlSample:
    """The margins of one control query.

    Attributes:
        length: tokens of the span.
        null: of the highest record where source and near copies are left out: a null sample.
        present: of a source: the highest of the record's near copies that hold the span, since a
            question has other words around it too; where there is none, the record itself.
    """

    length: int
    null: Margin
    present: Margin


@dataclass(frozen=True)
class ComparedSamples:
    """Samples that a margin is compared with.

    Attributes:
        lengths: tokens of their spans.
        null, present: their margins, without and with their source.
    """

    lengths: tuple[int, ...]
    null: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class ControlSamples:
    """Control samples of one method, N in all.

    Attributes:
        length_N: tokens of each control's span.
        null, present: see `ControlSample`.
    """

    length_N: np.ndarray
    null: Margins
    present: Margins

    @cached_property
    def count(self) -> int:
        """How many null samples there are."""
        return int(np.count_nonzero(~np.isnan(self.null.value_N)))

    def compared(self, level: float, tokens: int, alpha: float) -> list[ComparedSamples]:
        """What a margin is compared with: the null samples of the nearest lengths of response, and
        those at the nearest levels.

        Margins differ with the length of the response, and with the kind of records that come
        near it; a p-value is a matter of the few largest of either, which vary.

        Args:
            level: of the margin (see `Margin`).
            tokens: of the response.
        """
        by_length_N = np.abs(np.log(self.length_N) - np.log(tokens))
        by_level = (levels_apart(kind.level_N, level) for kind in (self.null, self.present))
        null_level_N, present_level_N = by_level
        count = nearest_count(alpha)
        return [
            ComparedSamples(
                self._lengths(self.null.nearest(by_length_N, count)),
                self.null.value_N[self.null.nearest(by_length_N, count)],
                self.present.value_N[self.present.nearest(by_length_N, count)],
            ),
            ComparedSamples(
                self._lengths(self.null.nearest(null_level_N, count)),
                self.null.value_N[self.null.nearest(null_level_N, count)],
                self.present.value_N[self.present.nearest(present_level_N, count)],
            ),
        ]

    def _lengths(self, places: np.ndarray) -> tuple[int, ...]:
        return tuple(np.unique(self.length_N[places]).tolist())

    def powers(self, alpha: float = ALPHA) -> dict[int, float]:
        """Power by length of response; empty where the null samples cannot resolve alpha."""
        powers: dict[int, float] = {}
        if not resolves(self.count, alpha):
            return powers
        for length in np.unique(self.length_N).tolist():
            here = (self.length_N == length) & ~np.isnan(self.present.value_N)
            clears = [
                largest_p(margin, self.compared(level, length, alpha)) <= alpha
                for margin, level in zip(
                    self.present.value_N[here], self.present.level_N[here], strict=True
                )
            ]
            powers[length] = float(np.mean(clears)) if clears else 0.0
        return powers


def largest_p(margin: float, compared: Sequence[ComparedSamples]) -> float:
    """The p-value that counts: the largest."""
    return max(p_value(margin, samples.null) for samples in compared)


def calibration_name(method: str) -> str:
    """Name of the supplement with a method's control samples."""
    return f"calibration-{method}"


def settings_of(method: Method, settings: MethodSettings) -> dict[str, Any]:
    """The settings that a method's control samples hold for."""
    return plain(settings.described([method]))


def sample_tensors(samples: Sequence[ControlSample]) -> dict[str, Tensor]:
    """A block of samples as it is kept."""
    import torch

    tensors = {"length": torch.tensor([sample.length for sample in samples], dtype=torch.int64)}
    for kind in ("null", "present"):
        margins: list[Margin] = [getattr(sample, kind) for sample in samples]
        for key, values in (
            ("margin", [margin.value for margin in margins]),
            ("level", [margin.level for margin in margins]),
        ):
            tensors[f"{kind}-{key}"] = torch.tensor(values, dtype=torch.float64)
    return tensors


def read_samples(index: Index, method: str) -> ControlSamples:
    """A method's control samples; `index.supplement(calibration_name(method))` must be there.

    Raises:
        IndexStoreError: a file is damaged.
    """
    blocks = [tensors for tensors, _ in index.supplement_tensors(calibration_name(method))]

    def joined(key: str) -> np.ndarray:
        values = [block[key].numpy() for block in blocks]
        return np.concatenate(values) if values else np.zeros(0)

    null, present = (
        Margins(joined(f"{kind}-margin"), joined(f"{kind}-level")) for kind in ("null", "present")
    )
    return ControlSamples(joined("length"), null, present)


def read_groups(index: Index) -> np.ndarray | None:
    """[R] the near-copy group of each record; None where the index holds none."""
    if index.supplement(GROUPS) is None:
        return None
    for tensors, _ in index.supplement_tensors(GROUPS):
        groups: np.ndarray = tensors["groups"].numpy()
        return groups
    return None
