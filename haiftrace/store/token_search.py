"""tokens.faiss: the label tokens' vectors, for inner products with those of query tokens.

A flat FAISS index of bits (see `token_codes`). Its row r is the r-th label token of the index, so
windows own consecutive rows. All of it is scanned, since a score is of all tokens of a window:
a million tokens of 2,048 signs take a core about four seconds, for one query token or ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from haiftrace.errors import DamagedIndexError
from haiftrace.store.durable import HashingSink
from haiftrace.store.faiss_file import open_codes, write_codes
from haiftrace.store.manifest import REBUILD_HINT
from haiftrace.store.token_codes import decode_signs

_BLOCK_BYTES = 1 << 20
"""Of decoded vectors: while they stay in the cache, a scan takes a third of the time."""


def write_token_index(
    sink: HashingSink, dim: int, count: int, blocks: Iterable[np.ndarray]
) -> None:
    """Write the index over the codes of `count` vectors, given as blocks [n, dim/8]."""
    write_codes(sink, dim, count, blocks)


class TokenSearch:
    """The index of a file, mapped into memory where FAISS can do so."""

    def __init__(
        self,
        path: Path,
        dim: int,
        label_counts: np.ndarray,
        count: int,
        live: np.ndarray | None = None,
    ) -> None:
        """Open the file.

        Args:
            label_counts: [N] how many label tokens each window has.
            count: how many there are by the manifest.
            live: [N] which windows are given; the others are masked. None for all.

        Raises:
            DamagedIndexError: FAISS cannot read it, or it does not hold these tokens.
        """
        self._starts = np.concatenate([[0], np.cumsum(label_counts, dtype=np.int64)])
        if self._starts[-1] != count:
            raise DamagedIndexError(
                f"The index is damaged: it has {self._starts[-1]} label tokens and not the"
                f" {count} that its manifest tells.",
                REBUILD_HINT,
            )
        self._index: Any = open_codes(path, dim, count)
        self._dim = dim
        self._live = live
        self._given = np.concatenate([[0], np.cumsum(live)]) if live is not None else None

    def codes(self, row: int) -> np.ndarray:
        """[m, K/8] uint8: the stored codes of a window's label tokens; masked ones count too."""
        first, after = int(self._starts[row]), int(self._starts[row + 1])
        codes: np.ndarray = self._index.reconstruct_n(first, after - first)
        return codes

    def products(self, queries_QK: np.ndarray) -> Iterator[tuple[range, np.ndarray, np.ndarray]]:
        """Estimated inner products of every token's vector with queries', in blocks of windows.

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
        block_tokens = max(1, _BLOCK_BYTES // (4 * self._dim))
        windows, first = len(self._starts) - 1, 0
        while first < windows:
            begin = int(self._starts[first])
            after = int(np.searchsorted(self._starts, begin + block_tokens, side="right")) - 1
            after = max(after, first + 1)  # a window that is larger than a block
            tokens = int(self._starts[after]) - begin
            codes = self._index.reconstruct_n(begin, tokens)
            counts = np.diff(self._starts[first : after + 1])
            rows = range(first, after)
            if self._live is not None and self._given is not None:
                live = self._live[first:after]
                codes, counts = codes[np.repeat(live, counts)], counts[live]
                rows = range(int(self._given[first]), int(self._given[after]))
            if len(rows):
                yield rows, counts, decode_signs(codes) @ queries_KQ
            first = after
