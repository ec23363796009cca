"""The layerwise rule estimated from the index's token vectors: what proposes candidates.

An index keeps a projection of every label's unit gradients, the mean over the layers. The inner
product with a query token's estimates the mean over layers of their cosines, and one scan of the
vectors estimates every window's score by the same pooling, as if of one layer.

Shape letters: N windows, Q query tokens, K dimensions of a token's vector, J labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods.layerwise import POWER, Reference, learnt_weights
from haiftrace.store import Index

if TYPE_CHECKING:
    from haiftrace.engine import Batch, TokenSimilarity

_MATRIX_BYTES = 64 << 20
"""Of the pooled similarities of all windows that are held at a time."""


class Estimates:
    """Estimated scores of an index's windows.

    Args:
        index: one with token vectors.
        similarity: of the indexed model.
        usual: the surprise that is usual in the corpus.
    """

    def __init__(self, index: Index, similarity: TokenSimilarity, usual: float) -> None:
        search = index.token_search
        assert search is not None
        self._search = search
        self._windows = len(index)
        self._similarity = similarity
        self._index, self._usual = index, usual

    def proposed(self, queries: Sequence[Batch], count: int) -> list[list[int]]:
        """Of each query the rows of the windows with the largest estimates, best first.

        Ties are by row.
        """
        proposed = []
        for scores_N in self._scores(queries):
            order = np.argsort(-scores_N, kind="stable")[:count]
            proposed.append([int(row) for row in order])
        return proposed

    def _scores(self, queries: Sequence[Batch]) -> Iterator[np.ndarray]:
        """[N] the estimated score of every window, a query each."""
        vectors = [query_vectors(self._index, self._similarity, query) for query in queries]
        room = max(1, _MATRIX_BYTES // (8 * self._windows))
        start = 0
        while start < len(vectors):
            end, tokens = start, 0
            while end < len(vectors) and (end == start or tokens + len(vectors[end]) <= room):
                tokens += len(vectors[end])
                end += 1
            pooled_NQ = self._pooled(np.concatenate(vectors[start:end]))
            pooled_NQ1 = pooled_NQ[:, :, None]
            reference = Reference.of(pooled_NQ1)
            at = 0
            for of_query in vectors[start:end]:
                own = slice(at, at + len(of_query))
                yield reference.subset(own).contributions(pooled_NQ1[:, own])[..., 0].sum(1)
                at += len(of_query)
            start = end

    def _pooled(self, queries_QK: np.ndarray) -> np.ndarray:
        """[N, Q] the estimated pooled similarity."""
        sums_NQ = np.zeros((self._windows, len(queries_QK)))
        counts_N = np.ones(self._windows)
        weights = LearntWeights(self._index, self._usual)
        for rows, counts, cosines_JQ in self._search.products(queries_QK):
            filled = np.flatnonzero(counts)
            weights_J = weights.take(len(cosines_JQ))
            if len(filled):
                powers_JQ = np.maximum(cosines_JQ, 0.0) ** POWER
                powers_JQ = powers_JQ * weights_J[:, None]
                starts = np.cumsum(counts) - counts
                sums_NQ[rows.start + filled] = np.add.reduceat(powers_JQ, starts[filled], axis=0)
                counts_N[rows.start + filled] = counts[filled]
        sums_NQ /= np.sqrt(counts_N)[:, None]
        sums_NQ **= 1 / POWER
        return sums_NQ


def query_vectors(index: Index, similarity: TokenSimilarity, query: Batch) -> np.ndarray:
    """[Q, K] the vectors of a query's tokens, as the index has those of its labels."""
    dimension, seed = index.layout.token_vectors, index.settings["seed"]
    vectors_BTK = similarity.measures(query, dimension, seed).vectors_BTK
    assert vectors_BTK is not None
    vectors_QK: np.ndarray = vectors_BTK[query.labels_BT].float().cpu().numpy()
    return vectors_QK


class LearntWeights:
    """The weights of an index's label tokens, in order, as many at a time as are asked for."""

    def __init__(self, index: Index, usual: float) -> None:
        self._of_shards = (
            learnt_weights(losses_J, np.repeat(np.arange(len(counts)), counts), usual)
            for losses_J, counts in index.label_losses()
        )
        self._left = np.zeros(0)

    def take(self, count: int) -> np.ndarray:
        """[count] the next ones."""
        parts = [self._left]
        while sum(map(len, parts)) < count:
            parts.append(next(self._of_shards))
        taken = np.concatenate(parts)
        self._left = taken[count:]
        return taken[:count]
