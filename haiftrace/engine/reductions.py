"""Reductions of a parameter's gradient at one call, by the kind of map that the call computes.

A reduction knows the inputs of the call, is given the gradient δ of its output and forms, without a
weight gradient wherever that is cheaper, the squared norm (float64) of the parameter's gradient G,
its inner products with query gradients (float64) and its projection.

Methods take any leading dimensions of δ, those of the weightings N in a batched backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from haiftrace.engine.products import matmul, merge_last, square_sum
from haiftrace.engine.projection import Projector

_BLOCK_ROWS = 64
_FORMED_BYTES = 1 << 26
"""Memory for gradients of the head that are formed at once."""


class Reduction(Protocol):
    """Of one parameter's gradient G at one call; `delta` is the gradient of the call's output.

    Attributes:
        name: of the parameter.
    """

    name: str

    def squared_norm(self, delta: Tensor) -> Tensor:
        """‖G‖², [..., B] in float64."""
        ...

    def dots(self, delta: Tensor, queries: Tensor) -> Tensor:
        """⟨G, query⟩, [..., B, Q] in float64, of queries [Q, *parameter]."""
        ...

    def projection(self, delta: Tensor, projector: Projector) -> Tensor:
        """The projected G, [..., B, K]."""
        ...


@dataclass
class MatrixReduction:
    """y = x Wᵀ (or x W where `transposed`): G = Σ_i δ_i x_iᵀ (or x_i δ_iᵀ)."""

    name: str
    inputs_BIX: Tensor
    transposed: bool = False

    @cached_property
    def _gram_BII(self) -> Tensor:
        return self.inputs_BIX @ self.inputs_BIX.transpose(-1, -2)

    def squared_norm(self, delta: Tensor) -> Tensor:
        positions, width = self.inputs_BIX.shape[-2:]
        if positions > width:
            return square_sum(matmul(delta.transpose(-1, -2), self.inputs_BIX), 2)
        gram = matmul(delta, delta.transpose(-1, -2)) * self._gram_BII
        # A float64 sum of float32 products: rounding alone can make a vanishing norm negative.
        return gram.sum((-2, -1), dtype=torch.float64).clamp_min(0.0)

    def dots(self, delta: Tensor, queries: Tensor) -> Tensor:
        matrices = queries if self.transposed else queries.transpose(-1, -2)
        query_outputs_BQIX = self.inputs_BIX.unsqueeze(1) @ matrices
        products = (delta.unsqueeze(-3) * query_outputs_BQIX).sum(-1)
        return products.sum(-1, dtype=torch.float64)

    def formed_dots(self, delta: Tensor, queries: Tensor) -> Tensor:
        """The same with G formed: cheaper for a few weightings of many tokens."""
        left, right = (self.inputs_BIX, delta) if self.transposed else (delta, self.inputs_BIX)
        return _formed_dots(matmul(left.transpose(-1, -2), right), queries)

    def projection(self, delta: Tensor, projector: Projector) -> Tensor:
        if self.transposed:
            return projector.outer(self.name, self.inputs_BIX, delta)
        return projector.outer(self.name, delta, self.inputs_BIX)


@dataclass
class VectorReduction:
    """y = x ⊙ w, or y = x + b where `factor` is None: G = Σ_i δ_i ⊙ x_i."""

    name: str
    factor_BIR: Tensor | None = None

    def _gradient(self, delta: Tensor) -> Tensor:
        return (delta if self.factor_BIR is None else delta * self.factor_BIR).sum(-2)

    def squared_norm(self, delta: Tensor) -> Tensor:
        return square_sum(self._gradient(delta), 1)

    def dots(self, delta: Tensor, queries: Tensor) -> Tensor:
        return (self._gradient(delta).unsqueeze(-2) * queries).sum(-1, dtype=torch.float64)

    def projection(self, delta: Tensor, projector: Projector) -> Tensor:
        return projector.project(self.name, self._gradient(delta), 1)


@dataclass
class DenseReduction:
    """Any other function, of one record at a time: δ is the parameter's own gradient."""

    name: str
    ndim: int

    def _as_record(self, delta: Tensor) -> Tensor:
        return delta.unsqueeze(-1 - self.ndim)

    def squared_norm(self, delta: Tensor) -> Tensor:
        return square_sum(self._as_record(delta), self.ndim)

    def dots(self, delta: Tensor, queries: Tensor) -> Tensor:
        delta = merge_last(self._as_record(delta), self.ndim).unsqueeze(-2)
        return (delta * queries.reshape(len(queries), -1)).sum(-1, dtype=torch.float64)

    def projection(self, delta: Tensor, projector: Projector) -> Tensor:
        return projector.project(self.name, self._as_record(delta), self.ndim)


@dataclass
class EmbeddingReduction:
    """A look-up: G = Σ_i e_{token_i} δ_iᵀ, with no gradient for a padding row, as in autograd.

    δ is taken at the look-up itself, so a model that scales its embeddings is no special case.

    Attributes:
        rows: of the matrix.
        padding_id: the padding row, or None.
    """

    name: str
    ids_BI: Tensor
    rows: int
    padding_id: int | None

    @cached_property
    def _live_BI1(self) -> Tensor:
        if self.padding_id is None:
            return torch.ones_like(self.ids_BI, dtype=torch.bool).unsqueeze(-1)
        return (self.ids_BI != self.padding_id).unsqueeze(-1)

    @cached_property
    def _same_BII(self) -> Tensor:
        return self.ids_BI.unsqueeze(-1) == self.ids_BI.unsqueeze(-2)

    def live(self, delta: Tensor) -> Tensor:
        """δ, zero where the token is that of padding."""
        return delta * self._live_BI1

    def squared_norm(self, delta: Tensor) -> Tensor:
        # Each position's δ, dotted with the sum of δ over all positions of the same token.
        delta = self.live(delta)
        rows = matmul(self._same_BII.to(delta.dtype), delta)
        return (rows * delta).sum(-1).sum(-1, dtype=torch.float64).clamp_min(0.0)

    def dots(self, delta: Tensor, queries: Tensor) -> Tensor:
        query_rows_BQIC = queries[:, self.ids_BI].transpose(0, 1)
        products = (self.live(delta).unsqueeze(-3) * query_rows_BQIC).sum(-1)
        return products.sum(-1, dtype=torch.float64)

    def projection(self, delta: Tensor, projector: Projector) -> Tensor:
        left_BIX = projector.left(self.name, self.rows)[self.ids_BI]
        right = self.live(delta) @ projector.right(self.name, delta.shape[-1])
        return merge_last(left_BIX.transpose(-1, -2) @ right, 2)


@dataclass
class HeadReduction:
    """The output head, logits = h Wᵀ: G = Σ_j w_j ∂l_j/∂logits_j h_jᵀ for weights w [N, B, J].

    Every label has a gradient in its own row of logits only, so the weights take the place of δ and
    no [labels, positions, vocabulary] tensor is formed.
    """

    name: str
    hidden_BJC: Tensor
    logits_grad_BJV: Tensor

    @cached_property
    def _kernel_BJJ(self) -> Tensor:
        hidden, grads = self.hidden_BJC.double(), self.logits_grad_BJV
        return (grads @ grads.transpose(-1, -2)).double() * (hidden @ hidden.transpose(-1, -2))

    def squared_norm(self, weights: Tensor) -> Tensor:
        return _quadratic(self._kernel_BJJ, weights)

    def dots(self, weights: Tensor, queries: Tensor) -> Tensor:
        weightings, labels, count = len(weights), self.hidden_BJC.shape[-2], len(queries)
        if weightings * (labels + count) < labels * count:
            return self._formed_dots(weights, queries)
        query_logits_BQJV = self.hidden_BJC.unsqueeze(1) @ queries.transpose(-1, -2)
        products_BQJV = self.logits_grad_BJV.unsqueeze(1) * query_logits_BQJV
        dots_BQJ = products_BQJV.sum(-1, dtype=torch.float64)
        return torch.einsum("nbj,bqj->nbq", weights.double(), dots_BQJ)

    def _formed_dots(self, weights: Tensor, queries: Tensor) -> Tensor:
        """The same with G formed: cheaper for a few weightings of many tokens."""
        hidden, grads = self.hidden_BJC, self.logits_grad_BJV
        pairs = [(n, b) for n in range(len(weights)) for b in range(len(hidden))]
        gradient_bytes = grads.shape[-1] * hidden.shape[-1] * hidden.element_size()
        step = max(1, _FORMED_BYTES // gradient_bytes)
        dots = []
        for start in range(0, len(pairs), step):
            ns, bs = map(list, zip(*pairs[start : start + step], strict=True))
            weighted = weights[ns, bs].to(grads.dtype).unsqueeze(-1) * grads[bs]
            gradients_XVC = weighted.transpose(-1, -2) @ hidden[bs]
            dots.append(_formed_dots(gradients_XVC, queries))
        return torch.cat(dots).reshape(len(weights), len(hidden), len(queries))

    def projection(self, weights: Tensor, projector: Projector) -> Tensor:
        left_BJX = self.logits_grad_BJV @ projector.left(self.name, self.logits_grad_BJV.shape[-1])
        right_BJX = self.hidden_BJC @ projector.right(self.name, self.hidden_BJC.shape[-1])
        weighted = weights.to(left_BJX.dtype).unsqueeze(-1) * left_BJX
        return merge_last(weighted.transpose(-1, -2) @ right_BJX, 2)

    def tied_cross(self, weights: Tensor, embedding: EmbeddingReduction, delta: Tensor) -> Tensor:
        """⟨G_head, G_embedding⟩ of a tied matrix, [N, B]: Σ_ij w_j d_j[token_i] h_j·δ_i."""
        ids = embedding.ids_BI.unsqueeze(1).expand(-1, self.logits_grad_BJV.shape[1], -1)
        at_tokens_BJI = self.logits_grad_BJV.gather(-1, ids)
        weighted = weights.to(at_tokens_BJI.dtype).unsqueeze(-1) * at_tokens_BJI
        rows_NBIC = weighted.transpose(-1, -2) @ self.hidden_BJC
        return (rows_NBIC * embedding.live(delta)).sum(-1).sum(-1, dtype=torch.float64)


@dataclass
class HeadBiasReduction:
    """The output head's bias: G = Σ_j w_j ∂l_j/∂logits_j for weights w [N, B, J]."""

    name: str
    logits_grad_BJV: Tensor

    @cached_property
    def _kernel_BJJ(self) -> Tensor:
        return (self.logits_grad_BJV @ self.logits_grad_BJV.transpose(-1, -2)).double()

    def squared_norm(self, weights: Tensor) -> Tensor:
        return _quadratic(self._kernel_BJJ, weights)

    def dots(self, weights: Tensor, queries: Tensor) -> Tensor:
        products_BQJV = self.logits_grad_BJV.unsqueeze(1) * queries[:, None, :]
        dots_BQJ = products_BQJV.sum(-1, dtype=torch.float64)
        return torch.einsum("nbj,bqj->nbq", weights.double(), dots_BQJ)

    def projection(self, weights: Tensor, projector: Projector) -> Tensor:
        gradient = weights.to(self.logits_grad_BJV.dtype).unsqueeze(-2) @ self.logits_grad_BJV
        return projector.project(self.name, gradient.squeeze(-2), 1)


def _formed_dots(gradient_BRC: Tensor, queries: Tensor) -> Tensor:
    """⟨G, query⟩ [..., Q] of materialised gradients [..., R, C].

    By blocks of rows: products large enough to be fast, sums short enough for float32.
    """
    block_dots = []
    for start in range(0, queries.shape[1], _BLOCK_ROWS):
        # `narrow`, as indexing with a slice of everything has no batching rule.
        rows = (start, min(_BLOCK_ROWS, queries.shape[1] - start))
        gradients = merge_last(gradient_BRC.narrow(-2, *rows), 2)
        block_dots.append(matmul(gradients, merge_last(queries.narrow(1, *rows), 2).T).double())
    return sum(block_dots[1:], start=block_dots[0])


def _quadratic(kernel_BJJ: Tensor, weights_NBJ: Tensor) -> Tensor:
    """wᵀ kernel w, [N, B] in float64."""
    weights = weights_NBJ.double()
    return torch.einsum("nbj,bjk,nbk->nb", weights, kernel_BJJ, weights).clamp_min(0.0)
