"""Tracing one regime of one seed, in parts that are kept one by one.

A part is what shares its passes over the records: the methods along one direction, or one choice of
the ablation. Adding a method, or the ablation, repeats nothing.
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
from haiftrace.bench.pii.ranking import Ranks, one_a_subject, ranks_of
from haiftrace.bench.pii.shortlist_recall import DIMENSIONS, shortlist_recall
from haiftrace.bench.synthetic.dataset import BenchData, Question
from haiftrace.bench.training.train import Trained
from haiftrace.errors import UsageError
from haiftrace.methods import (
    METHODS,
    SERIES,
    GradientMethod,
    LayerwiseMethod,
    LexicalMethod,
    TrajectoryMethod,
)
from haiftrace.progress import Progress

FORMAT = 6
SERIES_LEAKS = 20
"""Leaks that LiSSA traces, which solves a linear system for each."""

TOKEN_LEAKS = 60
"""Leaks whose directions meet every token of every record one by one: where tokens are not
summed."""

PLAIN = ("haif", "haif-t", "gradient-product", "gradient-cosine")
"""Methods without curvature or checkpoints: those of the ablation."""

DECOYS = "decoys"
SHORTLIST = "shortlist"
NORMS = "norms"

Found = dict[str, list[dict[str, Any]]]
"""Plain data: "ranks", "decoys", "shortlist" and "norms", as far as a part has them, and "seconds",
one row on what the part took."""


@dataclass(frozen=True)
class Part:
    """What is computed and kept together.

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
    leaks: tuple[Question, ...]
    work: Path
    memory: int
    device: str

    def stage(self, part: Part) -> str:
        """Name of the stage that keeps a part."""
        return f"{part.name}-{self.regime}-{self.seed}"

    def told(self, part: Part) -> dict[str, Any]:
        """What a part's stage depends on."""
        return {
            "format": FORMAT,
            "training": self.trained.directory.name,
            "regime": self.regime,
            "scored": [[variation.told(), list(names)] for variation, names in part.scored],
        }


def parts_of(names: Sequence[str], ablation: bool) -> list[Part]:
    """The parts of a run with these methods."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_group(name), []).append(name)
    parts = [Part(f"scores-{key}", ((DEFAULT, tuple(some)),)) for key, some in groups.items()]
    if ablation:
        parts += _ablation(names)
        against = tuple(name for name in names if _meets_decoys(name))
        if against:
            parts.append(Part(DECOYS, ((Variation(pool=POOL), against),)))
        searched = tuple(name for name in names if name == "haif" or _by_layers(name))
        if searched:
            parts.append(Part(SHORTLIST, ((DEFAULT, searched),)))
    if set(names) & set(PLAIN):  # they need the norms, which take long to find
        parts.append(Part(NORMS))
    return parts


def trace_parts(
    tracing: Tracing, parts: Sequence[Part], progress: Progress
) -> Iterator[tuple[Part, Found]]:
    """Computes the parts, one after the other."""
    data, leaks, regime, seed = tracing.data, tracing.leaks, tracing.regime, tracing.seed
    if not leaks:
        progress.say(f"{regime}: no held-out question is answered right, so nothing is traced.")
        yield from ((part, {}) for part in parts)
        return
    progress.say(f"Tracing {len(leaks)} {regime} leaks over {len(data.records)} records.")
    tracing.work.mkdir(exist_ok=True)
    told = spread(leaks, MOST_LEAKS)
    decoys = _decoys(data, told, progress) if any(part.name == DECOYS for part in parts) else []
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
    for part in parts:
        wall, processor = time.monotonic(), time.process_time()
        if part.name == NORMS:
            bench.keep(["haif"])
            index = bench.tracer(DEFAULT.scope, DEFAULT.pool).index
            found: Found = {"norms": norm_profile(index, data, regime, seed)}
        elif part.name == DECOYS:
            scores = _against_decoys(bench, told, part) if decoys else {}
            found = {"decoys": decoy_rows(scores, pool, told, decoys, regime, seed)}
        elif part.name == SHORTLIST:
            found = {"shortlist": _shortlist(bench, tracing, part)}
        else:
            found = {"ranks": [asdict(ranks) for ranks in _ranks(bench, tracing, part)]}
        took = {
            "regime": regime,
            "seed": seed,
            "part": part.name,
            "wall": round(time.monotonic() - wall, 1),
            "processor": round(time.process_time() - processor, 1),
        }
        yield part, {**found, "seconds": [took]}


def read_ranks(row: dict[str, Any]) -> Ranks:
    """What `trace_parts` wrote down."""
    told = dict(row)
    variation = Variation(**told.pop("variation"))
    told |= {name: tuple(told[name]) for name in ("ranks", "attributes", "leaks")}
    return Ranks(**told, variation=variation)


def spread(leaks: Sequence[Question], most: int) -> list[Question]:
    """At most so many of the leaks, evenly over their order, which is by attribute."""
    if len(leaks) <= most:
        return list(leaks)
    return [leaks[round(place)] for place in np.linspace(0, len(leaks) - 1, most)]


def _group(name: str) -> str:
    method = METHODS[name]
    if isinstance(method, LexicalMethod):
        return "words"
    if isinstance(method, GradientMethod):
        return method.direction
    return name


def _by_layers(name: str) -> bool:
    return isinstance(METHODS[name], LayerwiseMethod)


def _meets_decoys(name: str) -> bool:
    """Not where a score takes a solution, a sum over a run, or norms under the inverse."""
    by_words = isinstance(METHODS[name], LexicalMethod)
    return by_words or _by_layers(name) or name in (*PLAIN, "ek-fac")


def _decoys(data: BenchData, leaks: Sequence[Question], progress: Progress) -> list[Decoy]:
    try:
        return make_decoys(data, leaks)
    except UsageError as error:
        progress.say(f"No decoys: {error.message}")
        return []


def _against_decoys(bench: Bench, leaks: Sequence[Question], part: Part) -> dict[str, np.ndarray]:
    ((variation, names),) = part.scored
    _keep(bench, variation, names)
    if "ek-fac" in names:
        bench.share_factors(variation.scope, variation.pool)
    return bench.scores(leaks, variation, names)


def _ablation(names: Sequence[str]) -> list[Part]:
    """One choice changed at a time, each with the methods that it is for."""
    plain = tuple(name for name in names if name in PLAIN)
    haif = tuple(name for name in plain if name == "haif")
    others = tuple(
        name for name in names if _by_layers(name) or isinstance(METHODS[name], LexicalMethod)
    )
    curved = tuple(
        n for n in names if isinstance(m := METHODS[n], GradientMethod) and m.direction == "ek-fac"
    )
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
    scored = {key: tuple(one for one in some if one[1]) for key, some in table.items()}
    return [Part(f"ablation-{key}", some) for key, some in scored.items() if some]


def _most_leaks(variation: Variation, names: Sequence[str]) -> int:
    """How many leaks are traced, so that a bench of a tiny model takes minutes."""
    if _group(names[0]) == SERIES:
        return SERIES_LEAKS
    return TOKEN_LEAKS if variation.combine != "sum" else sys.maxsize


def _shortlist(bench: Bench, tracing: Tracing, part: Part) -> list[dict[str, Any]]:
    ((variation, names),) = part.scored
    _keep(bench, variation, names)
    exact = bench.scores(tracing.leaks, variation, names)
    about = {"regime": tracing.regime, "seed": tracing.seed}
    found = []
    for dimension in DIMENSIONS:
        tracer = bench.tracer(variation.scope, variation.pool, dimension)
        asked = [question.batch for question in bench.questions(tracer, tracing.leaks)]
        found += [{**about, **row} for row in shortlist_recall(tracer, asked, exact)]
    return found


def _keep(bench: Bench, variation: Variation, names: Sequence[str]) -> None:
    """Keeps what methods need of full gradients; in a pool of other records no curvature."""
    over_records = (variation.scope, variation.pool) == (DEFAULT.scope, DEFAULT.pool)
    full = [n for n in names if isinstance(METHODS[n], GradientMethod | TrajectoryMethod)]
    kept = [name for name in full if over_records or name in PLAIN]
    if kept:
        bench.keep(kept, variation.scope, variation.pool)


def _ranks(bench: Bench, tracing: Tracing, part: Part) -> list[Ranks]:
    data, regime, seed = tracing.data, tracing.regime, tracing.seed
    found = []
    for variation, names in part.scored:
        leaks = in_pool(data, tracing.leaks, variation.pool)
        _keep(bench, variation, names)
        leaks = spread(leaks, _most_leaks(variation, names))
        scores = bench.scores(leaks, variation, names)
        found += ranks_of(scores, data, leaks, variation, regime, seed)
        if variation == DEFAULT:
            found += one_a_subject(scores, data, leaks, variation, regime, seed)
    return found
