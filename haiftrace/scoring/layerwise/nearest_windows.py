"""Candidates of a large index: windows with tokens near a query's, by the inverted file.

What a scan estimates of every window (see `estimates`) is here estimated of the windows that hold
the nearest tokens, from all of their tokens; z-scores are over the reference's windows instead of
all. How many of the nearest tokens the inverted file gives is measured when it is made.

Shape letters: W windows, Q query tokens of all queries, K dimensions of a token's vector.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods.layerwise import POWER, Reference, learnt_weights
from haiftrace.scoring.layerwise.estimates import query_vectors
from haiftrace.scoring.layerwise.reference import ReferenceSample
from haiftrace.store import Index

if TYPE_CHECKING:
    from haiftrace.engine import Batch, TokenSimilarity
    from haiftrace.store.token_search import NearestTokens

NEAREST_TOKENS = 4096
"""Tokens that are looked for, for each query token."""
ESTIMATED = 8
"""Windows that are estimated from all of their tokens, for each that is wanted."""


class NearestWindows:
    """Estimated scores of the windows of an index that has an inverted file.

    Args:
        index: one with an inverted file over its token vectors.
        similarity: of the indexed model.
        sample: the reference that z-scores are over.
    """

    def __init__(self, index: Index, similarity: TokenSimilarity, sample: ReferenceSample) -> None:
        search = index.token_search
        assert search is not None
        self._search = search
        self._index = index
        self._similarity = similarity
        self._sample = sample
        counts_N = index.column("label_count")
        self._counts_N = counts_N
        self._starts = np.concatenate([[0], np.cumsum(counts_N, dtype=np.int64)])

    def proposed(self, queries: Sequence[Batch], count: int) -> list[list[int]]:
        """Of each query the rows of the windows with the largest estimates, best first.

        Ties are by row.
        """
        if not queries:
            return []
        vectors = [query_vectors(self._index, self._similarity, query) for query in queries]
        # A product a token of the reference, for all queries together.
        reference = Reference.of(self._pooled(self._sample.rows, np.concatenate(vectors)))
        proposed, first = [], 0
        for vectors_QK in vectors:
            own = reference.subset(slice(first, first + len(vectors_QK)))
            first += len(vectors_QK)
            rows = np.array(self._promising(vectors_QK, own, ESTIMATED * count), dtype=np.int64)
            scores_W = self._scores(self._pooled(rows.tolist(), vectors_QK), own)
            order = np.argsort(-scores_W, kind="stable")[:count]
            proposed.append(rows[order].tolist())
        return proposed

    def _promising(self, vectors_QK: np.ndarray, reference: Reference, count: int) -> list[int]:
        """Rows of so many windows, ascending, that score highest by their nearest tokens alone."""
        nearest = self._search.nearest(vectors_QK, NEAREST_TOKENS)
        rows_W = np.unique(np.concatenate([each.rows for each in nearest]))
        pooled_WQ = np.stack([self._sums(each, rows_W) for each in nearest], axis=1)
        pooled_WQ /= np.sqrt(self._counts_N[rows_W])[:, None]
        scores_W = self._scores((pooled_WQ ** (1 / POWER))[:, :, None], reference)
        best: list[int] = np.sort(rows_W[np.argsort(-scores_W, kind="stable")[:count]]).tolist()
        return best

    def _sums(self, nearest: NearestTokens, rows_W: np.ndarray) -> np.ndarray:
        """[W] the sums of weighted powers of a query token's nearest tokens."""
        place = np.searchsorted(rows_W, nearest.rows)
        powers = np.maximum(nearest.products.astype(np.float64), 0.0) ** POWER
        return np.bincount(place, powers, minlength=len(rows_W))

    def _scores(self, pooled_WQ1: np.ndarray, reference: Reference) -> np.ndarray:
        scores_W: np.ndarray = reference.contributions(pooled_WQ1)[..., 0].sum(1)
        return scores_W

    def _pooled(self, rows: Sequence[int], vectors_QK: np.ndarray) -> np.ndarray:
        """[W, Q, 1] the estimated pooled similarity of some windows, from all of their tokens."""
        pooled_WQ = np.zeros((len(rows), len(vectors_QK)))
        for place, (row, cosines_JQ) in enumerate(self._search.products_of(rows, vectors_QK)):
            if len(cosines_JQ):
                powers_JQ = np.maximum(cosines_JQ, 0.0) ** POWER * self._weights(row)[:, None]
                pooled_WQ[place] = powers_JQ.sum(0) / np.sqrt(len(cosines_JQ))
        return np.asarray(pooled_WQ ** (1 / POWER))[:, :, None]

    def _weights(self, row: int) -> np.ndarray:
        """[J] the weights of a window's labels."""
        first, after = int(self._starts[row]), int(self._starts[row + 1])
        losses_J = np.asarray(self._losses[first:after])
        return learnt_weights(losses_J, np.zeros(len(losses_J), np.int64), self._sample.usual)

    @cached_property
    def _losses(self) -> np.ndarray:
        """[all label tokens] float32: the losses, in a file without a name that is mapped."""
        with tempfile.TemporaryFile() as file:
            for losses_J, _ in self._index.label_losses():
                file.write(np.ascontiguousarray(losses_J).tobytes())
            file.flush()
            return np.memmap(file, np.float32, "r")
