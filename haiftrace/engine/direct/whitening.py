"""Whitening of the value projections' inputs: x̃ = x (A + λ tr(A)/D · I)^(-1/2), A = E[x xᵀ].

Inner products of direct gradients are taken with the inverse of the inputs' damped second moment,
the input half of a Kronecker-factored curvature (Martens and Grosse 2015), a layer each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 0.1
"""Default λ."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """The whitening of each layer's inputs.

    Attributes:
        matrices: a symmetric matrix [D, D] a layer, that inputs are multiplied by; None for none.
    """

    matrices: tuple[Tensor | None, ...]

    @classmethod
    def none(cls, layers: int) -> Whitening:
        """Inputs as they are."""
        return cls((None,) * layers)

    def applied(self, layer: int, input_BTD: Tensor) -> Tensor:
        """The whitened inputs x̃ [B, T, D], in at least float32."""
        if input_BTD.dtype in (torch.bfloat16, torch.float16):
            input_BTD = input_BTD.float()
        matrix = self.matrices[layer]
        return input_BTD if matrix is None else input_BTD @ matrix

    def to(self, like: Tensor) -> Whitening:
        """The whitening on a tensor's device, in its precision but at least float32."""
        dtype = torch.float64 if like.dtype is torch.float64 else torch.float32
        moved = (None if m is None else m.to(like.device, dtype) for m in self.matrices)
        return Whitening(tuple(moved))


class SecondMoments:
    """Sums of x xᵀ over positions, a layer each, in float64."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._count = 0

    def add(self, inputs: Sequence[Tensor], mask_BT: Tensor) -> None:
        """Adds the inputs [B, T, D] of every layer at the positions of the mask."""
        for layer, input_BTD in enumerate(inputs):
            rows = input_BTD[mask_BT].double()
            if layer == len(self._sums):
                self._sums.append(rows.new_zeros(rows.shape[1], rows.shape[1]))
            self._sums[layer].addmm_(rows.T, rows)
        self._count += int(mask_BT.sum())

    def whitening(self, damping: float = DAMPING) -> Whitening:
        """(A + λ tr(A)/D · I)^(-1/2) of each layer, float64.

        Args:
            damping: λ.
        """
        matrices = []
        for total in self._sums:
            eigenvalues, vectors = torch.linalg.eigh(total / max(1, self._count))
            eigenvalues = eigenvalues.clamp_min(0)
            damped = eigenvalues + damping * eigenvalues.mean()
            inverse_root = torch.where(damped > 0, damped.rsqrt(), torch.zeros_like(damped))
            matrices.append((vectors * inverse_root) @ vectors.T)
        return Whitening(tuple(matrices))
