"""From a ranking and a method's draws to p-values and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from haiftrace.calibration.null_distribution import Draws, largest_p
from haiftrace.calibration.p_values import (
    UNDEFINED,
    Field,
    histogram,
    p_value,
    power,
    q_values,
    resolves,
    threshold,
)
from haiftrace.findings import Decision, Finding, NullDistribution, Verdict


@dataclass(frozen=True)
class Trial:
    """What is to be judged: a question's scores and the records that it ranks.

    Attributes:
        field: the scores over all records.
        records: the ranked records' numbers, best first.
        tokens: of the response that are traced.
    """

    field: Field
    records: Sequence[int]
    tokens: int


def judge(
    trial: Trial, draws: Draws, alpha: float, reasons: Sequence[str] = ()
) -> tuple[Verdict, list[float | None]]:
    """The verdict, and the p-value of each ranked record.

    Args:
        reasons: why it is inconclusive whatever the draws say.
    """
    if not resolves(draws.count, alpha):
        few = (
            f"{draws.count} controls cannot resolve alpha {alpha:g}: it takes"
            f" {math.ceil(1 / alpha - 1e-9) - 1}"
        )
        return Verdict("inconclusive", alpha, trial.field.statistic, reasons=(*reasons, few)), [
            None for _ in trial.records
        ]
    standings = [trial.field.standing(record) for record in trial.records]
    p_values = [
        largest_p(one.margin, draws.compared(one.level, trial.tokens, alpha)) for one in standings
    ]
    first = standings[0] if standings else UNDEFINED
    p_first = p_values[0] if p_values else None
    why = list(reasons)
    if not why and math.isnan(first.margin):
        why.append("no record outside the near copies of the first one to compare it with")
    decision: Decision = "no source found"
    if why:
        decision = "inconclusive"
    elif p_first is not None and p_first <= alpha:
        decision = "traced"
    # What counted: of equal p-values the draws whose threshold is the highest.
    against = max(
        draws.compared(first.level, trial.tokens, alpha),
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
