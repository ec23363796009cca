"""Replaces a model's attention, by transformers' attention interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from haiftrace.engine.direct.attention import AttentionCall

NAME = "haiftrace-own-stream"
"""Name of the attention in transformers' registry."""

_REDUNDANT = ("position_ids", "cache_position")
"""Tensor arguments of attention that hold nothing but what the mask does."""


class Recorder:
    """Computes a model's attention; this one gives the model's own outputs.

    Attributes:
        modules: those whose attention it computed.
    """

    def __init__(self) -> None:
        self.modules: list[nn.Module] = []

    def attend(self, call: AttentionCall) -> Tensor:
        """[B, H, T, E] the outputs of a layer's heads."""
        return call.outputs()


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
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: [B, T, H, E]."""
    unknown = [name for name, value in others.items() if isinstance(value, Tensor)]
    if set(unknown) - set(_REDUNDANT):
        raise ValueError(f"attention with {', '.join(unknown)} is unknown")
    if attention_mask is None:
        causal = others.get("is_causal")
        window = others.get("sliding_window")
        if not (getattr(module, "is_causal", True) if causal is None else causal):
            raise ValueError("its attention is not causal")
        if window is not None and window < query.shape[2]:
            raise ValueError("its sliding window has no mask")
    call = AttentionCall(
        query,
        key,
        value,
        attention_mask,
        query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        softcap,
        s_aux,
    )
    recorder = _recorders[-1]
    recorder.modules.append(module)
    output = recorder.attend(call)
    return output.transpose(1, 2).contiguous(), None


@contextmanager
def attention_by(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """While it lasts, `recorder` computes the model's attention; no parameter has a gradient."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    before = [
        (config, getattr(config, "_attn_implementation_internal", None))
        for config in configs.values()
    ]
    with_grad = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for config, _ in before:
        config._attn_implementation_internal = NAME
    for parameter in with_grad:
        parameter.requires_grad_(False)
    _recorders.append(recorder)
    try:
        yield
    finally:
        _recorders.pop()
        for parameter in with_grad:
            parameter.requires_grad_(True)
        for config, name in before:
            config._attn_implementation_internal = name
