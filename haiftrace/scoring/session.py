"""One opened index under its checkpoint, and the families that score its windows."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from haiftrace.methods import Method, find_methods
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Progress
from haiftrace.scoring.families import FAMILIES
from haiftrace.scoring.family import Family, QueryScores, Ranking, ScoringQuery, ScoringRun
from haiftrace.scoring.indexed_model import IndexedModel

MOST_QUERIES = 256
"""Queries of one pass through the records, at most: each has a score for every window."""


class ScoringSession:
    """Asks the families of methods; each is made once.

    Attributes:
        model: the index and its checkpoint.
    """

    def __init__(self, model: IndexedModel) -> None:
        self.model = model
        self._families: dict[str, Family] = {}

    def family(self, method: Method) -> Family:
        """The family that scores a method."""
        if method.family not in self._families:
            self._families[method.family] = FAMILIES[method.family](self.model)
        return self._families[method.family]

    def queries_of_a_trace(self, methods: Sequence[Method]) -> int:
        """Queries whose gradients fit into an eighth of the device's memory, or into that of a
        backward pass where this is more.
        """
        each = max(
            self.family(group[0]).query_bytes(group) for group in _by_family(methods).values()
        )
        return MOST_QUERIES if not each else min(MOST_QUERIES, max(1, self.model.room // each))

    def trace(
        self, queries: Sequence[ScoringQuery], methods: Sequence[Method], run: ScoringRun
    ) -> list[dict[str, Ranking]]:
        """The ranking of each query by each method's name."""
        rankings: list[dict[str, Ranking]] = [{} for _ in queries]
        for group in _by_family(methods).values():
            traced = self.family(group[0]).trace(queries, group, run)
            for of_query, of_family in zip(rankings, traced, strict=True):
                of_query.update(of_family)
        return rankings

    def scores(
        self,
        queries: Sequence[ScoringQuery],
        rows: Sequence[Collection[int]],
        method: Method,
        run: ScoringRun,
    ) -> Sequence[QueryScores]:
        """Exact scores of each query by one method, without evidence.

        Args:
            rows: windows to be scored for each query; others may be scored too.

        Raises:
            KeyError: the index does not hold what the method needs.
        """
        return self.family(method).scores(queries, rows, [method], run)[method.name]

    def score_matrix(
        self,
        queries: Sequence[ScoringQuery],
        names: Sequence[str],
        settings: MethodSettings,
        progress: Progress,
    ) -> dict[str, np.ndarray]:
        """[Q, N] exact scores of every window for every query, by method, without evidence.

        Raises:
            KeyError: the index does not hold what a method needs.
        """
        methods = find_methods(",".join(names))
        run = ScoringRun(settings, self.model.rule(methods, settings), progress)
        everything = range(len(self.model.index))
        rows = [everything for _ in queries]
        matrices: dict[str, np.ndarray] = {}
        for group in _by_family(methods).values():
            for name, scores in self.family(group[0]).scores(queries, rows, group, run).items():
                matrices[name] = np.stack([of_query.of(everything) for of_query in scores])
        return matrices


def _by_family(methods: Sequence[Method]) -> dict[str, list[Method]]:
    groups: dict[str, list[Method]] = {}
    for method in methods:
        groups.setdefault(method.family, []).append(method)
    return groups
