"""Attention whose values are the model's own and whose gradient stays in each position's stream.

Label j is predicted at position t = j - 1. The direct gradient of its loss follows the residual
stream of that position alone: keys and values of other positions are constants, a position's own
key and value still count, by its attention to itself. Then streams do not mix in a backward pass,
and that of the sum of all losses leaves at every position the gradient of its own label.

Shape letters: B records, H query heads, G key-value heads (each serves H/G query heads), T
positions, S rows (a range of positions), C width of a key, E width of a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

NAME = "haiftrace-own-stream"
"""What the attention is registered as with transformers."""

ROW_BYTES = 64 << 20
"""Attention weights that are held at a time, approximately."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What one layer's attention was called with.

    Attributes:
        query_BHTC, key_BGTC: after rotary embedding and whatever else the model does to them.
        value_BGTE: values.
        mask: added to the scores, [B or 1, H or 1, T, T]; None for a plain causal one.
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

    def detached(self) -> AttentionCall:
        """The same without the graph behind it."""
        tensors: dict[str, Any] = {
            name: value.detach() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)

    @property
    def groups(self) -> int:
        """G."""
        return self.key_BGTC.shape[1]

    def grouped(self, tensor_BHSX: Tensor) -> Tensor:
        """[B, G, H/G·S, X]: the rows of the query heads that share a key-value head together."""
        batch, heads, rows, width = tensor_BHSX.shape
        return tensor_BHSX.reshape(batch, self.groups, heads // self.groups * rows, width)

    def row_ranges(self, first: int = 0, wide: int = 0) -> Iterator[range]:
        """Ranges of rows from `first` on whose weights are held together.

        Args:
            wide: numbers a head and row that are held beside the weights.
        """
        batch, heads, length, _ = self.query_BHTC.shape
        each = 4 * batch * heads * max(length, wide)
        step = max(1, ROW_BYTES // each)
        for start in range(first, length, step):
            yield range(start, min(start + step, length))

    def scores(self, rows: range) -> tuple[Tensor, Tensor | None]:
        """[B, H, S, end] scores of these rows with the positions before the range's end, and the
        derivative of a score by what the soft cap is of, where there is one.
        """
        query = self.grouped(self.query_BHTC[:, :, rows.start : rows.stop])
        key = self.key_BGTC[:, :, : rows.stop]
        scores = (query @ key.transpose(-1, -2)) * self.scaling
        batch, heads = self.query_BHTC.shape[:2]
        scores = scores.reshape(batch, heads, len(rows), rows.stop)
        slope = None
        if self.softcap is not None:
            capped = torch.tanh(scores / self.softcap)
            scores, slope = capped * self.softcap, 1 - capped**2
        if self.mask is not None:
            return scores + self.mask[..., rows.start : rows.stop, : rows.stop], slope
        later = torch.ones(len(rows), rows.stop, dtype=torch.bool, device=scores.device)
        return scores.masked_fill(later.triu(rows.start + 1), float("-inf")), slope

    def weights(self, rows: range) -> tuple[Tensor, Tensor | None]:
        """[B, H, S, end] attention weights of these rows, and the slope of `scores`."""
        scores, slope = self.scores(rows)
        if scores.dtype in (torch.bfloat16, torch.float16):
            scores = scores.float()
        if self.sinks_H is not None:
            sink = self.sinks_H.to(scores.dtype).reshape(1, -1, 1, 1)
            scores = torch.cat([scores, sink.expand(*scores.shape[:3], 1)], -1)
        weights = torch.softmax(scores, -1)
        if self.sinks_H is not None:
            weights = weights[..., :-1]
        return weights.to(self.query_BHTC.dtype), slope

    def averaged(self, rows: range, values: Tensor) -> Tensor:
        """[B, H, S, X] what these rows attend to of values [B, T, X], which all heads share."""
        weights, _ = self.weights(rows)
        batch, heads, count, end = weights.shape
        means = weights.reshape(batch, heads * count, end).to(values.dtype) @ values[:, :end]
        return means.reshape(batch, heads, count, -1)


class _OwnStream(torch.autograd.Function):
    """[B, H, T, E] attention outputs; the backward pass is that of the own streams."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> Tensor:
        outputs = []
        for rows in call.row_ranges():
            weights, _ = call.weights(rows)
            of_rows = call.grouped(weights) @ value[:, :, : rows.stop]
            outputs.append(of_rows.reshape(*weights.shape[:3], value.shape[-1]))
        output = torch.cat(outputs, 2)
        ctx.save_for_backward(query, key, value, output)
        ctx.call = call
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, output = ctx.saved_tensors
        call: AttentionCall = ctx.call
        slopes = grads[0].to(query.dtype)
        own_BHT = (slopes * output).sum(-1)
        to_query = torch.empty_like(query)
        by_score, by_weight = torch.empty_like(own_BHT), torch.empty_like(own_BHT)
        for rows in call.row_ranges():
            here = slice(rows.start, rows.stop)
            weights, slope = call.weights(rows)
            met = call.grouped(slopes[:, :, here]) @ value[:, :, : rows.stop].transpose(-1, -2)
            of_scores = weights * (met.reshape(weights.shape) - own_BHT[:, :, here, None])
            if slope is not None:
                of_scores = of_scores * slope
            back = call.grouped(of_scores) @ key[:, :, : rows.stop]
            to_query[:, :, here] = back.reshape(*weights.shape[:3], -1) * call.scaling
            diagonal = torch.arange(len(rows), device=query.device)
            by_score[:, :, here] = of_scores[:, :, diagonal, diagonal + rows.start]
            by_weight[:, :, here] = weights[:, :, diagonal, diagonal + rows.start]
        to_key = _over_group(by_score[..., None] * query * call.scaling, call.groups)
        to_value = _over_group(by_weight[..., None] * slopes, call.groups)
        return to_query, to_key, to_value, None


def _over_group(tensor_BHTX: Tensor, groups: int) -> Tensor:
    """[B, G, T, X] sums over the query heads of each key-value head."""
    batch, heads, length, width = tensor_BHTX.shape
    return tensor_BHTX.reshape(batch, groups, heads // groups, length, width).sum(2)


class Recorder:
    """Takes the place of a model's attention and keeps each layer's call and output."""

    def __init__(self) -> None:
        self.calls: list[AttentionCall] = []
        self.outputs: list[Tensor] = []
        self.modules: list[nn.Module] = []

    def attend(self, module: nn.Module, call: AttentionCall) -> Tensor:
        """[B, H, T, E] the outputs of a layer's heads."""
        held = call.detached()
        output = _OwnStream.apply(call.query_BHTC, call.key_BGTC, call.value_BGTE, held)
        if not output.requires_grad:
            output.requires_grad_(True)  # the first layer's: nothing below it is asked for
        self.keep(module, held, output)
        return output

    def keep(self, module: nn.Module, call: AttentionCall, output: Tensor) -> None:
        """One layer more."""
        self.modules.append(module)
        self.calls.append(call)
        self.outputs.append(output)


_recorders: list[Recorder] = []


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: [B, T, H, E]."""
    call = AttentionCall(
        query,
        key,
        value,
        attention_mask,
        query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        softcap,
        s_aux,
    )
    output = _recorders[-1].attend(module, call)
    return output.transpose(1, 2).contiguous(), None


@contextmanager
def own_streams(model: nn.Module, recorder: Recorder) -> Iterator[Recorder]:
    """While it lasts, the model's attention goes to `recorder`, and no parameter has a gradient."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    before = [
        (config, getattr(config, "_attn_implementation_internal", None))
        for config in configs.values()
    ]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for config, _ in before:
        config._attn_implementation_internal = NAME
    for parameter in wanted:
        parameter.requires_grad_(False)
    _recorders.append(recorder)
    try:
        yield recorder
    finally:
        _recorders.pop()
        for parameter in wanted:
            parameter.requires_grad_(True)
        for config, name in before:
            config._attn_implementation_internal = name
