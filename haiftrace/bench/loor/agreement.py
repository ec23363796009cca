"""Whether methods agree with leave-one-out retraining, as rows of results.json (Table 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from haiftrace.bench.harness.statistics import Proportion, best_rank, spearman

LOOR = "loor"
"""The row of retraining itself, which agrees with itself and so has no agreement."""


@dataclass(frozen=True)
class Group:
    """Test cases that are counted together.

    Attributes:
        questions: "held-out", or "trained" where training showed the answer.
        prediction: "correct" or "incorrect".
    """

    questions: str
    prediction: str


@dataclass(frozen=True)
class Agreement:
    """One method against retraining, on one seed's test cases of one group.

    Attributes:
        group: of the cases.
        method: name in the registry, or `LOOR`.
        seed: of data and training.
        agreed: a flag a case: the method's first record is retraining's first. None for `LOOR`.
        correlations: a rank correlation a case, None where either side scores all records alike.
        expected: a flag a case: the first record is one about the subject that is asked about.
    """

    group: Group
    method: str
    seed: int
    agreed: tuple[bool, ...] | None
    correlations: tuple[float | None, ...]
    expected: tuple[bool, ...]


def agreements(
    loor_QR: np.ndarray,
    scores: Mapping[str, np.ndarray],
    groups: Sequence[Group],
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
    found = []
    for group in dict.fromkeys(groups):
        chosen = [q for q, its in enumerate(groups) if its == group]
        found.append(Agreement(group, LOOR, seed, None, (), _expected(loor_QR, sources, chosen)))
        for method, scores_QR in scores.items():
            found.append(
                Agreement(
                    group,
                    method,
                    seed,
                    tuple(best_rank(scores_QR[q], [int(loor_QR[q].argmax())]) == 1 for q in chosen),
                    tuple(spearman(_finite(scores_QR[q]), loor_QR[q]).value for q in chosen),
                    _expected(scores_QR, sources, chosen),
                )
            )
    return found


def agreement_rows(found: Iterable[Agreement]) -> list[dict[str, Any]]:
    """Rows of results.json: one a group, method and seed, and one over all seeds."""
    together: dict[tuple[Group, str], list[Agreement]] = {}
    for one in found:
        together.setdefault((one.group, one.method), []).append(one)
    rows = []
    for parts in together.values():
        rows += [_row(one.seed, [one]) for one in parts]
        rows.append(_row("all", parts))
    return rows


def _row(seed: int | str, parts: Sequence[Agreement]) -> dict[str, Any]:
    expected = [flag for one in parts for flag in one.expected]
    agreed = [flag for one in parts for flag in one.agreed or ()]
    known = [value for one in parts for value in one.correlations if value is not None]
    share, right = Proportion(sum(agreed), len(agreed)), Proportion(sum(expected), len(expected))
    return {
        "questions": parts[0].group.questions,
        "prediction": parts[0].group.prediction,
        "method": parts[0].method,
        "seed": seed,
        "n": len(expected),
        "agreement": share.value,
        "interval": share.row()["interval"],
        "spearman": float(np.mean(known)) if known else None,
        "spearman_n": len(known),
        "expected": right.value,
        "expected_interval": right.row()["interval"],
    }


def _expected(
    scores_QR: np.ndarray, sources: Sequence[Sequence[int]], chosen: Sequence[int]
) -> tuple[bool, ...]:
    return tuple(best_rank(scores_QR[q], sources[q]) == 1 for q in chosen)


def _finite(scores_R: np.ndarray) -> np.ndarray:
    # No number is the worst score, as it is in `best_rank`.
    return np.where(np.isnan(scores_R), -np.inf, scores_R)
