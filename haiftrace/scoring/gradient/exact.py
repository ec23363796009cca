"""Exact scores of gradient methods: one pass through the windows for all methods and queries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods import GradientMethod, Rule, WindowNorms
from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.gradient.norms import NormSource
from haiftrace.scoring.gradient.query_vectors import QueryVector
from haiftrace.scoring.top_records import ScoredWindow
from haiftrace.store import Index, StoredWindow

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import GradientEngine


@dataclass(frozen=True)
class GradientSearch:
    """What a pass looks for, for one query.

    Attributes:
        rows: of the windows that are candidates for it.
        vectors: u by preconditioner.
        query_norm: ‖v‖.
        add: takes a window that is scored, by the method's name.
    """

    rows: Collection[int]
    vectors: Mapping[str, QueryVector]
    query_norm: float
    add: Mapping[str, Callable[[ScoredWindow], None]]


def score_by_gradient(
    index: Index,
    engine: GradientEngine,
    searches: Sequence[GradientSearch],
    methods: Sequence[GradientMethod],
    rule: Rule,
    norms: NormSource,
    progress: Progress,
) -> None:
    """Scores every candidate by every method.

    Args:
        norms: gives what the methods divide by.
    """
    from haiftrace.engine.halving import halved

    names = list(dict.fromkeys(method.preconditioner for method in methods))
    # Query vector p of search s stands at s · len(names) + p.
    units = [search.vectors[name].unit for search in searches for name in names]
    queries = {name: _stacked([unit[name] for unit in units]) for name in engine.parameters}
    rows = sorted(set().union(*(search.rows for search in searches)))
    progress.start("scoring", float(len(rows)))
    for windows in window_batches(index, rows, engine.device):
        searching = [
            number
            for number, search in enumerate(searches)
            if any(window.row in search.rows for window in windows)
        ]
        measures = _Measures(engine, norms, _chosen(queries, searching, len(searches), len(names)))
        for part, (dots_QBT, norms_B) in halved(measures, windows):
            for place, search in enumerate(searches[number] for number in searching):
                for method in methods:
                    vector = search.vectors[method.preconditioner]
                    dots_BT = dots_QBT[place * len(names) + names.index(method.preconditioner)]
                    for window, window_norms, dots_T in zip(part, norms_B, dots_BT, strict=True):
                        if window.row not in search.rows:
                            continue
                        dots_T = dots_T[: len(window.token_ids)] * vector.norm
                        norm = search.query_norm
                        evidence = method.evidence(dots_T, window_norms, norm, rule)
                        score = float(evidence.sum())
                        cosine = method.cosine(score, window_norms, norm, vector.norm, rule)
                        search.add[method.name](ScoredWindow(window, score, cosine, evidence))
        progress.advance(len(windows), records=len(windows), tokens=token_count(windows))


@dataclass(frozen=True)
class _Measures:
    """Of a batch of windows: [Q, B, T] dots with the query vectors, and each window's norms."""

    engine: GradientEngine
    norms: NormSource
    queries: dict[str, Tensor]

    def __call__(self, windows: Sequence[StoredWindow]) -> tuple[np.ndarray, list[WindowNorms]]:
        batch = batch_of(windows, self.engine.device)
        dots_QBT = self.engine.token_dots(batch, self.queries).cpu().numpy()
        return dots_QBT, self.norms.of(windows, batch)


def _chosen(
    queries: dict[str, Tensor], searching: Sequence[int], searches: int, vectors: int
) -> dict[str, Tensor]:
    """The query vectors of the searches that have a candidate in a batch."""
    if len(searching) == searches:
        return queries
    places = [number * vectors + p for number in searching for p in range(vectors)]
    return {name: stacked[places] for name, stacked in queries.items()}


def _stacked(vectors: Sequence[Tensor]) -> Tensor:
    import torch

    # A single vector may be as large as the model: it is not copied.
    return vectors[0].unsqueeze(0) if len(vectors) == 1 else torch.stack(list(vectors))
