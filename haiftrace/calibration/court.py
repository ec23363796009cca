"""An index's calibrations, read once, and the verdict on each finding of a trace."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from haiftrace.calibration.null_distribution import (
    FORMAT,
    Draws,
    by_record,
    calibration_name,
    read_draws,
    read_groups,
    told,
)
from haiftrace.calibration.p_values import Field
from haiftrace.calibration.verdict import Trial, judge
from haiftrace.findings import Verdict
from haiftrace.methods import DEFAULT_METHOD, LayerwiseMethod, Method
from haiftrace.methods.settings import MethodSettings
from haiftrace.scoring.top_records import Tally
from haiftrace.store import Index


class Court:
    """Judges what traces over one index find."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._draws: dict[str, Draws] = {}

    def judge(
        self,
        method: Method,
        settings: MethodSettings,
        alpha: float,
        tally: Tally,
        scale: float,
        tokens: int,
        reasons: Sequence[str],
    ) -> tuple[Verdict, list[float | None]]:
        """The verdict on a ranking, and the p-value of each of its records.

        Args:
            tally: what was scored.
            tokens: of the response that are traced.
            scale: what makes a score one over the norm of the question's gradient.
            reasons: why the verdict is inconclusive whatever the calibration says.
        """
        ranked = [scored.window.record for scored in tally.result()]
        lacking = self._lacking(method, settings)
        if lacking is not None:
            verdict = Verdict("inconclusive", alpha, reasons=(lacking, *reasons))
            return verdict, [None for _ in ranked]
        rows, scores = tally.scores()
        records = self._index.manifest.totals.records
        exact = by_record(scores * scale, self._record_N[rows], records)
        field = Field(exact, self._groups, isinstance(method, LayerwiseMethod))
        return judge(Trial(field, ranked, tokens), self._of(method), alpha, reasons)

    def _lacking(self, method: Method, settings: MethodSettings) -> str | None:
        """Why there is nothing to compare with, and the command that changes it."""
        entry = self._index.supplement(calibration_name(method.name))
        methods = [] if method.name == DEFAULT_METHOD else ["--methods", method.name]
        options = [*methods, *settings.options([method]), "--calibrate", "512"]
        command = shlex.join(["haiftrace", "index", "-o", str(self._index.path), *options])
        if entry is None or not self._has_groups:
            return f"the index is not calibrated for {method.name}: {command}"
        if entry.settings["format"] != FORMAT:
            return f"the index was calibrated by another version of haiftrace: {command}"
        if entry.settings["told"] != told(method, settings):
            return f"the index is calibrated for other settings of {method.name}"
        return None

    def _of(self, method: Method) -> Draws:
        if method.name not in self._draws:
            self._draws[method.name] = read_draws(self._index, method.name)
        return self._draws[method.name]

    @cached_property
    def _has_groups(self) -> bool:
        return read_groups(self._index) is not None

    @cached_property
    def _groups(self) -> np.ndarray:
        groups = read_groups(self._index)
        assert groups is not None
        return groups

    @cached_property
    def _record_N(self) -> np.ndarray:
        return self._index.column("record")
