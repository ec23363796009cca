"""Seeded two-sided random projection of parameter gradients to one short vector.

For a matrix parameter with gradient G [rows, columns] the projection is `Pᵀ G Q` with independent
sign matrices P [rows, a] and Q [columns, b], entries ±1/√a and ±1/√b, flattened to K = a·b numbers;
for a vector parameter it is a dense sign matrix. The projections of all parameters are added up.
With independent signs a parameter, `E⟨p(G), p(G')⟩ = Σ ⟨G, G'⟩`, so inner products are unbiased
(a Johnson-Lindenstrauss projection with Kronecker factors).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from haiftrace.engine.products import matmul, merge_last

DIMENSION_STEP = 16
"""A projection's dimension is a multiple of this."""


def _signs(key: str, rows: int, columns: int) -> np.ndarray:
    """Signs [rows, columns] in {-1, +1} from a counter-based generator: the same everywhere."""
    seed_words = np.frombuffer(hashlib.sha256(key.encode()).digest()[:16], dtype="<u8")
    count = rows * columns
    raw = np.random.Philox(key=seed_words).random_raw((count + 63) // 64)
    bits = np.unpackbits(np.ascontiguousarray(raw, dtype="<u8").view(np.uint8), count=count)
    return bits.reshape(rows, columns).astype(np.int8) * np.int8(2) - np.int8(1)


def kronecker_split(dimension: int) -> tuple[int, int]:
    """The factors (a, b) of a dimension, a ≤ b, a·b = dimension, nearest to each other."""
    a = max(d for d in range(1, math.isqrt(dimension) + 1) if dimension % d == 0)
    return a, dimension // a


class Projector:
    """Projects gradients of named parameters to `dimension` numbers.

    Args:
        dimension: K, length of the projected vector, a multiple of 16.
        seed: the same seed, name and shape give the same signs on every device.
        dtype: of the sign matrices and so of the products.

    Raises:
        ValueError: `dimension` is no positive multiple of 16.
    """

    def __init__(
        self,
        dimension: int,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if dimension <= 0 or dimension % DIMENSION_STEP:
            raise ValueError(
                f"a projection has a positive multiple of {DIMENSION_STEP} dimensions,"
                f" not {dimension}"
            )
        self.dimension = dimension
        self.seed = seed
        self.device = torch.device(device)
        self.dtype = dtype
        self.widths = kronecker_split(dimension)
        self._cache: dict[tuple[str, str], Tensor] = {}

    def _factor(self, name: str, kind: str, size: int, width: int) -> Tensor:
        key = (name, kind)
        if key not in self._cache:
            signs = _signs(f"{self.seed}|{self.dimension}|{name}|{kind}", size, width)
            factor = torch.from_numpy(signs).to(self.device, self.dtype) / math.sqrt(width)
            self._cache[key] = factor
        return self._cache[key]

    def left(self, name: str, rows: int) -> Tensor:
        """P [rows, a] of a matrix parameter."""
        return self._factor(name, "left", rows, self.widths[0])

    def right(self, name: str, columns: int) -> Tensor:
        """Q [columns, b] of a matrix parameter."""
        return self._factor(name, "right", columns, self.widths[1])

    def dense(self, name: str, size: int) -> Tensor:
        """The sign matrix [size, dimension] of a vector parameter."""
        return self._factor(name, "dense", size, self.dimension)

    def outer(self, name: str, rows_NIR: Tensor, columns_NIC: Tensor) -> Tensor:
        """Projects `Σ_i rows_i columns_iᵀ`, given as [..., I, R] and [..., I, C].

        Returns:
            [..., K]
        """
        left_NIX = matmul(rows_NIR, self.left(name, rows_NIR.shape[-1]))
        right_NIX = matmul(columns_NIC, self.right(name, columns_NIC.shape[-1]))
        return merge_last(matmul(left_NIX.transpose(-1, -2), right_NIX), 2)

    def project(self, name: str, gradient: Tensor, ndim: int) -> Tensor:
        """Projects a gradient whose last `ndim` dimensions are the parameter's.

        Returns:
            [..., K]
        """
        lead = gradient.shape[: gradient.ndim - ndim]
        if ndim <= 1:
            flat = gradient.reshape(*lead, -1).to(self.dtype)
            return matmul(flat, self.dense(name, flat.shape[-1]))
        matrix = gradient.reshape(*lead, -1, gradient.shape[-1]).to(self.dtype)
        left = self.left(name, matrix.shape[-2])
        projected = left.T @ matmul(matrix, self.right(name, matrix.shape[-1]))
        return merge_last(projected, 2)
