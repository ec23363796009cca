"""The direct value gradients of labels in one layer, by their factors, and cosines of them.

In layer ℓ, head h, the stream of position t receives `o_h = Σ_i p_ti W_V x_i`. Through that arrow
alone the gradient of label j's loss by W_V is, for the key-value head g,

    G_jg = Σ_{h in g} e_jh ⊗ x̄_jh,    e_jh = ∂l_j/∂o_h,    x̄_jh = Σ_i p_ti x̃_i,

x̃ the whitened input of the value projection. No matrix of the parameter's size is ever formed:

    ⟨G_j, G_q⟩ = Σ_g Σ_{h,h' in g} (e_jh · e_qh') (x̄_jh · x̄_qh').

Shape letters: J, Q labels, G key-value heads, R query heads of each, E width of a head's value, D
width of the value projection's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COSINE_BYTES = 64 << 20
"""Products of heads that are held at a time, approximately."""


@dataclass(frozen=True, eq=False)
class LayerFactors:
    """Unit direct gradients of J labels in one layer, and their norms.

    Attributes:
        slope_GJRE: e over the gradient's norm; 0 where that is 0.
        input_GJRD: x̄.
        norm_J: of the gradient, float64.
    """

    slope_GJRE: Tensor
    input_GJRD: Tensor
    norm_J: Tensor

    @classmethod
    def of(cls, slope_GJRE: Tensor, input_GJRD: Tensor, scale_J: Tensor) -> LayerFactors:
        """From e and x̄ of gradients that are `scale_J` times as long."""
        slope_GJRE = slope_GJRE.to(input_GJRD.dtype)
        # To one size before they are squared.
        size_J = slope_GJRE.abs().amax((0, 2, 3))
        over_J = torch.where(size_J > 0, 1 / size_J, torch.zeros_like(size_J))
        slope_GJRE = slope_GJRE * over_J[:, None, None]
        met_GJRR = _grams(slope_GJRE) * _grams(input_GJRD)
        norm_J = met_GJRR.sum((0, 2, 3), dtype=torch.float64).clamp_min(0).sqrt()
        unit_J = torch.where(norm_J > 0, 1 / norm_J, torch.zeros_like(norm_J))
        slope_GJRE *= unit_J.to(slope_GJRE.dtype)[:, None, None]
        return cls(slope_GJRE, input_GJRD, norm_J * size_J.double() * scale_J)

    @property
    def count(self) -> int:
        """J."""
        return self.slope_GJRE.shape[1]

    @property
    def dot_work(self) -> int:
        """Multiplications of one inner product: of all pairs of heads in a group."""
        groups, _, heads, width = self.slope_GJRE.shape
        return groups * heads**2 * (width + self.input_GJRD.shape[-1])

    @property
    def nbytes(self) -> int:
        """Memory of the factors."""
        return self.slope_GJRE.nbytes + self.input_GJRD.nbytes

    def taken(self, places: Sequence[int] | slice | Tensor) -> LayerFactors:
        """Those of some labels."""
        return LayerFactors(
            self.slope_GJRE[:, places], self.input_GJRD[:, places], self.norm_J[places]
        )

    @classmethod
    def joined(cls, parts: Sequence[LayerFactors]) -> LayerFactors:
        """Those of several sets of labels."""
        return cls(
            torch.cat([part.slope_GJRE for part in parts], 1),
            torch.cat([part.input_GJRD for part in parts], 1),
            torch.cat([part.norm_J for part in parts]),
        )

    def cosines(self, other: LayerFactors) -> Tensor:
        """[J, Q] cosines of these gradients with others; 0 where either vanishes."""
        groups, _, heads, _ = self.slope_GJRE.shape
        slopes, inputs = self.slope_GJRE.flatten(1, 2), self.input_GJRD.flatten(1, 2)
        each = max(1, slopes.element_size() * slopes.shape[0] * slopes.shape[1] * heads)
        step = max(1, COSINE_BYTES // each)
        found = []
        for start in range(0, other.count, step):
            part = slice(start, start + step)
            theirs = other.slope_GJRE[:, part]
            met = slopes @ theirs.flatten(1, 2).transpose(-1, -2)
            met *= inputs @ other.input_GJRD[:, part].flatten(1, 2).transpose(-1, -2)
            met = met.reshape(groups, self.count, heads, theirs.shape[1], heads)
            found.append(met.sum((0, 2, 4)))
        return torch.cat(found, 1) if found else slopes.new_zeros(self.count, 0)


def _grams(tensor_GJRX: Tensor) -> Tensor:
    """[G, J, R, R] inner products of the heads of a group."""
    if tensor_GJRX.shape[2] == 1:
        return torch.linalg.vector_norm(tensor_GJRX, dim=-1).square()[..., None]
    return tensor_GJRX @ tensor_GJRX.transpose(-1, -2)
