"""records.faiss: the inner-product index over the windows' vectors.

A flat FAISS index: exact inner products of the projected vectors, [N, D] float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from haiftrace.store.durable import HashingSink
from haiftrace.store.faiss_file import open_vectors, write_vectors

_BLOCK_BYTES = 32 << 20


def write_flat_index(sink: HashingSink, dim: int, count: int, blocks: Iterable[np.ndarray]) -> None:
    """Write a FAISS IndexFlatIP over `count` vectors, given as blocks [n, dim]."""
    import faiss

    write_vectors(sink, faiss.IndexFlatIP(dim), dim, count, blocks)


class Shortlist:
    """The flat index of a file, mapped into memory where FAISS can do so."""

    def __init__(self, path: Path, dim: int, count: int) -> None:
        """Open the file.

        Raises:
            IndexStoreError: FAISS cannot read it, or it has another shape than [count, dim].
        """
        self._index: Any = open_vectors(path, dim, count)
        self._dim = dim
        self._count = count

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The `k` rows (all, if there are fewer) with the largest inner products with `query`.

        Args:
            query: [D], finite.
            k: at least 1.

        Returns:
            Row numbers [k] int64 and inner products [k] float32, best first, ties by row.
        """
        if k < 1:
            raise ValueError("k must be at least 1")
        query = self._checked(query)
        products, rows = self._index.search(query[None], min(k, self._count))
        order = np.lexsort((rows[0], -products[0]))
        return rows[0][order], products[0][order]

    def inner_products(self, query: np.ndarray) -> np.ndarray:
        """Inner products of `query` [D] with every row: [N] float32."""
        query = self._checked(query)
        parts = [block @ query for block in self._blocks()]
        return np.concatenate(parts).astype(np.float32, copy=False)

    def _blocks(self) -> Iterator[np.ndarray]:
        step = max(1, _BLOCK_BYTES // (4 * self._dim))
        for start in range(0, self._count, step):
            yield self._index.reconstruct_n(start, min(step, self._count - start))

    def _checked(self, query: np.ndarray) -> np.ndarray:
        query = np.ascontiguousarray(query, dtype=np.float32)
        if query.shape != (self._dim,) or not np.isfinite(query).all():
            raise ValueError(f"query must be {self._dim} finite numbers")
        return query
