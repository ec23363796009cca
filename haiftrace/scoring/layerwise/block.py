"""Some questions of a run, whose query gradients are held together while windows pass by.

Shape letters: W windows, Q query tokens, L layers, K windows of one search, M labels of a window.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods.layerwise import Reference
from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.layerwise.evidence import explained
from haiftrace.scoring.layerwise.pooling import pooled_similarity, powered_layers
from haiftrace.scoring.layerwise.questions import AskedTokens
from haiftrace.scoring.layerwise.reference import ReferenceSample
from haiftrace.scoring.top_records import Scored
from haiftrace.store import Index, StoredWindow

if TYPE_CHECKING:
    from haiftrace.engine import Batch, TokenSimilarity


@dataclass(frozen=True)
class LayerwiseSearch:
    """One question's part in a run.

    Attributes:
        question: the prompt and response as one record; its labels are the query tokens.
        rows: windows that are scored for it.
    """

    question: Batch
    rows: Collection[int]


@dataclass(frozen=True)
class WindowScores:
    """The scores of one search.

    Attributes:
        rows_K: of the windows that were scored, ascending: its own and the reference's.
        scores_K: one each.
    """

    rows_K: np.ndarray
    scores_K: np.ndarray

    def of(self, rows: Sequence[int]) -> np.ndarray:
        """[n] the scores of some of the rows."""
        found: np.ndarray = self.scores_K[np.searchsorted(self.rows_K, rows)]
        return found

    def put(self, rows: Sequence[int], scores_W: np.ndarray) -> None:
        """Keeps the scores of those windows that are among the rows."""
        place_W = np.searchsorted(self.rows_K, rows).clip(max=len(self.rows_K) - 1)
        own_W = self.rows_K[place_W] == np.asarray(rows)
        self.scores_K[place_W[own_W]] = scores_W[own_W]

    def best(self, record_N: np.ndarray, top: int) -> set[int]:
        """Rows of the best records' windows.

        Args:
            record_N: the record of every window of the index.
        """
        chosen: dict[int, int] = {}
        for k in np.argsort(-self.scores_K, kind="stable"):
            row = int(self.rows_K[k])
            chosen.setdefault(int(record_N[row]), row)
            if len(chosen) == top:
                break
        return set(chosen.values())


class Block:
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
        self._asked = AskedTokens.of(similarity, [search.question for search in searches])
        self._reference: Reference
        self.scored: list[WindowScores] = []
        for search in searches:
            rows = np.union1d(np.array(list(search.rows), np.int64), sample.rows)
            self.scored.append(WindowScores(rows.astype(np.int64), np.zeros(len(rows))))

    def score(self, progress: Progress) -> None:
        """One pass through the windows that any search wants."""
        everything = np.unique(np.concatenate([scored.rows_K for scored in self.scored]))
        progress.start("scoring records", float(len(everything)))
        numbers = range(len(self._searches))
        rows: list[int] = []
        parts: list[np.ndarray] = []
        for windows in self._batches(self._sample.rows, progress):
            rows += [window.row for window in windows]
            parts.append(self._pooled(windows, self._asked))
        pooled_WQL = np.concatenate(parts)
        self._reference = Reference.of(pooled_WQL)
        self._put(rows, self._reference.shares(pooled_WQL), self._asked, numbers)
        for windows in self._batches(np.setdiff1d(everything, rows).tolist(), progress):
            rows = [window.row for window in windows]
            wanting = [n for n in numbers if np.isin(rows, self.scored[n].rows_K).any()]
            asked = self._asked.taken(wanting)
            reference = self._reference.taken(self._asked.places_of(wanting))
            self._put(rows, reference.shares(self._pooled(windows, asked)), asked, wanting)

    def explain(self, best: Sequence[Collection[int]]) -> Iterator[tuple[int, Scored]]:
        """The best windows of each search with their evidence, with the search's number.

        Args:
            best: rows of each search.
        """
        device = self._similarity.device
        for windows in window_batches(self._index, sorted(set().union(*best)), device):
            rows = {window.row for window in windows}
            wanting = [number for number, chosen in enumerate(best) if rows & set(chosen)]
            asked = self._asked.taken(wanting)
            batch = batch_of(windows, device)
            row_J = batch.labels_BT.nonzero()[:, 0].cpu().numpy()
            layers = powered_layers(self._similarity, batch, asked.queries, self._sample.usual)
            powers_LJQ = np.stack([layer.double().cpu().numpy() for layer in layers])
            for at, window in enumerate(windows):
                powers_LMQ = powers_LJQ[:, row_J == at]
                for place, number in enumerate(wanting):
                    if window.row in best[number]:
                        tokens = asked.places(place)
                        yield (
                            number,
                            explained(
                                window,
                                powers_LMQ[:, :, tokens.start : tokens.stop],
                                self._reference.taken(list(self._asked.places(number))),
                                self._positions(number),
                                self._similarity.first_layer,
                            ),
                        )

    def _batches(self, rows: Sequence[int], progress: Progress) -> Iterator[list[StoredWindow]]:
        for windows in window_batches(self._index, rows, self._similarity.device):
            yield windows
            progress.advance(len(windows), records=len(windows), tokens=token_count(windows))

    def _pooled(self, windows: Sequence[StoredWindow], asked: AskedTokens) -> np.ndarray:
        batch = batch_of(windows, self._similarity.device)
        return pooled_similarity(self._similarity, batch, asked.queries, self._sample.usual)

    def _put(
        self,
        rows: Sequence[int],
        shares_WQL: np.ndarray,
        asked: AskedTokens,
        numbers: Sequence[int],
    ) -> None:
        shares_WQ = shares_WQL.sum(2)
        for place, number in enumerate(numbers):
            tokens = asked.places(place)
            self.scored[number].put(rows, shares_WQ[:, tokens.start : tokens.stop].sum(1))

    def _positions(self, number: int) -> list[int]:
        """Positions of a question's tokens in it."""
        labels_T = self._searches[number].question.labels_BT[0]
        positions: list[int] = labels_T.nonzero()[:, 0].tolist()
        return positions
