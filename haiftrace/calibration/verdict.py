"""From a ranking and a method's draws to p-values and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from haiftrace.calibration.draws import Draws
from haiftrace.calibration.statistics import (
    SPREAD,
    Field,
    histogram,
    p_value,
    power,
    q_values,
    resolves,
    threshold,
)
from haiftrace.findings import Decision, Finding, NullDistribution, Verdict

MISS = 0.01
"""A record that would clear alpha must be outside the shortlist with no larger probability."""


@dataclass(frozen=True)
class Trial:
    """What is to be judged: a question's scores and the records that it ranks.

    Attributes:
        field: the scores over all records.
        records: the ranked records' numbers, best first.
        length: traced tokens of the response.
    """

    field: Field
    records: Sequence[int]
    length: int


def judge(
    trial: Trial, draws: Draws, alpha: float, reasons: Sequence[str] = ()
) -> tuple[Verdict, list[float | None]]:
    """The verdict, and the p-value of each ranked record.

    Args:
        reasons: why it is inconclusive whatever the draws say.
    """
    statistic = draws.chosen()
    every = draws.lengths(statistic)
    usable = [n for n in every if resolves(len(draws.null(statistic, n)), alpha)]
    if not usable:
        most = max((len(draws.null(statistic, n)) for n in every), default=0)
        few = (
            f"{most} controls cannot resolve alpha {alpha:g}: it takes"
            f" {math.ceil(1 / alpha - 1e-9) - 1}"
        )
        return Verdict("inconclusive", alpha, statistic, reasons=(*reasons, few)), [
            None for _ in trial.records
        ]
    nulls = {n: draws.null(statistic, n) for n in compared_lengths(trial.length, usable)}
    values = [trial.field.values(record)[statistic] for record in trial.records]
    found = [{n: p_value(value, null) for n, null in nulls.items()} for value in values]
    p_values: list[float | None] = [max(each.values()) for each in found]
    limits = {n: threshold(null, alpha) for n, null in nulls.items()}
    first = values[0] if values else math.nan
    # Of equal p-values the length whose threshold is the higher one.
    length = max(nulls, key=lambda n: (found[0][n] if found else 1.0, limits[n]))
    p_first = p_values[0] if p_values else None
    why = list(reasons)
    if why:
        pass
    elif math.isnan(first):
        why.append("no record outside the near copies of the first one to compare it with")
    elif p_first is not None and p_first > alpha:
        clear = max(limit for limit in limits.values() if limit is not None)
        if may_hide(trial.field, trial.records[0], statistic, clear):
            why.append(
                "a source may stand outside the shortlist: its vectors are too coarse to tell"
                " (--exact or more --candidates settle it)"
            )
    decision: Decision = "no source found"
    if why:
        decision = "inconclusive"
    elif p_first is not None and p_first <= alpha:
        decision = "traced"
    null = nulls[length]
    edges, counts = histogram(null)
    verdict = Verdict(
        decision=decision,
        alpha=alpha,
        statistic=statistic,
        value=None if math.isnan(first) else first,
        p_value=p_first,
        power=power(draws.present(statistic, length), null, alpha),
        length=length,
        null=NullDistribution(len(null), edges, counts, limits[length]),
        reasons=tuple(why),
    )
    return verdict, p_values


def compared_lengths(length: int, calibrated: Sequence[int]) -> list[int]:
    """The calibrated lengths that a response is compared with, of which the largest p-value counts.

    The next shorter and the next longer one, and its own where that is calibrated: alpha is a
    matter of the few largest of some hundred draws, so no length's are trusted alone.
    """
    own = {n for n in calibrated if n == length}
    below = [n for n in calibrated if n < length]
    above = [n for n in calibrated if n > length]
    return sorted(own | set(sorted(below)[-1:]) | set(sorted(above)[:1]))


def may_hide(field: Field, first: int, statistic: str, clear: float) -> bool:
    """Whether a record outside the shortlist could clear the threshold of a statistic.

    A record with exact score c has the projected score c + error, the error as wide as on the
    scored records, and that lies below the best of those left out. True where this is likelier
    than `MISS` for the smallest c that clears.
    """
    scored = np.isfinite(field.exact)
    if scored.all():
        return False
    error = float(np.sqrt(np.mean((field.background[scored] - field.exact[scored]) ** 2)))
    others = field.background[field.groups != field.groups[first]]
    median = float(np.median(others))
    least = {
        "score": clear,
        "margin": float(field.exact[first]) + clear,
        "relative margin": float(field.best(scored).mean()) * (1 + clear),
        "z-score": median + clear * SPREAD * float(np.median(np.abs(others - median))),
    }[statistic]
    if error == 0:
        return False
    distance = (float(field.background[~scored].max()) - least) / error
    return 0.5 * math.erfc(-distance / math.sqrt(2)) > MISS


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
