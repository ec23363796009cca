"""From a ranking and a method's draws to p-values and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from haiftrace.calibration.draws import Draws, largest_p
from haiftrace.calibration.statistics import (
    UNDEFINED,
    Field,
    histogram,
    p_value,
    power,
    q_values,
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
    """

    field: Field
    records: Sequence[int]


def judge(
    trial: Trial, draws: Draws, alpha: float, reasons: Sequence[str] = ()
) -> tuple[Verdict, list[float | None]]:
    """The verdict, and the p-value of each ranked record.

    Args:
        reasons: why it is inconclusive whatever the draws say.
    """
    if not draws.lengths(alpha):
        few = (
            f"{max(draws.counts.values(), default=0)} controls cannot resolve alpha {alpha:g}: it"
            f" takes {math.ceil(1 / alpha - 1e-9) - 1}"
        )
        return Verdict("inconclusive", alpha, trial.field.statistic, reasons=(*reasons, few)), [
            None for _ in trial.records
        ]
    standings = [trial.field.standing(record) for record in trial.records]
    p_values = [largest_p(one.margin, draws.compared(one.level, alpha)) for one in standings]
    first = standings[0] if standings else UNDEFINED
    p_first = p_values[0] if p_values else None
    why = list(reasons)
    if why:
        pass
    elif math.isnan(first.margin):
        why.append("no record outside the near copies of the first one to compare it with")
    elif p_values[0] > alpha and may_hide(trial.field, draws, alpha):
        why.append(
            "a source may stand outside the shortlist: its vectors are too coarse to tell"
            " (--exact or more --candidates settle it)"
        )
    decision: Decision = "no source found"
    if why:
        decision = "inconclusive"
    elif p_first is not None and p_first <= alpha:
        decision = "traced"
    # What counted: of equal p-values the draws whose threshold is the highest.
    against = max(
        draws.compared(first.level, alpha),
        key=lambda one: (p_value(first.margin, one.null), threshold(one.null, alpha)),
    )
    edges, counts = histogram(against.null)
    limit = threshold(against.null, alpha)
    verdict = Verdict(
        decision=decision,
        alpha=alpha,
        statistic=trial.field.statistic,
        value=None if math.isnan(first.margin) else first.margin,
        p_value=p_first,
        power=power(against.present, against.null, alpha),
        lengths=against.lengths,
        null=NullDistribution(len(against.null), edges, counts, limit),
        reasons=tuple(why),
    )
    return verdict, list(p_values)


def may_hide(field: Field, draws: Draws, alpha: float) -> bool:
    """Whether a record outside the shortlist could clear alpha.

    A record with exact score c has the projected score c + error, the error as wide as on the
    scored records, and that lies below the best of those left out. True where this is likelier
    than `MISS` for the smallest c that clears: against the best of those that were scored.
    """
    scored = np.isfinite(field.exact)
    if scored.all():
        return False
    error = float(np.sqrt(np.mean((field.background[scored] - field.exact[scored]) ** 2)))
    level = float(field.best(scored).mean())
    if error == 0:
        return False
    compared = draws.compared(level, alpha)
    limit = max(threshold(one.null, alpha) or 0.0 for one in compared)
    distance = (float(field.background[~scored].max()) - field.at(limit, level)) / error
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
