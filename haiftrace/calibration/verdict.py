"""From a ranking and a method's control samples to p-values and a verdict."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from haiftrace.calibration.null_distribution import (
    FORMAT,
    ControlSamples,
    calibration_name,
    largest_p,
    read_groups,
    read_samples,
    settings_of,
)
from haiftrace.calibration.p_values import (
    UNDEFINED,
    RecordScores,
    histogram,
    p_value,
    power,
    q_values,
    resolves,
    threshold,
)
from haiftrace.findings import Decision, Finding, NullDistribution, Verdict
from haiftrace.methods import DEFAULT_METHOD, Method
from haiftrace.methods.settings import MethodSettings
from haiftrace.scoring.family import Ranking
from haiftrace.store import Index


class Verdicts:
    """The verdicts on rankings over one index, whose calibrations are read once."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._samples: dict[str, ControlSamples] = {}

    def of(
        self,
        method: Method,
        settings: MethodSettings,
        alpha: float,
        ranking: Ranking,
        tokens: int,
        reasons: Sequence[str],
    ) -> tuple[Verdict | None, Sequence[float | None]]:
        """The verdict on a ranking, and the p-value of each of its records.

        No verdict on methods that have none.

        Args:
            tokens: of the response that are traced.
            reasons: why the verdict is inconclusive whatever the calibration says.
        """
        ranked = [scored.window.record for scored in ranking.records]
        if not method.has_verdicts:
            return None, [None for _ in ranked]
        lacking = self._lacking(method, settings)
        if lacking is not None:
            verdict = Verdict("inconclusive", alpha, reasons=(lacking, *reasons))
            return verdict, [None for _ in ranked]
        records = self._index.manifest.totals.records
        scores_R = ranking.scores.by_record(self._record_N, records)
        scores = RecordScores(scores_R, self._groups_R, method.relative_margin)
        return verdict_on(scores, ranked, tokens, self._of(method), alpha, reasons)

    def _lacking(self, method: Method, settings: MethodSettings) -> str | None:
        """Why there is nothing to compare with, and the command that changes it."""
        entry = self._index.supplement(calibration_name(method.name))
        methods = [] if method.name == DEFAULT_METHOD else ["--method", method.name]
        options = [*methods, *settings.options([method]), "--calibrate", "512"]
        command = shlex.join(["haiftrace", "index", "-o", self._index.place, *options])
        if entry is None or read_groups(self._index) is None:
            return f"the index is not calibrated for {method.name}: {command}"
        if entry.settings["format"] != FORMAT:
            return f"the index was calibrated by another version of haiftrace: {command}"
        if entry.settings["settings"] != settings_of(method, settings):
            return f"the index is calibrated for other settings of {method.name}"
        return None

    def _of(self, method: Method) -> ControlSamples:
        if method.name not in self._samples:
            self._samples[method.name] = read_samples(self._index, method.name)
        return self._samples[method.name]

    @cached_property
    def _groups_R(self) -> np.ndarray:
        groups_R = read_groups(self._index)
        assert groups_R is not None
        return groups_R

    @cached_property
    def _record_N(self) -> np.ndarray:
        return self._index.column("record")


def verdict_on(
    scores: RecordScores,
    ranked: Sequence[int],
    tokens: int,
    samples: ControlSamples,
    alpha: float,
    reasons: Sequence[str] = (),
) -> tuple[Verdict, list[float | None]]:
    """The verdict, and the p-value of each ranked record.

    Args:
        scores: over all records.
        ranked: the ranked records' numbers, best first.
        tokens: of the response that are traced.
        reasons: why it is inconclusive whatever the samples say.
    """
    if not resolves(samples.count, alpha):
        few = (
            f"{samples.count} controls cannot resolve alpha {alpha:g}: it takes"
            f" {math.ceil(1 / alpha - 1e-9) - 1}"
        )
        return Verdict("inconclusive", alpha, scores.statistic, reasons=(*reasons, few)), [
            None for _ in ranked
        ]
    margins = [scores.margin(record) for record in ranked]
    p_values = [
        largest_p(margin.value, samples.compared(margin.level, tokens, alpha)) for margin in margins
    ]
    first = margins[0] if margins else UNDEFINED
    p_first = p_values[0] if p_values else None
    why = list(reasons)
    if not why and math.isnan(first.value):
        why.append("no record outside the near copies of the first one to compare it with")
    # What counted: of equal p-values the samples whose threshold is the highest.
    against = max(
        samples.compared(first.level, tokens, alpha),
        key=lambda compared: (
            p_value(first.value, compared.null),
            threshold(compared.null, alpha),
        ),
    )
    edges, counts = histogram(against.null)
    limit = threshold(against.null, alpha)
    verdict = Verdict(
        decision=_decision(p_first, alpha, why),
        alpha=alpha,
        statistic=scores.statistic,
        value=None if math.isnan(first.value) else first.value,
        p_value=p_first,
        power=power(against.present, against.null, alpha),
        lengths=against.lengths,
        null=NullDistribution(len(against.null), edges, counts, limit),
        reasons=tuple(why),
    )
    return verdict, list(p_values)


def _decision(p_first: float | None, alpha: float, reasons: Sequence[str]) -> Decision:
    if reasons:
        return "inconclusive"
    return "traced" if p_first is not None and p_first <= alpha else "no source found"


def with_q_values(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with q-values over all p-values of the same method in the run."""
    places: dict[str, list[int]] = {}
    for place, finding in enumerate(findings):
        if finding.verdict is not None and finding.verdict.p_value is not None:
            places.setdefault(finding.method, []).append(place)
    changed = list(findings)
    for same in places.values():
        verdicts = [v for place in same if (v := findings[place].verdict) is not None]
        p_values = [v.p_value for v in verdicts if v.p_value is not None]
        for place, verdict, q in zip(same, verdicts, q_values(p_values), strict=True):
            changed[place] = replace(findings[place], verdict=replace(verdict, q_value=q))
    return changed
