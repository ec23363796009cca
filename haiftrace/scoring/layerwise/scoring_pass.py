"""A pass through the windows for several queries, whose per-token gradients are held together.

Shape letters: W windows, Q query tokens, L layers, K windows of one search, M labels of a window.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods.layerwise import Reference
from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.family import QueryScores
from haiftrace.scoring.layerwise.evidence import explained
from haiftrace.scoring.layerwise.pooling import pooled_similarity, powered_layers
from haiftrace.scoring.layerwise.query_tokens import QueryTokens
from haiftrace.scoring.layerwise.reference import ReferenceSample
from haiftrace.scoring.top_records import ScoredWindow
from haiftrace.store import Index, StoredWindow

if TYPE_CHECKING:
    from haiftrace.engine import Batch, TokenSimilarity


@dataclass(frozen=True)
class LayerwiseSearch:
    """What a pass looks for, for one query.

    Attributes:
        query: the prompt and response as one record; its labels are the query tokens.
        rows: windows that are scored for it.
    """

    query: Batch
    rows: Collection[int]


class ScoringPass:
    """Scores the windows of some searches.

    Args:
        sample: what z-scores are over.

    Attributes:
        scored: of each search, once `score` was called.
    """

    def __init__(
        self,
        index: Index,
        similarity: TokenSimilarity,
        searches: Sequence[LayerwiseSearch],
        sample: ReferenceSample,
    ) -> None:
        self._index = index
        self._similarity = similarity
        self._searches = searches
        self._sample = sample
        self._tokens = QueryTokens.of(similarity, [search.query for search in searches])
        self._reference: Reference
        self.scored: list[QueryScores] = []
        for search in searches:
            rows = np.union1d(np.array(list(search.rows), np.int64), sample.rows)
            self.scored.append(QueryScores(rows.astype(np.int64), np.zeros(len(rows))))

    def score(self, progress: Progress) -> None:
        """One pass through the windows that any search wants."""
        everything = np.unique(np.concatenate([scored.rows_K for scored in self.scored]))
        progress.start("scoring records", float(len(everything)))
        numbers = range(len(self._searches))
        rows: list[int] = []
        pooled: list[np.ndarray] = []
        for windows in self._batches(self._sample.rows, progress):
            rows += [window.row for window in windows]
            pooled.append(self._pooled(windows, self._tokens))
        pooled_WQL = np.concatenate(pooled)
        self._reference = Reference.of(pooled_WQL)
        self._put(rows, self._reference.contributions(pooled_WQL), self._tokens, numbers)
        for windows in self._batches(np.setdiff1d(everything, rows).tolist(), progress):
            rows = [window.row for window in windows]
            wanting = [n for n in numbers if np.isin(rows, self.scored[n].rows_K).any()]
            tokens = self._tokens.subset(wanting)
            reference = self._reference.subset(self._tokens.places_of(wanting))
            self._put(rows, reference.contributions(self._pooled(windows, tokens)), tokens, wanting)

    def explain(self, top: Sequence[Collection[int]]) -> Iterator[tuple[int, ScoredWindow]]:
        """The top windows of each search with their evidence, with the search's number.

        Args:
            top: rows of each search.
        """
        from haiftrace.engine.halving import halved

        device = self._similarity.device
        for windows in window_batches(self._index, sorted(set().union(*top)), device):
            rows = {window.row for window in windows}
            wanting = [number for number, chosen in enumerate(top) if rows & set(chosen)]
            tokens = self._tokens.subset(wanting)
            for part, (powers_LJQ, row_J) in halved(partial(self._powers, tokens=tokens), windows):
                for at, window in enumerate(part):
                    powers_LMQ = powers_LJQ[:, row_J == at]
                    for place, number in enumerate(wanting):
                        if window.row in top[number]:
                            places = tokens.places(place)
                            powers = powers_LMQ[:, :, places.start : places.stop]
                            yield number, self._explained(window, powers, number)

    def _explained(self, window: StoredWindow, powers_LMQ: np.ndarray, number: int) -> ScoredWindow:
        reference = self._reference.subset(list(self._tokens.places(number)))
        first_layer = self._similarity.first_layer
        return explained(window, powers_LMQ, reference, self._positions(number), first_layer)

    def _batches(self, rows: Sequence[int], progress: Progress) -> Iterator[list[StoredWindow]]:
        for windows in window_batches(self._index, rows, self._similarity.device):
            yield windows
            progress.advance(len(windows), records=len(windows), tokens=token_count(windows))

    def _pooled(self, windows: Sequence[StoredWindow], tokens: QueryTokens) -> np.ndarray:
        from haiftrace.engine.halving import halved

        def of_part(part: Sequence[StoredWindow]) -> np.ndarray:
            batch = batch_of(part, self._similarity.device)
            return pooled_similarity(self._similarity, batch, tokens.gradients, self._sample.usual)

        return np.concatenate([pooled_WQL for _, pooled_WQL in halved(of_part, windows)])

    def _powers(
        self, windows: Sequence[StoredWindow], tokens: QueryTokens
    ) -> tuple[np.ndarray, np.ndarray]:
        """[L, J, Q] powered similarities of the windows' labels J, and [J] the label's window."""
        batch = batch_of(windows, self._similarity.device)
        layers = powered_layers(self._similarity, batch, tokens.gradients, self._sample.usual)
        powers_LJQ = np.stack([layer.double().cpu().numpy() for layer in layers])
        return powers_LJQ, batch.labels_BT.nonzero()[:, 0].cpu().numpy()

    def _put(
        self,
        rows: Sequence[int],
        contributions_WQL: np.ndarray,
        tokens: QueryTokens,
        numbers: Sequence[int],
    ) -> None:
        contributions_WQ = contributions_WQL.sum(2)
        for place, number in enumerate(numbers):
            places = tokens.places(place)
            scores_W = contributions_WQ[:, places.start : places.stop].sum(1)
            self.scored[number].put(rows, scores_W)

    def _positions(self, number: int) -> list[int]:
        """Positions of a query's tokens in it."""
        labels_T = self._searches[number].query.labels_BT[0]
        positions: list[int] = labels_T.nonzero()[:, 0].tolist()
        return positions
