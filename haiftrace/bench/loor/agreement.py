"""Whether methods agree with leave-one-out retraining, as rows of results.json (Table 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from haiftrace.bench.harness.statistics import Proportion, best_rank, interval_row, spearman

LOOR = "loor"
"""The row of retraining itself, which agrees with itself and so has no agreement."""


@dataclass(frozen=True)
class CaseGroup:
    """Test cases that are counted together.

    Attributes:
        questions: "held-out", or "trained" where training showed the answer.
        prediction: "correct" or "incorrect".
    """

    questions: str
    prediction: str


@dataclass(frozen=True)
class Agreement:
    """A method against retraining, on the test cases of a seed and group.

    Attributes:
        group: of the cases.
        method: name in the registry, or `LOOR`.
        seed: of data and training.
        agreed: a flag a case: the method's first record is retraining's first. None for `LOOR`.
        correlations: a rank correlation a case, None where either scores all records alike.
        expected: a flag a case: the first record is about the question's subject.
    """

    group: CaseGroup
    method: str
    seed: int
    agreed: tuple[bool, ...] | None
    correlations: tuple[float | None, ...]
    expected: tuple[bool, ...]


def agreements(
    loor_QR: np.ndarray,
    scores: Mapping[str, np.ndarray],
    groups: Sequence[CaseGroup],
    sources: Sequence[Sequence[int]],
    seed: int,
) -> list[Agreement]:
    """Every method against retraining, group by group; a tie counts against the method.

    Args:
        loor_QR: [cases, records] LOOR scores.
        scores: [cases, records] by method.
        groups: of each case.
        sources: each case's expected records.
    """
    rows = []
    for group in dict.fromkeys(groups):
        cases = [q for q, case_group in enumerate(groups) if case_group == group]
        rows.append(Agreement(group, LOOR, seed, None, (), _expected(loor_QR, sources, cases)))
        for method, scores_QR in scores.items():
            rows.append(
                Agreement(
                    group,
                    method,
                    seed,
                    tuple(best_rank(scores_QR[q], [int(loor_QR[q].argmax())]) == 1 for q in cases),
                    tuple(spearman(_finite(scores_QR[q]), loor_QR[q]).value for q in cases),
                    _expected(scores_QR, sources, cases),
                )
            )
    return rows


def agreement_rows(agreements: Iterable[Agreement]) -> list[dict[str, Any]]:
    """Rows of results.json: one a group, method and seed, and one over all seeds."""
    by_method: dict[tuple[CaseGroup, str], list[Agreement]] = {}
    for agreement in agreements:
        by_method.setdefault((agreement.group, agreement.method), []).append(agreement)
    rows = []
    for of_seeds in by_method.values():
        rows += [_row(agreement.seed, [agreement]) for agreement in of_seeds]
        rows.append(_row("all", of_seeds))
    return rows


def _row(seed: int | str, agreements: Sequence[Agreement]) -> dict[str, Any]:
    expected = [flag for agreement in agreements for flag in agreement.expected]
    agreed = [flag for agreement in agreements for flag in agreement.agreed or ()]
    correlations = [
        value for agreement in agreements for value in agreement.correlations if value is not None
    ]
    agreement_rate = Proportion(sum(agreed), len(agreed))
    expected_rate = Proportion(sum(expected), len(expected))
    return {
        "questions": agreements[0].group.questions,
        "prediction": agreements[0].group.prediction,
        "method": agreements[0].method,
        "seed": seed,
        "n": len(expected),
        "agreement": agreement_rate.value,
        "interval": interval_row(agreement_rate.interval),
        "spearman": float(np.mean(correlations)) if correlations else None,
        "spearman_n": len(correlations),
        "expected": expected_rate.value,
        "expected_interval": interval_row(expected_rate.interval),
    }


def _expected(
    scores_QR: np.ndarray, sources: Sequence[Sequence[int]], cases: Sequence[int]
) -> tuple[bool, ...]:
    return tuple(best_rank(scores_QR[q], sources[q]) == 1 for q in cases)


def _finite(scores_R: np.ndarray) -> np.ndarray:
    # No number is the worst score, as it is in `best_rank`.
    return np.where(np.isnan(scores_R), -np.inf, scores_R)
