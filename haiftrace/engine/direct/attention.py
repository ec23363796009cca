"""Attention whose outputs are the model's own and whose gradient stays in each position's stream.

Label j is predicted at position t = j - 1. The direct gradient of its loss follows the residual
stream of that position alone: keys and values of other positions are constants, a position's own
key and value still count, by its attention to itself. Then streams do not mix in a backward pass,
and that of the sum of all losses leaves at every position the gradient of its own label.

Attention weights are formed a range of rows at a time, with the positions that these attend to, and
twice: for the outputs, and in the backward pass, where an `AttentionObserver` receives them too. No
layer's weights are saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from haiftrace.engine.losses import widened

ROW_BYTES = 32 << 20
"""Bytes of attention weights that are held at a time, at most."""

LEAST_ROWS = 64
"""Rows of a range, at least: with fewer, matrix products are too small."""

RANGES = 8
"""Ranges of rows in a long window: more would save little of the masked weights."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """The arguments of one layer's attention.

    Attributes:
        query_BHTC, key_BGTC: after rotary embedding and whatever else the model does to them.
        value_BGTE: values.
        mask: [B or 1, H or 1, T, T], True where a row attends to a position, or numbers that are
            added to the scores; None for a plain causal one.
        scaling: of the scores.
        softcap: bound c of c·tanh(score/c), or None.
        sinks_H: a score that each head's softmax has beside those of positions, or None.
    """

    query_BHTC: Tensor
    key_BGTC: Tensor
    value_BGTE: Tensor
    mask: Tensor | None
    scaling: float
    softcap: float | None = None
    sinks_H: Tensor | None = None

    @property
    def groups(self) -> int:
        """G."""
        return self.key_BGTC.shape[1]

    def detached(self) -> AttentionCall:
        """The same without the graph behind it."""
        tensors: dict[str, Any] = {
            name: value.detach() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)

    def grouped(self, tensor_BHSX: Tensor) -> Tensor:
        """[B, G, R·S, X]: the rows of the query heads that share a key-value head together."""
        batch, heads, rows, width = tensor_BHSX.shape
        return tensor_BHSX.reshape(batch, self.groups, heads // self.groups * rows, width)

    def row_ranges(self) -> Iterator[range]:
        """Ranges of rows whose weights are held together."""
        batch, heads, length, _ = self.query_BHTC.shape
        step = min(max(LEAST_ROWS, -(-length // RANGES)), ROW_BYTES // (4 * batch * heads * length))
        for start in range(0, length, max(1, step)):
            yield range(start, min(start + max(1, step), length))

    def weights(self, rows: range) -> tuple[Tensor, Tensor | None]:
        """[B, H, S, I] attention weights of these rows, and the derivative of the soft cap, or
        None where there is none; both in at least float32.
        """
        batch, heads = self.query_BHTC.shape[:2]
        query = self.grouped(self.query_BHTC[:, :, rows.start : rows.stop]) * self.scaling
        scores = widened(query @ self.key_BGTC[:, :, : rows.stop].transpose(-1, -2))
        scores = scores.view(batch, heads, len(rows), rows.stop)
        derivative = None
        if self.softcap is not None:
            capped = torch.tanh(scores / self.softcap)
            scores, derivative = capped * self.softcap, 1 - capped**2
        scores = self._masked(scores, rows)
        if self.sinks_H is None:
            return torch.softmax(scores, -1), derivative
        sink = self.sinks_H.to(scores.dtype).reshape(1, -1, 1, 1)
        scores = torch.cat([scores, sink.expand(*scores.shape[:3], 1)], -1)
        return torch.softmax(scores, -1)[..., :-1], derivative

    def _masked(self, scores_BHSI: Tensor, rows: range) -> Tensor:
        if self.mask is None:
            square = torch.ones(len(rows), len(rows), dtype=torch.bool, device=scores_BHSI.device)
            scores_BHSI[..., rows.start :].masked_fill_(square.triu_(1), float("-inf"))
            return scores_BHSI
        mask = self.mask[..., rows.start : rows.stop, : rows.stop]
        if mask.dtype is torch.bool:
            return scores_BHSI.masked_fill_(~mask, float("-inf"))
        return scores_BHSI + mask

    def outputs(self) -> Tensor:
        """[B, H, T, E] the outputs of the heads."""
        value = self.value_BGTE
        outputs = []
        for rows in self.row_ranges():
            weights, _ = self.weights(rows)
            row_outputs = self.grouped(weights.to(value.dtype)) @ value[:, :, : rows.stop]
            outputs.append(row_outputs.view(*weights.shape[:3], value.shape[-1]))
        return torch.cat(outputs, 2)


class AttentionObserver(Protocol):
    """Receives one layer's attention in the backward pass, range by range."""

    def is_needed(self, rows: range) -> bool:
        """Whether any of these rows has a gradient."""
        ...

    def observe(self, rows: range, weights_BHSI: Tensor, output_grads_BHSE: Tensor) -> None:
        """The attention weights of these rows, and the gradients of the heads' outputs there."""
        ...

    def finish(self) -> None:
        """There are no more rows."""
        ...


class _OwnStream(torch.autograd.Function):
    """[B, H, T, E] attention outputs; the backward pass is that of the own streams."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        anchor: Tensor,
        call: AttentionCall,
        observer: AttentionObserver,
    ) -> Tensor:
        output = call.outputs()
        ctx.save_for_backward(output)
        ctx.call, ctx.observer = call, observer
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        call: AttentionCall = ctx.call
        observer: AttentionObserver = ctx.observer
        (output,) = ctx.saved_tensors
        gradients = _Gradients(call, grads[0], output) if any(ctx.needs_input_grad[:3]) else None
        for rows in call.row_ranges():
            if observer.is_needed(rows):
                weights, derivative = call.weights(rows)
                observer.observe(rows, weights, grads[0][:, :, rows.start : rows.stop])
                if gradients is not None:
                    gradients.add(rows, weights, derivative)
        observer.finish()
        del ctx.call, ctx.observer
        zero = torch.zeros((), dtype=output.dtype, device=output.device)
        if gradients is None:
            return None, None, None, zero, None, None
        return gradients.query, gradients.key(), gradients.value(), zero, None, None


class _Gradients:
    """Gradients by query, key and value along the own streams, filled range by range."""

    def __init__(self, call: AttentionCall, output_grads_BHTE: Tensor, output_BHTE: Tensor) -> None:
        self._call = call
        self._output_grads = output_grads_BHTE
        # What softmax's backward pass subtracts: Σ_i p_i ∂l/∂p_i.
        self._mean_BHT = (widened(output_grads_BHTE) * widened(output_BHTE)).sum(-1)
        self.query = torch.zeros_like(call.query_BHTC)
        # Of each position's attention to itself: gradient of the score, and weight.
        self._own_score_grads, self._own_weights = (
            torch.zeros_like(self._mean_BHT) for _ in range(2)
        )

    def add(self, rows: range, weights_BHSI: Tensor, derivative_BHSI: Tensor | None) -> None:
        """The gradients of a range of rows.

        Args:
            derivative_BHSI: of the soft cap.
        """
        call, here = self._call, slice(rows.start, rows.stop)
        value, key = call.value_BGTE[:, :, : rows.stop], call.key_BGTC[:, :, : rows.stop]
        output_grads = call.grouped(self._output_grads[:, :, here])
        weight_grads = widened(output_grads @ value.transpose(-1, -2))
        score_grads = weight_grads.view(weights_BHSI.shape).sub_(self._mean_BHT[:, :, here, None])
        score_grads.mul_(weights_BHSI)
        if derivative_BHSI is not None:
            score_grads.mul_(derivative_BHSI)
        query_grads = call.grouped(score_grads.to(key.dtype)) @ key
        query = self.query[:, :, here]
        torch.mul(query_grads.view_as(query), call.scaling, out=query)
        own = slice(rows.start, None)
        self._own_score_grads[:, :, here] = score_grads[..., own].diagonal(dim1=-2, dim2=-1)
        self._own_weights[:, :, here] = weights_BHSI[..., own].diagonal(dim1=-2, dim2=-1)

    def key(self) -> Tensor:
        """[B, G, T, C]."""
        query = self._call.query_BHTC
        scaled = (self._own_score_grads * self._call.scaling).to(query.dtype)
        return self._over_group(scaled[..., None] * query)

    def value(self) -> Tensor:
        """[B, G, T, E]."""
        weights = self._own_weights.to(self._output_grads.dtype)
        return self._over_group(weights[..., None] * self._output_grads)

    def _over_group(self, tensor_BHTX: Tensor) -> Tensor:
        """[B, G, T, X]: the sum over the query heads of each key-value head."""
        batch, heads, length, width = tensor_BHTX.shape
        groups = self._call.groups
        return tensor_BHTX.reshape(batch, groups, heads // groups, length, width).sum(2)


def own_stream(call: AttentionCall, anchor: Tensor, observer: AttentionObserver) -> Tensor:
    """[B, H, T, E] the outputs of a layer's heads, observed in the backward pass.

    Args:
        anchor: a scalar with a gradient, so that the lowest layer has a backward pass too.
        observer: receives attention weights and output gradients.
    """
    output: Tensor = _OwnStream.apply(
        call.query_BHTC, call.key_BGTC, call.value_BGTE, anchor, call.detached(), observer
    )
    return output
