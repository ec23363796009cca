"""Attention whose values are the model's own and whose gradient stays in each position's stream.

Label j is predicted at position t = j - 1. The direct gradient of its loss follows the residual
stream of that position alone: keys and values of other positions are constants, a position's own
key and value still count, by its attention to itself. Then streams do not mix in a backward pass,
and that of the sum of all losses leaves at every position the gradient of its own label.

Weights are formed a range of rows at a time, with the positions that these see, and twice: for the
outputs, and in the backward pass, where a `Watcher` sees them too. No layer's weights are kept.

Shape letters: B records, H query heads, G key-value heads (each serves R = H/G query heads), T
positions, S rows (a range of positions), I positions that they see, C width of a key, E width of a
value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from haiftrace.engine.losses import widened

ROW_BYTES = 32 << 20
"""Attention weights that are held at a time, at most."""

LEAST_ROWS = 64
"""Rows that are worth a range: with fewer, matrix products are too small."""

RANGES = 8
"""Ranges of rows in a long window: with more, little is left to save of what rows cannot see."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What one layer's attention was called with.

    Attributes:
        query_BHTC, key_BGTC: after rotary embedding and whatever else the model does to them.
        value_BGTE: values.
        mask: [B or 1, H or 1, T, T], True where a row sees a position, or numbers that are added
            to the scores; None for a plain causal one.
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
        """[B, H, S, I] attention weights of these rows, and the derivative of a score by what the
        soft cap is of, where there is one; both in at least float32.
        """
        batch, heads = self.query_BHTC.shape[:2]
        query = self.grouped(self.query_BHTC[:, :, rows.start : rows.stop]) * self.scaling
        scores = widened(query @ self.key_BGTC[:, :, : rows.stop].transpose(-1, -2))
        scores = scores.view(batch, heads, len(rows), rows.stop)
        slope = None
        if self.softcap is not None:
            capped = torch.tanh(scores / self.softcap)
            scores, slope = capped * self.softcap, 1 - capped**2
        scores = self._masked(scores, rows)
        if self.sinks_H is None:
            return torch.softmax(scores, -1), slope
        sink = self.sinks_H.to(scores.dtype).reshape(1, -1, 1, 1)
        scores = torch.cat([scores, sink.expand(*scores.shape[:3], 1)], -1)
        return torch.softmax(scores, -1)[..., :-1], slope

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
        """[B, H, T, E] what each head gives."""
        value = self.value_BGTE
        found = []
        for rows in self.row_ranges():
            weights, _ = self.weights(rows)
            of_rows = self.grouped(weights.to(value.dtype)) @ value[:, :, : rows.stop]
            found.append(of_rows.view(*weights.shape[:3], value.shape[-1]))
        return torch.cat(found, 2)


class Watcher(Protocol):
    """Sees one layer's attention in the backward pass, range by range."""

    def wants(self, rows: range) -> bool:
        """Whether any of these rows has a gradient."""
        ...

    def see(self, rows: range, weights_BHSI: Tensor, slopes_BHSE: Tensor) -> None:
        """The weights of these rows, and the gradients of what the heads give there."""
        ...

    def done(self) -> None:
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
        watcher: Watcher,
    ) -> Tensor:
        output = call.outputs()
        ctx.save_for_backward(output)
        ctx.call, ctx.watcher = call, watcher
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        call: AttentionCall = ctx.call
        watcher: Watcher = ctx.watcher
        (output,) = ctx.saved_tensors
        found = _Gradients(call, grads[0], output) if any(ctx.needs_input_grad[:3]) else None
        for rows in call.row_ranges():
            if watcher.wants(rows):
                weights, slope = call.weights(rows)
                watcher.see(rows, weights, grads[0][:, :, rows.start : rows.stop])
                if found is not None:
                    found.add(rows, weights, slope)
        watcher.done()
        del ctx.call, ctx.watcher
        nothing = torch.zeros((), dtype=output.dtype, device=output.device)
        if found is None:
            return None, None, None, nothing, None, None
        return found.query, found.key(), found.value(), nothing, None, None


class _Gradients:
    """Gradients by query, key and value along the own streams, filled range by range."""

    def __init__(self, call: AttentionCall, slopes_BHTE: Tensor, output_BHTE: Tensor) -> None:
        self._call = call
        self._slopes = slopes_BHTE
        self._own_BHT = (widened(slopes_BHTE) * widened(output_BHTE)).sum(-1)
        self.query = torch.zeros_like(call.query_BHTC)
        self._by_score, self._by_weight = (torch.zeros_like(self._own_BHT) for _ in range(2))

    def add(self, rows: range, weights_BHSI: Tensor, slope_BHSI: Tensor | None) -> None:
        """Those of some rows."""
        call, here = self._call, slice(rows.start, rows.stop)
        value, key = call.value_BGTE[:, :, : rows.stop], call.key_BGTC[:, :, : rows.stop]
        met = widened(call.grouped(self._slopes[:, :, here]) @ value.transpose(-1, -2))
        of_scores = met.view(weights_BHSI.shape).sub_(self._own_BHT[:, :, here, None])
        of_scores.mul_(weights_BHSI)
        if slope_BHSI is not None:
            of_scores.mul_(slope_BHSI)
        back = call.grouped(of_scores.to(key.dtype)) @ key
        torch.mul(back.view_as(self.query[:, :, here]), call.scaling, out=self.query[:, :, here])
        own = slice(rows.start, None)
        self._by_score[:, :, here] = of_scores[..., own].diagonal(dim1=-2, dim2=-1)
        self._by_weight[:, :, here] = weights_BHSI[..., own].diagonal(dim1=-2, dim2=-1)

    def key(self) -> Tensor:
        """[B, G, T, C]."""
        query = self._call.query_BHTC
        by_score = (self._by_score * self._call.scaling).to(query.dtype)
        return self._over_group(by_score[..., None] * query)

    def value(self) -> Tensor:
        """[B, G, T, E]."""
        return self._over_group(self._by_weight.to(self._slopes.dtype)[..., None] * self._slopes)

    def _over_group(self, tensor_BHTX: Tensor) -> Tensor:
        batch, heads, length, width = tensor_BHTX.shape
        groups = self._call.groups
        return tensor_BHTX.reshape(batch, groups, heads // groups, length, width).sum(2)


def own_stream(call: AttentionCall, anchor: Tensor, watcher: Watcher) -> Tensor:
    """[B, H, T, E] the outputs of a layer's heads, watched in the backward pass.

    Args:
        anchor: a scalar with a gradient, so that the lowest layer has a backward pass too.
    """
    output: Tensor = _OwnStream.apply(
        call.query_BHTC, call.key_BGTC, call.value_BGTE, anchor, call.detached(), watcher
    )
    return output
