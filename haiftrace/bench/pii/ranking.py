"""From scores to the rows of results.json: how often a method puts a source of the leak first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from haiftrace.bench.ablation import FIRST, Variation, candidates
from haiftrace.bench.harness.statistics import best_rank, rank_scores
from haiftrace.bench.synthetic.dataset import BenchData, Question

AVERAGE = "average"
"""The attribute of a row over all leaks."""


@dataclass(frozen=True)
class Ranks:
    """Ranks that one method gave the sources of one seed's leaks, 1 for the first place.

    Attributes:
        ranks: one a leak.
        attributes: what each leak's question asks for.
        leaks: ids of the questions.
    """

    regime: str
    method: str
    variation: Variation
    seed: int
    ranks: tuple[int, ...]
    attributes: tuple[str, ...]
    leaks: tuple[str, ...]


def ranks_of(
    scores: Mapping[str, np.ndarray],
    data: BenchData,
    leaks: Sequence[Question],
    variation: Variation,
    regime: str,
    seed: int,
) -> list[Ranks]:
    """Ranks by every method whose scores [leaks, candidates] are given."""
    subjects = [{r.subject for r in parts} for parts in candidates(data, variation.pool)]
    attributes, ids = tuple(q.attribute for q in leaks), tuple(q.id for q in leaks)
    found = []
    for method, scores_QR in scores.items():
        ranks = [
            best_rank(row, [k for k, who in enumerate(subjects) if q.subject in who])
            for row, q in zip(scores_QR, leaks, strict=True)
        ]
        found.append(Ranks(regime, method, variation, seed, tuple(ranks), attributes, ids))
    return found


def one_a_subject(
    scores: Mapping[str, np.ndarray],
    data: BenchData,
    leaks: Sequence[Question],
    variation: Variation,
    regime: str,
    seed: int,
) -> list[Ranks]:
    """The same where the candidates are the first record of each subject only."""
    first: dict[str, int] = {}
    for number, record in enumerate(data.records):
        first.setdefault(record.subject, number)
    columns = list(first.values())
    order = {subject: place for place, subject in enumerate(first)}
    attributes, ids = tuple(q.attribute for q in leaks), tuple(q.id for q in leaks)
    pool = replace(variation, pool=FIRST)
    return [
        Ranks(
            regime,
            method,
            pool,
            seed,
            tuple(
                best_rank(row[columns], [order[q.subject]])
                for row, q in zip(scores_QR, leaks, strict=True)
            ),
            attributes,
            ids,
        )
        for method, scores_QR in scores.items()
    ]


def rows_of(found: Iterable[Ranks]) -> list[dict[str, Any]]:
    """Rows of results.json: each attribute and the average, a row a seed and one over all."""
    together: dict[tuple[str, str, Variation], list[Ranks]] = {}
    for ranks in found:
        together.setdefault((ranks.regime, ranks.method, ranks.variation), []).append(ranks)
    rows = []
    for (regime, method, variation), parts in together.items():
        pairs = {part.seed: list(zip(part.ranks, part.attributes, strict=True)) for part in parts}
        every = [pair for some in pairs.values() for pair in some]
        names = [AVERAGE, *sorted({attribute for _, attribute in every})]
        by_seed: list[tuple[int | str, list[tuple[int, str]]]] = [*pairs.items(), ("all", every)]
        for seed, some in by_seed:
            for name in names:
                chosen = [rank for rank, attribute in some if name in (AVERAGE, attribute)]
                rows.append(_row(regime, method, variation, seed, name, chosen))
    return rows


def _row(
    regime: str,
    method: str,
    variation: Variation,
    seed: int | str,
    attribute: str,
    ranks: Sequence[int],
) -> dict[str, Any]:
    scores = rank_scores(ranks)
    between = scores.top1.interval
    return {
        "regime": regime,
        "method": method,
        "attribute": attribute,
        **variation.told(),
        "seed": seed,
        "n": len(ranks),
        "top1": scores.top1.value,
        "mrr": scores.mrr,
        "recall10": scores.recall.value,
        "interval": None if between is None else [between.low, between.high],
    }
