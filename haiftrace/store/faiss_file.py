"""A flat FAISS index as a file: written while its vectors pass through, mapped where it is read.

FAISS writes an index that it holds in memory. Ours need not fit there: the file is FAISS's own of
an empty index, with the counts put in, and then the vectors' codes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from haiftrace.errors import IndexStoreError
from haiftrace.store.durable import HashingSink
from haiftrace.store.manifest import REBUILD_HINT


def write_vectors(
    sink: HashingSink, empty: Any, a_row: int, count: int, blocks: Iterable[np.ndarray]
) -> None:
    """Write a flat index over `count` vectors, given as blocks [n, dim].

    The vectors are held together only where this FAISS lays its file out in an unknown way.

    Args:
        empty: the FAISS index without vectors, trained where it has to be.
        a_row: how much a vector adds to the size that the file tells: its numbers or its bytes.
    """
    import faiss

    header = _header(empty, a_row, count)
    if header is None:
        for block in blocks:
            empty.add(np.ascontiguousarray(block, dtype=np.float32))
        sink.write(faiss.serialize_index(empty).tobytes())
        return
    sink.write(header)
    for block in blocks:
        sink.write(_codes(empty, block))


def _codes(empty: Any, block: np.ndarray) -> bytes:
    codes: bytes = empty.sa_encode(np.ascontiguousarray(block, dtype=np.float32)).tobytes()
    return codes


def _header(empty: Any, a_row: int, count: int) -> bytes | None:
    # The count of vectors stands after the four-letter code and the dimension, their size at the
    # end. Known to be right only if the same gives exactly FAISS's file for one vector.
    import faiss

    without = faiss.serialize_index(empty).tobytes()

    def header(rows: int) -> bytes:
        filled = bytearray(without)
        struct.pack_into("<q", filled, 8, rows)
        struct.pack_into("<Q", filled, len(filled) - 8, rows * a_row)
        return bytes(filled)

    probe = np.linspace(-1, 1, empty.d, dtype=np.float32)[None]
    one = faiss.clone_index(empty)
    one.add(probe)
    known = header(1) + _codes(empty, probe)
    return header(count) if known == faiss.serialize_index(one).tobytes() else None


def open_vectors(path: Path, dim: int, count: int) -> Any:
    """FAISS's index of a file, mapped into memory where FAISS can do so.

    Raises:
        IndexStoreError: FAISS cannot read it, or it has another shape than [count, dim].
    """
    import faiss

    try:
        index = faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
    except RuntimeError:
        raise IndexStoreError(
            f"The index is damaged: FAISS cannot read {path}.", REBUILD_HINT
        ) from None
    if (index.ntotal, index.d) != (count, dim):
        raise IndexStoreError(
            f"The index is damaged: {path} holds {index.ntotal} vectors of {index.d} "
            f"dimensions instead of {count} of {dim}.",
            REBUILD_HINT,
        )
    return index
