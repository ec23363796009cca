"""A flat FAISS index of bits as a file: written while its codes pass through, read by parts.

FAISS writes an index that it holds in memory. Ours need not fit there: the file is FAISS's own of
an empty index, with the counts put in, and then the codes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from haiftrace.errors import DamagedIndexError
from haiftrace.store.durable import HashingSink
from haiftrace.store.manifest import REBUILD_HINT

_BLOCK = 1 << 14
"""Codes that are read together."""


def write_codes(sink: HashingSink, dim: int, count: int, blocks: Iterable[np.ndarray]) -> None:
    """Write a flat index over `count` codes of `dim` bits, given as blocks [n, dim/8] of bytes.

    The codes are held together only where this FAISS lays its file out in an unknown way.
    """
    import faiss

    empty = faiss.IndexBinaryFlat(dim)
    header = _header(empty, count)
    if header is None:
        for block in blocks:
            empty.add(np.ascontiguousarray(block))
        sink.write(faiss.serialize_index_binary(empty).tobytes())
        return
    sink.write(header)
    for block in blocks:
        sink.write(np.ascontiguousarray(block).tobytes())


def _header(empty: Any, count: int) -> bytes | None:
    # How many codes there are stands after a four-letter code and two numbers, their size in bytes
    # at the end. Known to be right only if the same gives exactly FAISS's file for one code.
    import faiss

    without = faiss.serialize_index_binary(empty).tobytes()

    def header(rows: int) -> bytes:
        filled = bytearray(without)
        struct.pack_into("<q", filled, 12, rows)
        struct.pack_into("<Q", filled, len(filled) - 8, rows * empty.code_size)
        return bytes(filled)

    probe = np.arange(empty.code_size, dtype=np.uint8)[None]
    single = faiss.IndexBinaryFlat(empty.d)
    single.add(probe)
    expected = header(1) + probe.tobytes()
    return header(count) if expected == faiss.serialize_index_binary(single).tobytes() else None


class FlatCodes:
    """The codes of a flat index's file, read from it as they are asked for.

    They are not mapped: the pages of a mapping that was scanned count as this process's memory.

    Attributes:
        count, dim: how many codes of how many bits.
    """

    def __init__(self, path: Path, dim: int, count: int) -> None:
        """Open the file.

        Raises:
            DamagedIndexError: FAISS cannot read it, or it has another shape than [count, dim].
        """
        index = _mapped(path, dim, count)
        self.count, self.dim = count, dim
        self._size = dim // 8
        self._file = path.open("rb")
        # FAISS writes the codes last.
        self._begin = path.stat().st_size - count * self._size
        for row in {0, count - 1} if count else ():
            if not np.array_equal(self.rows(row, 1), index.reconstruct_n(row, 1)):
                raise DamagedIndexError(
                    f"The index is damaged: FAISS laid {path} out in an unknown way.", REBUILD_HINT
                )

    def rows(self, first: int, count: int) -> np.ndarray:
        """[count, dim/8] uint8: consecutive codes."""
        nbytes = count * self._size
        data = os.pread(self._file.fileno(), nbytes, self._begin + first * self._size)
        return np.frombuffer(data, np.uint8, nbytes).reshape(count, self._size)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """[n, dim/8] uint8: the codes of rows in any order."""
        codes = [self.rows(row, 1) for row in rows.tolist()]
        return np.concatenate([np.zeros((0, self._size), np.uint8), *codes])

    def blocks(self) -> Iterator[np.ndarray]:
        """[n, dim/8] uint8: all codes, in order."""
        for first in range(0, self.count, _BLOCK):
            yield self.rows(first, min(_BLOCK, self.count - first))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _mapped(path: Path, dim: int, count: int) -> Any:
    """FAISS's index of a file, mapped into memory where FAISS can do so."""
    import faiss

    try:
        index = faiss.read_index_binary(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
    except RuntimeError:
        raise DamagedIndexError(
            f"The index is damaged: FAISS cannot read {path}.", REBUILD_HINT
        ) from None
    if (index.ntotal, index.d) != (count, dim):
        raise DamagedIndexError(
            f"The index is damaged: {path} holds {index.ntotal} codes of {index.d} bits instead of"
            f" {count} of {dim}.",
            REBUILD_HINT,
        )
    return index
