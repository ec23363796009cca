"""A token's vector as the tables of tokens/ keep it: eight bits a number, and a scale of its own.

The numbers are a random projection of a unit gradient, so that the cosine of two is off by 1/√K
whatever they are kept in. Rounding them to 127 steps of the largest adds 0.03/√K to that.

Shape letters: N tokens, K dimensions of a token's vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.store.parquet import read_columns

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

CODE, SCALE = "vector", "vector_scale"
"""Columns: K bytes, whole numbers from -127 to 127, and what one step is. Bytes, as Parquet's
smallest number takes four."""

_MOST = 127


def code_columns(dim: int) -> list[tuple[str, Any]]:
    """Names and types of the columns, for vectors of `dim` numbers."""
    import pyarrow as pa

    return [(CODE, pa.binary(dim)), (SCALE, pa.float32())]


def code_arrays(vectors_NK: np.ndarray) -> dict[str, pa.Array]:
    """The columns' values of finite vectors."""
    import pyarrow as pa

    codes_NK, scale_N = encoded(vectors_NK)
    count, dim = codes_NK.shape
    codes = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(dim), count, [None, pa.py_buffer(codes_NK.tobytes())]
    )
    return {CODE: codes, SCALE: pa.array(scale_N, pa.float32())}


def read_token_vectors(path: Path, file: pq.ParquetFile, group: int) -> np.ndarray:
    """[N, K] float32, the vectors of one row group.

    Raises:
        IndexStoreError: the file is damaged, or lacks them.
    """
    table = read_columns(path, file, [CODE, SCALE], group)
    codes = table.column(CODE)
    dim = codes.type.byte_width
    parts = [
        np.frombuffer(
            chunk.buffers()[1], dtype=np.int8, count=len(chunk) * dim, offset=chunk.offset * dim
        )
        for chunk in codes.chunks
    ]
    flat = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int8)
    return decoded(flat.reshape(-1, dim), table.column(SCALE).to_numpy())


def encoded(vectors_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [N, K] int8 and scales [N] float32; a vector of zeros has the scale 0."""
    vectors_NK = np.asarray(vectors_NK, dtype=np.float32)
    scale_N = np.abs(vectors_NK).max(1, initial=0.0) / np.float32(_MOST)
    steps_NK = np.divide(
        vectors_NK, scale_N[:, None], out=np.zeros_like(vectors_NK), where=scale_N[:, None] > 0
    )
    # A scale below the smallest normal number is itself rounded, and a step may be too many.
    codes_NK = np.clip(np.rint(steps_NK), -_MOST, _MOST).astype(np.int8)
    return codes_NK, scale_N


def decoded(codes_NK: np.ndarray, scale_N: np.ndarray) -> np.ndarray:
    """[N, K] float32."""
    return np.asarray(codes_NK * scale_N[:, None])
