"""A token's vector as its signs, a bit a number.

The numbers are a random projection of unit gradients: about normal, with variance 1/K. Of x the
signs alone are kept, and of a query q, which keeps its numbers, √(π/2K) Σ_k q_k sign(x_k) estimates
the inner product without bias. In the same space many signs lose less of it than fewer numbers of
more bits: what a projection leaves out, 1/√K, is most of the error.

Shape letters: N tokens, K dimensions of a token's vector.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.store.parquet import read_columns

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

TOKEN_ROW_GROUP = 4096
"""Tokens whose codes are read together."""

CODE = "signs"
"""Column: K/8 bytes, the first sign in the lowest bit."""

_BLOCK = 128
"""Tokens that are unpacked at a time: while they stay in the cache, a scan takes a third of the
time."""


def encode_signs(vectors_NK: np.ndarray) -> np.ndarray:
    """[..., K/8] uint8, the signs of vectors [..., K] as bits: 1 where a number is positive."""
    return np.packbits(np.asarray(vectors_NK) > 0, axis=-1, bitorder="little")


def decode_signs(codes_NB: np.ndarray) -> np.ndarray:
    """[N, K] float32: the signs times √(π/2K)."""
    scale = _scale(8 * codes_NB.shape[1])
    signs_NK = _bits(codes_NB)
    signs_NK *= 2 * scale
    signs_NK -= scale
    return signs_NK


class SignProducts:
    """Inner products of coded vectors with queries, without decoding: s (2 Σ_k b_k q_k - Σ_k q_k),
    b the bits and s = √(π/2K).

    Args:
        queries_KQ: finite numbers, float32.
    """

    def __init__(self, queries_KQ: np.ndarray) -> None:
        scale = _scale(len(queries_KQ))
        self._doubled_KQ = np.ascontiguousarray(queries_KQ * (2 * scale))
        self._sums_Q = queries_KQ.sum(0, dtype=np.float64).astype(np.float32) * scale

    def of(self, codes_NB: np.ndarray) -> np.ndarray:
        """[N, Q] float32."""
        products_NQ = np.empty((len(codes_NB), self._doubled_KQ.shape[1]), np.float32)
        for first in range(0, len(codes_NB), _BLOCK):
            block = slice(first, first + _BLOCK)
            np.matmul(_bits(codes_NB[block]), self._doubled_KQ, out=products_NQ[block])
        products_NQ -= self._sums_Q
        return products_NQ


def _scale(dim: int) -> np.float32:
    return np.float32(math.sqrt(math.pi / (2 * dim)))


def _bits(codes_NB: np.ndarray) -> np.ndarray:
    """[N, K] float32 0 and 1; a sixth of what a table of the bytes' signs takes."""
    return np.unpackbits(codes_NB, axis=1, bitorder="little").astype(np.float32)


def code_batch(codes_NB: np.ndarray) -> pa.RecordBatch:
    """The rows of tokens/ for codes [N, K/8]."""
    import pyarrow as pa

    count, size = codes_NB.shape
    codes = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(size), count, [None, pa.py_buffer(codes_NB.tobytes())]
    )
    schema = pa.schema([pa.field(CODE, pa.binary(size), nullable=False)])
    return pa.RecordBatch.from_arrays([codes], schema=schema)


def read_codes(path: Path, file: pq.ParquetFile, group: int) -> np.ndarray:
    """[N, K/8] uint8, the codes of one row group.

    Raises:
        IndexStoreError: the file is damaged, or lacks them.
    """
    codes = read_columns(path, file, [CODE], group).column(CODE)
    size = codes.type.byte_width
    chunks = [
        np.frombuffer(
            chunk.buffers()[1], dtype=np.uint8, count=len(chunk) * size, offset=chunk.offset * size
        )
        for chunk in codes.chunks
    ]
    flat = np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.uint8)
    return flat.reshape(-1, size)
