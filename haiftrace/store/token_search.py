"""tokens.faiss: the label tokens' vectors, for inner products with those of query tokens.

A flat FAISS index with a scalar quantiser of four bits a number: what a projection leaves out of a
cosine, 1/√K, grows by 2 % by that, while half as many numbers of eight bits would leave out 41 %
more in the same space. Its row r is the r-th label token of the tables in tokens/, in their order,
so windows own consecutive rows.

It is scanned as a whole. A million tokens of 1,024 numbers take one core 0.9 seconds for one query
and 1.1 for ten, a small part of what the exact scores of the candidates take; inverted lists would
save some of that, and lose the estimates of all windows that a verdict is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from haiftrace.errors import IndexStoreError
from haiftrace.store.durable import HashingSink
from haiftrace.store.faiss_file import open_vectors, write_vectors
from haiftrace.store.manifest import REBUILD_HINT

SAMPLE = 1 << 16
"""Tokens, a seeded sample, that the quantiser's ranges are found from."""

_BLOCK_BYTES = 1 << 20
"""Of decoded vectors: while they stay in the cache, a scan takes a third of the time."""


def write_token_index(
    sink: HashingSink, dim: int, count: int, blocks: Callable[[], Iterable[np.ndarray]]
) -> None:
    """Write the index over `count` vectors, at least one; they pass through twice at most.

    Args:
        blocks: gives them anew at each call, as blocks [n, dim].
    """
    import faiss

    index = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_4bit, faiss.METRIC_INNER_PRODUCT
    )
    index.train(_sample(count, blocks()))
    write_vectors(sink, index, index.sa_code_size(), count, blocks())


def _sample(count: int, blocks: Iterable[np.ndarray]) -> np.ndarray:
    # In ascending order, and the same for the same count: the file is the same for the same rows.
    chosen = np.arange(count)
    if count > SAMPLE:
        chosen = np.sort(np.random.default_rng(0).choice(count, SAMPLE, replace=False))
    parts, first = [], 0
    for block in blocks:
        low, high = np.searchsorted(chosen, (first, first + len(block)))
        parts.append(block[chosen[low:high] - first].astype(np.float32))
        first += len(block)
    return np.concatenate(parts)


class TokenSearch:
    """The index of a file, mapped into memory where FAISS can do so."""

    def __init__(self, path: Path, dim: int, label_counts: np.ndarray, count: int) -> None:
        """Open the file.

        Args:
            label_counts: [N] how many label tokens each window has.
            count: how many there are by the manifest.

        Raises:
            IndexStoreError: FAISS cannot read it, or it does not hold these tokens.
        """
        self._starts = np.concatenate([[0], np.cumsum(label_counts, dtype=np.int64)])
        if self._starts[-1] != count:
            raise IndexStoreError(
                f"The index is damaged: it has {self._starts[-1]} label tokens and not the"
                f" {count} that its manifest tells.",
                REBUILD_HINT,
            )
        self._index: Any = open_vectors(path, dim, count)
        self._dim = dim

    def products(self, queries_QK: np.ndarray) -> Iterator[tuple[range, np.ndarray, np.ndarray]]:
        """Inner products of every token's vector with queries', in blocks of whole windows.

        Memory does not grow with the index; every window is in one block, in their order.

        Args:
            queries_QK: finite numbers.

        Yields:
            Rows of the windows; [n] how many label tokens each has; and [tokens, Q] float32, the
            tokens of a window after those of the one before it.
        """
        queries_QK = np.asarray(queries_QK, dtype=np.float32)
        queries_KQ = np.ascontiguousarray(queries_QK.T)
        if queries_QK.shape[1:] != (self._dim,) or not np.isfinite(queries_QK).all():
            raise ValueError(f"queries must have {self._dim} finite numbers each")
        most = max(1, _BLOCK_BYTES // (4 * self._dim))
        windows, first = len(self._starts) - 1, 0
        while first < windows:
            begin = int(self._starts[first])
            after = int(np.searchsorted(self._starts, begin + most, side="right")) - 1
            after = max(after, first + 1)  # a window that is larger than a block
            tokens = int(self._starts[after]) - begin
            vectors = self._index.reconstruct_n(begin, tokens)
            counts = np.diff(self._starts[first : after + 1])
            yield range(first, after), counts, vectors @ queries_KQ
            first = after
