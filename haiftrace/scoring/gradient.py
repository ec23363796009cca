"""Exact scores of gradient methods: one pass through the windows for all methods and questions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from haiftrace.methods import GradientMethod, Rule
from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.norms import NormSource
from haiftrace.scoring.query_gradient import Direction
from haiftrace.scoring.top_records import Scored
from haiftrace.store import Index

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import GradientEngine


class Sink(Protocol):
    """Takes what is scored."""

    def add(self, scored: Scored) -> None:
        """One window more."""
        ...


@dataclass(frozen=True)
class Search:
    """One question's part in a pass.

    Attributes:
        rows: of the windows that are candidates for it.
        directions: u by the name that methods know it by.
        query_norm: ‖v‖.
        sinks: receive its windows, by the method's name.
    """

    rows: Collection[int]
    directions: Mapping[str, Direction]
    query_norm: float
    sinks: Mapping[str, Sink]


def score_by_gradient(
    index: Index,
    engine: GradientEngine,
    searches: Sequence[Search],
    methods: Sequence[GradientMethod],
    rule: Rule,
    norms: NormSource,
    progress: Progress,
) -> None:
    """Scores every candidate by every method.

    Args:
        norms: gives what the methods divide by.
    """
    names = list(dict.fromkeys(method.direction for method in methods))
    # Direction d of search s stands at s · len(names) + d.
    units = [search.directions[name].unit for search in searches for name in names]
    queries = {name: _stacked([unit[name] for unit in units]) for name in engine.parameters}
    rows = sorted(set().union(*(search.rows for search in searches)))
    places = range(len(searches))
    progress.start("scoring", float(len(rows)))
    for windows in window_batches(index, rows, engine.device):
        batch = batch_of(windows, engine.device)
        asking = [n for n in places if any(w.row in searches[n].rows for w in windows)]
        chosen = _chosen(queries, asking, len(searches), len(names))
        dots_QBT = engine.token_dots(batch, chosen).cpu().numpy()
        each = norms.of(windows, batch)
        for number, search in enumerate(searches[n] for n in asking):
            for method in methods:
                direction = search.directions[method.direction]
                place = number * len(names) + names.index(method.direction)
                for window, window_norms, dots_T in zip(
                    windows, each, dots_QBT[place], strict=True
                ):
                    if window.row not in search.rows:
                        continue
                    dots_T = dots_T[: len(window.token_ids)] * direction.norm
                    evidence = method.evidence(dots_T, window_norms, search.query_norm, rule)
                    score = float(evidence.sum())
                    cosine = method.cosine(
                        score, window_norms, search.query_norm, direction.norm, rule
                    )
                    search.sinks[method.name].add(Scored(window, score, cosine, evidence))
        progress.advance(len(windows), records=len(windows), tokens=token_count(windows))


def _chosen(
    queries: dict[str, Tensor], asking: Sequence[int], searches: int, directions: int
) -> dict[str, Tensor]:
    """The directions of the searches that have a candidate in a batch."""
    if len(asking) == searches:
        return queries
    places = [number * directions + d for number in asking for d in range(directions)]
    return {name: stacked[places] for name, stacked in queries.items()}


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    import torch

    # A single direction may be as large as the model: it is not copied.
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(list(parts))
