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

_MATRIX_BYTES = 256 << 20


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
        self._dimension, self._seed = index.layout.token_vectors, index.settings["seed"]
        self._similarity = similarity
        window_J = np.repeat(np.arange(len(index)), index.column("label_count"))
        self._weights_J = learnt_weights(index.label_losses(), window_J, usual)

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
        vectors = [self._vectors(query) for query in queries]
        room = max(1, _MATRIX_BYTES // (8 * self._windows))
        start = 0
        while start < len(vectors):
            end, tokens = start, 0
            while end < len(vectors) and (end == start or tokens + len(vectors[end]) <= room):
                tokens += len(vectors[end])
                end += 1
            pooled_NQ = self._pooled(np.concatenate(vectors[start:end]))
            pooled_NQ1 = pooled_NQ[:, :, None]
            contributions_NQ = Reference.of(pooled_NQ1).contributions(pooled_NQ1)[..., 0]
            at = 0
            for of_query in vectors[start:end]:
                yield contributions_NQ[:, at : at + len(of_query)].sum(1)
                at += len(of_query)
            start = end

    def _vectors(self, query: Batch) -> np.ndarray:
        """[Q, K] of a query's tokens."""
        vectors_BTK = self._similarity.measures(query, self._dimension, self._seed).vectors_BTK
        assert vectors_BTK is not None
        vectors_QK: np.ndarray = vectors_BTK[query.labels_BT].float().cpu().numpy()
        return vectors_QK

    def _pooled(self, queries_QK: np.ndarray) -> np.ndarray:
        """[N, Q] the estimated pooled similarity."""
        sums_NQ = np.zeros((self._windows, len(queries_QK)))
        counts_N = np.ones(self._windows)
        first = 0
        for rows, counts, cosines_JQ in self._search.products(queries_QK):
            after = first + len(cosines_JQ)
            filled = np.flatnonzero(counts)
            if len(filled):
                powers_JQ = np.maximum(cosines_JQ, 0.0) ** POWER
                powers_JQ = powers_JQ * self._weights_J[first:after, None]
                starts = np.cumsum(counts) - counts
                sums_NQ[rows.start + filled] = np.add.reduceat(powers_JQ, starts[filled], axis=0)
                counts_N[rows.start + filled] = counts[filled]
            first = after
        return np.asarray((sums_NQ / np.sqrt(counts_N)[:, None]) ** (1 / POWER))
