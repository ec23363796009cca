"""tokens.faiss: the label tokens' vectors, for inner products with those of query tokens.

A flat FAISS index of bits (see `token_codes`). Its row r is the r-th label token of the index, so
windows own consecutive rows. A scan of all of it takes a core about a second for a million tokens
of 2,048 signs and one query token or eight; beside a large one there is an inverted file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from haiftrace.errors import DamagedIndexError
from haiftrace.store.durable import HashingSink
from haiftrace.store.faiss_file import FlatCodes, write_codes
from haiftrace.store.inverted_file import SHORTLISTED, InvertedFile
from haiftrace.store.manifest import REBUILD_HINT
from haiftrace.store.token_codes import SignProducts

_BLOCK_TOKENS = 1 << 12
"""Tokens whose codes are read together."""


def write_token_index(
    sink: HashingSink, dim: int, count: int, blocks: Iterable[np.ndarray]
) -> None:
    """Write the index over the codes of `count` vectors, given as blocks [n, dim/8]."""
    write_codes(sink, dim, count, blocks)


@dataclass(frozen=True)
class NearestTokens:
    """Tokens with the largest inner products with a query, best first.

    Attributes:
        rows: of their windows.
        tokens: their numbers among all stored label tokens.
        products: the estimated inner products.
    """

    rows: np.ndarray
    tokens: np.ndarray
    products: np.ndarray


class TokenSearch:
    """The index of a file, read as it is searched."""

    def __init__(
        self,
        path: Path,
        dim: int,
        label_counts: np.ndarray,
        count: int,
        live: np.ndarray | None = None,
        inverted: InvertedFile | None = None,
    ) -> None:
        """Open the file.

        Args:
            label_counts: [N] how many label tokens each window has.
            count: how many there are by the manifest.
            live: [N] which windows are given; the others are masked. None for all.
            inverted: proposes tokens without a scan; None where the index has none.

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
        self._codes = FlatCodes(path, dim, count)
        self._dim = dim
        self._live = live
        self._inverted = inverted
        self._given = np.concatenate([[0], np.cumsum(live)]) if live is not None else None

    def codes(self, row: int) -> np.ndarray:
        """[m, K/8] uint8: the stored codes of a window's label tokens; masked ones count too."""
        first, after = int(self._starts[row]), int(self._starts[row + 1])
        return self._codes.rows(first, after - first)

    def products(self, queries_QK: np.ndarray) -> Iterator[tuple[range, np.ndarray, np.ndarray]]:
        """Estimated inner products of every token's vector with queries', in blocks of windows.

        Memory does not grow with the index; every window is in one block, in their order.

        Args:
            queries_QK: finite numbers.

        Yields:
            Rows of the windows; [n] how many label tokens each has; and [tokens, Q] float32, the
            tokens of a window after those of the one before it.
        """
        signs = SignProducts(self._checked(queries_QK).T)
        windows, first = len(self._starts) - 1, 0
        while first < windows:
            begin = int(self._starts[first])
            after = int(np.searchsorted(self._starts, begin + _BLOCK_TOKENS, side="right")) - 1
            after = max(after, first + 1)  # a window that is larger than a block
            tokens = int(self._starts[after]) - begin
            codes = self._codes.rows(begin, tokens)
            counts = np.diff(self._starts[first : after + 1])
            rows = range(first, after)
            if self._live is not None and self._given is not None:
                live = self._live[first:after]
                codes, counts = codes[np.repeat(live, counts)], counts[live]
                rows = range(int(self._given[first]), int(self._given[after]))
            if len(rows):
                yield rows, counts, signs.of(codes)
            first = after

    @property
    def scans(self) -> bool:
        """Whether every token is looked at: there is no inverted file."""
        return self._inverted is None

    def nearest(self, queries_QK: np.ndarray, count: int) -> list[NearestTokens]:
        """The tokens with the largest inner products, for each query, without a scan of all.

        Args:
            queries_QK: finite numbers.
            count: how many tokens, at most.
        """
        assert self._inverted is not None
        queries_QK = self._checked(queries_QK)
        nearest = []
        shortlists = self._inverted.search(queries_QK, SHORTLISTED * count)
        for query_K, tokens in zip(queries_QK, shortlists, strict=True):
            rows = np.searchsorted(self._starts, tokens, side="right") - 1
            if self._live is not None and self._given is not None:
                live = self._live[rows]
                tokens, rows = tokens[live], self._given[rows[live]]
            products = SignProducts(query_K[:, None]).of(self._codes.at(tokens))[:, 0]
            order = np.argsort(-products, kind="stable")[:count]
            nearest.append(NearestTokens(rows[order], tokens[order], products[order]))
        return nearest

    def products_of(
        self, rows: Sequence[int], queries_QK: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray]]:
        """As `products`, of some windows: the row of each, and [m, Q] float32."""
        signs = SignProducts(self._checked(queries_QK).T)
        stored = rows if self._live is None else np.flatnonzero(self._live)[np.asarray(rows)]
        for row, window in zip(rows, stored, strict=True):
            yield row, signs.of(self.codes(int(window)))

    def close(self) -> None:
        """Close the file."""
        self._codes.close()

    def _checked(self, queries_QK: np.ndarray) -> np.ndarray:
        queries_QK = np.asarray(queries_QK, dtype=np.float32)
        if queries_QK.shape[1:] != (self._dim,) or not np.isfinite(queries_QK).all():
            raise ValueError(f"queries must have {self._dim} finite numbers each")
        return queries_QK
