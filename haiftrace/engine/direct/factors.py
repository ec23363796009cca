"""Direct value gradients of labels in one layer, as factors, and their cosine similarities.

In layer ℓ, head h, the stream of position t receives `o_h = Σ_i p_ti W_V x_i`. Through that arrow
alone the gradient of label j's loss by W_V is, for the key-value head g,

    G_jg = Σ_{h in g} e_jh ⊗ x̄_jh,    e_jh = ∂l_j/∂o_h,    x̄_jh = Σ_i p_ti x̃_i,

x̃ the whitened input of the value projection. No matrix of the parameter's size is ever formed:

    ⟨G_j, G_q⟩ = Σ_g Σ_{h,h' in g} (e_jh · e_qh') (x̄_jh · x̄_qh').
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COSINE_BYTES = 64 << 20
"""Bytes of the heads' inner products that are held at a time, approximately."""


@dataclass(frozen=True, eq=False)
class LayerFactors:
    """Unit direct gradients of J labels in one layer, and their norms.

    Attributes:
        output_grad_GJRE: e over the gradient's norm; 0 where that is 0.
        input_GJRD: x̄, the attention-weighted input.
        norm_J: of the gradient, float64.
    """

    output_grad_GJRE: Tensor
    input_GJRD: Tensor
    norm_J: Tensor

    @classmethod
    def of(cls, output_grad_GJRE: Tensor, input_GJRD: Tensor, scale_J: Tensor) -> LayerFactors:
        """From e and x̄ of gradients that are to be multiplied by `scale_J`."""
        output_grad_GJRE = output_grad_GJRE.to(input_GJRD.dtype)
        # Rescaled before they are squared, so that nothing under- or overflows.
        size_J = output_grad_GJRE.abs().amax((0, 2, 3))
        inverse_size_J = torch.where(size_J > 0, 1 / size_J, torch.zeros_like(size_J))
        output_grad_GJRE = output_grad_GJRE * inverse_size_J[:, None, None]
        dots_GJRR = _grams(output_grad_GJRE) * _grams(input_GJRD)
        norm_J = dots_GJRR.sum((0, 2, 3), dtype=torch.float64).clamp_min(0).sqrt()
        inverse_norm_J = torch.where(norm_J > 0, 1 / norm_J, torch.zeros_like(norm_J))
        output_grad_GJRE *= inverse_norm_J.to(output_grad_GJRE.dtype)[:, None, None]
        return cls(output_grad_GJRE, input_GJRD, norm_J * size_J.double() * scale_J)

    @property
    def count(self) -> int:
        """J."""
        return self.output_grad_GJRE.shape[1]

    @property
    def dot_work(self) -> int:
        """Multiplications of one inner product: of all pairs of heads in a group."""
        groups, _, heads, width = self.output_grad_GJRE.shape
        return groups * heads**2 * (width + self.input_GJRD.shape[-1])

    @property
    def nbytes(self) -> int:
        """Memory of the factors."""
        return self.output_grad_GJRE.nbytes + self.input_GJRD.nbytes

    def select(self, labels: Sequence[int] | slice | Tensor) -> LayerFactors:
        """The factors of a subset of the labels, by their indices."""
        return LayerFactors(
            self.output_grad_GJRE[:, labels], self.input_GJRD[:, labels], self.norm_J[labels]
        )

    @classmethod
    def joined(cls, label_sets: Sequence[LayerFactors]) -> LayerFactors:
        """The factors of several sets of labels as those of one."""
        return cls(
            torch.cat([factors.output_grad_GJRE for factors in label_sets], 1),
            torch.cat([factors.input_GJRD for factors in label_sets], 1),
            torch.cat([factors.norm_J for factors in label_sets]),
        )

    def cosines(self, other: LayerFactors) -> Tensor:
        """Cosine similarities [J, Q] of these gradients with others; 0 where either vanishes."""
        groups, _, heads, _ = self.output_grad_GJRE.shape
        grads, inputs = self.output_grad_GJRE.flatten(1, 2), self.input_GJRD.flatten(1, 2)
        column_bytes = max(1, grads.element_size() * grads.shape[0] * grads.shape[1] * heads)
        step = max(1, COSINE_BYTES // column_bytes)
        columns = []
        for start in range(0, other.count, step):
            chunk = slice(start, start + step)
            other_grads = other.output_grad_GJRE[:, chunk]
            dots = grads @ other_grads.flatten(1, 2).transpose(-1, -2)
            dots *= inputs @ other.input_GJRD[:, chunk].flatten(1, 2).transpose(-1, -2)
            dots = dots.reshape(groups, self.count, heads, other_grads.shape[1], heads)
            columns.append(dots.sum((0, 2, 4)))
        return torch.cat(columns, 1) if columns else grads.new_zeros(self.count, 0)


def _grams(tensor_GJRX: Tensor) -> Tensor:
    """[G, J, R, R] inner products of the heads of a group."""
    if tensor_GJRX.shape[2] == 1:
        return torch.linalg.vector_norm(tensor_GJRX, dim=-1).square()[..., None]
    return tensor_GJRX @ tensor_GJRX.transpose(-1, -2)
