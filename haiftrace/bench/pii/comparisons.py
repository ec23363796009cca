"""Tracing a regime of a seed, in comparisons that are stages each.

A comparison is what is computed in the same passes over the records: the methods along one
direction, or one choice of the ablation. Adding a method, or the ablation, repeats nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haiftrace.bench.ablation import DEFAULT, Variation, in_pool
from haiftrace.bench.indexes import Bench
from haiftrace.bench.pii.decoys import (
    MOST_LEAKS,
    POOL,
    Decoy,
    decoy_pool,
    decoy_rows,
    make_decoys,
)
from haiftrace.bench.pii.gradient_norms import norm_profile
from haiftrace.bench.pii.ranking import Ranks, first_record_ranks, ranks_of
from haiftrace.bench.pii.shortlist_recall import DIMENSIONS, shortlist_recall
from haiftrace.bench.synthetic.dataset import BenchData, ProbeQuestion
from haiftrace.bench.training.checkpoints import Trained
from haiftrace.errors import UsageError
from haiftrace.methods import EK_FAC, LISSA, METHODS
from haiftrace.progress import Progress

FORMAT = 6
SERIES_LEAKS = 20
"""Leaks that LiSSA traces, which solves a linear system for each."""

TOKEN_LEAKS = 60
"""Leaks traced where a query vector is compared with every token of every record, not with sums."""

PLAIN = ("haif", "haif-t", "gradient-product", "gradient-cosine")
"""Methods without curvature or checkpoints: those of the ablation."""

DECOYS = "decoys"
SHORTLIST = "shortlist"
NORMS = "norms"

SectionRows = dict[str, list[dict[str, Any]]]
"""Plain data: "ranks", "decoys", "shortlist" and "norms", as far as a comparison has them, and
"seconds", a row on what the comparison took."""


@dataclass(frozen=True)
class Comparison:
    """What is computed and kept in a stage.

    Attributes:
        name: lower-case letters, digits and hyphens.
        scored: variations and the methods that are scored in each.
    """

    name: str
    scored: tuple[tuple[Variation, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Tracing:
    """All that tracing a regime takes: plain data, for it may be done in another process.

    Attributes:
        leaks: the questions to be traced.
        work: directory for the indexes.
        memory: bytes of a backward pass.
    """

    data: BenchData
    trained: Trained
    regime: str
    seed: int
    leaks: tuple[ProbeQuestion, ...]
    work: Path
    memory: int
    device: str

    def stage_name(self, comparison: Comparison) -> str:
        """Name of the stage that keeps a comparison."""
        return f"{comparison.name}-{self.regime}-{self.seed}"

    def stage_settings(self, comparison: Comparison) -> dict[str, Any]:
        """What a comparison's stage depends on."""
        return {
            "format": FORMAT,
            "training": self.trained.fingerprint,
            "regime": self.regime,
            "scored": [[variation.row(), list(names)] for variation, names in comparison.scored],
        }


def comparisons_for(names: Sequence[str], ablation: bool) -> list[Comparison]:
    """The comparisons of a run with these methods."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_group(name), []).append(name)
    comparisons = [
        Comparison(f"scores-{key}", ((DEFAULT, tuple(group)),)) for key, group in groups.items()
    ]
    if ablation:
        comparisons += _ablation(names)
        against = tuple(name for name in names if _has_decoy_scores(name))
        if against:
            comparisons.append(Comparison(DECOYS, ((Variation(pool=POOL), against),)))
        searched = tuple(
            name for name in names if name == "haif" or METHODS[name].family == "layerwise"
        )
        if searched:
            comparisons.append(Comparison(SHORTLIST, ((DEFAULT, searched),)))
    if set(names) & set(PLAIN):  # they need the norms, which take long to compute
        comparisons.append(Comparison(NORMS))
    return comparisons


def trace_comparisons(
    tracing: Tracing, comparisons: Sequence[Comparison], progress: Progress
) -> Iterator[tuple[Comparison, SectionRows]]:
    """Computes the comparisons, one after the other."""
    data, leaks, regime, seed = tracing.data, tracing.leaks, tracing.regime, tracing.seed
    if not leaks:
        progress.say(f"{regime}: no held-out question is answered right, so nothing is traced.")
        yield from ((comparison, {}) for comparison in comparisons)
        return
    progress.say(f"Tracing {len(leaks)} {regime} leaks over {len(data.records)} records.")
    tracing.work.mkdir(exist_ok=True)
    decoy_leaks = spread(leaks, MOST_LEAKS)
    with_decoys = any(comparison.name == DECOYS for comparison in comparisons)
    decoys = _decoys(data, decoy_leaks, progress) if with_decoys else []
    pool = decoy_pool(data, decoys)
    bench = Bench(
        tracing.work,
        data,
        tracing.trained,
        regime,
        tracing.memory,
        progress,
        tracing.device,
        {POOL: pool},
    )
    for comparison in comparisons:
        wall, processor = time.monotonic(), time.process_time()
        if comparison.name == NORMS:
            bench.prepare(["haif"])
            index = bench.tracer(DEFAULT.scope, DEFAULT.pool).index
            rows: SectionRows = {"norms": norm_profile(index, data, regime, seed)}
        elif comparison.name == DECOYS:
            scores = _decoy_scores(bench, decoy_leaks, comparison) if decoys else {}
            rows = {"decoys": decoy_rows(scores, pool, decoy_leaks, decoys, regime, seed)}
        elif comparison.name == SHORTLIST:
            rows = {"shortlist": _shortlist(bench, tracing, comparison)}
        else:
            rows = {"ranks": [asdict(ranks) for ranks in _ranks(bench, tracing, comparison)]}
        seconds = {
            "regime": regime,
            "seed": seed,
            "part": comparison.name,
            "wall": round(time.monotonic() - wall, 1),
            "processor": round(time.process_time() - processor, 1),
        }
        yield comparison, {**rows, "seconds": [seconds]}


def read_ranks(row: dict[str, Any]) -> Ranks:
    """The ranks of a row that `trace_comparisons` made."""
    tuples = {name: tuple(row[name]) for name in ("ranks", "attributes", "leaks")}
    return Ranks(**{**row, **tuples, "variation": Variation(**row["variation"])})


def spread(leaks: Sequence[ProbeQuestion], limit: int) -> list[ProbeQuestion]:
    """At most `limit` of the leaks, evenly over their order, which is by attribute."""
    if len(leaks) <= limit:
        return list(leaks)
    return [leaks[round(place)] for place in np.linspace(0, len(leaks) - 1, limit)]


def _group(name: str) -> str:
    """What shares passes over the records; methods over a training run share none."""
    method = METHODS[name]
    return name if method.follows_run else method.curvature or method.family


def _has_decoy_scores(name: str) -> bool:
    """Not where a score takes a solution, a sum over a run, or norms under the inverse."""
    return not METHODS[name].full_gradients or name in (*PLAIN, "ek-fac")


def _decoys(data: BenchData, leaks: Sequence[ProbeQuestion], progress: Progress) -> list[Decoy]:
    try:
        return make_decoys(data, leaks)
    except UsageError as error:
        progress.say(f"No decoys: {error.message}")
        return []


def _decoy_scores(
    bench: Bench, leaks: Sequence[ProbeQuestion], comparison: Comparison
) -> dict[str, np.ndarray]:
    ((variation, names),) = comparison.scored
    _prepare(bench, variation, names)
    if "ek-fac" in names:
        bench.reuse_factors(variation.scope, variation.pool)
    return bench.scores(leaks, variation, names)


def _ablation(names: Sequence[str]) -> list[Comparison]:
    """One choice changed at a time, each with the methods that it is for."""
    plain = tuple(name for name in names if name in PLAIN)
    haif = tuple(name for name in plain if name == "haif")
    others = tuple(name for name in names if not METHODS[name].full_gradients)
    curved = tuple(name for name in names if METHODS[name].curvature == EK_FAC)
    table = {
        "scope": [(Variation(scope="all"), plain)],
        "loss": [(Variation(loss_on="all"), plain + curved)],
        "tokens": [(Variation(combine="positive"), haif), (Variation(combine="max"), haif)],
        "documents": [
            (Variation(pool="documents"), others + plain),
            (Variation(pool="documents", combine="positive"), haif),
            (Variation(pool="documents", combine="max"), haif),
        ],
    }
    return [
        Comparison(f"ablation-{key}", scored)
        for key, rows in table.items()
        if (scored := tuple((variation, methods) for variation, methods in rows if methods))
    ]


def _most_leaks(variation: Variation, names: Sequence[str]) -> int:
    """How many leaks are traced, so that a bench of a tiny model takes minutes."""
    if _group(names[0]) == LISSA:
        return SERIES_LEAKS
    return TOKEN_LEAKS if variation.combine != "sum" else sys.maxsize


def _shortlist(bench: Bench, tracing: Tracing, comparison: Comparison) -> list[dict[str, Any]]:
    ((variation, names),) = comparison.scored
    _prepare(bench, variation, names)
    exact = bench.scores(tracing.leaks, variation, names)
    about = {"regime": tracing.regime, "seed": tracing.seed}
    rows = []
    for dimension in DIMENSIONS:
        tracer = bench.tracer(variation.scope, variation.pool, dimension)
        batches = [query.batch for query in bench.queries(tracer, tracing.leaks)]
        rows += [{**about, **row} for row in shortlist_recall(tracer, batches, exact)]
    return rows


def _prepare(bench: Bench, variation: Variation, names: Sequence[str]) -> None:
    """Prepares what methods need of full gradients; in a pool of other records no curvature."""
    over_records = (variation.scope, variation.pool) == (DEFAULT.scope, DEFAULT.pool)
    full = [name for name in names if METHODS[name].full_gradients]
    prepared = [name for name in full if over_records or name in PLAIN]
    if prepared:
        bench.prepare(prepared, variation.scope, variation.pool)


def _ranks(bench: Bench, tracing: Tracing, comparison: Comparison) -> list[Ranks]:
    data, regime, seed = tracing.data, tracing.regime, tracing.seed
    all_ranks = []
    for variation, names in comparison.scored:
        leaks = in_pool(data, tracing.leaks, variation.pool)
        _prepare(bench, variation, names)
        leaks = spread(leaks, _most_leaks(variation, names))
        scores = bench.scores(leaks, variation, names)
        all_ranks += ranks_of(scores, data, leaks, variation, regime, seed)
        if variation == DEFAULT:
            all_ranks += first_record_ranks(scores, data, leaks, variation, regime, seed)
    return all_ranks
