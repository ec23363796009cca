"""From scores to the rows of results.json: how often a method puts a source of the leak first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from haiftrace.bench.ablation import FIRST, Variation, candidates
from haiftrace.bench.harness.statistics import best_rank, rank_scores
from haiftrace.bench.synthetic.dataset import BenchData, ProbeQuestion

AVERAGE = "average"
"""The attribute of a row over all leaks."""


@dataclass(frozen=True)
class Ranks:
    """Ranks that a method gave the sources of a seed's leaks, 1 for the first place.

    Attributes:
        ranks: of each leak's source.
        attributes: of each leak's question.
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
    leaks: Sequence[ProbeQuestion],
    variation: Variation,
    regime: str,
    seed: int,
) -> list[Ranks]:
    """Ranks by every method whose scores [leaks, candidates] are given."""
    subjects = [{r.subject for r in document} for document in candidates(data, variation.pool)]
    attributes, ids = tuple(q.attribute for q in leaks), tuple(q.id for q in leaks)
    all_ranks = []
    for method, scores_QR in scores.items():
        ranks = [
            best_rank(row, [k for k, who in enumerate(subjects) if q.subject in who])
            for row, q in zip(scores_QR, leaks, strict=True)
        ]
        all_ranks.append(Ranks(regime, method, variation, seed, tuple(ranks), attributes, ids))
    return all_ranks


def first_record_ranks(
    scores: Mapping[str, np.ndarray],
    data: BenchData,
    leaks: Sequence[ProbeQuestion],
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


def ranking_rows(all_ranks: Iterable[Ranks]) -> list[dict[str, Any]]:
    """Rows of results.json: each attribute and the average, a row a seed and one over all."""
    by_method: dict[tuple[str, str, Variation], list[Ranks]] = {}
    for ranks in all_ranks:
        by_method.setdefault((ranks.regime, ranks.method, ranks.variation), []).append(ranks)
    rows = []
    for (regime, method, variation), of_seeds in by_method.items():
        pairs = {r.seed: list(zip(r.ranks, r.attributes, strict=True)) for r in of_seeds}
        every = [pair for seed_pairs in pairs.values() for pair in seed_pairs]
        names = [AVERAGE, *sorted({attribute for _, attribute in every})]
        by_seed: list[tuple[int | str, list[tuple[int, str]]]] = [*pairs.items(), ("all", every)]
        for seed, seed_pairs in by_seed:
            for name in names:
                chosen = [rank for rank, attribute in seed_pairs if name in (AVERAGE, attribute)]
                rows.append(
                    {
                        "regime": regime,
                        "method": method,
                        "attribute": name,
                        **variation.row(),
                        "seed": seed,
                        **rank_scores(chosen).row(),
                    }
                )
    return rows
