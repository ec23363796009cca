"""Where each layer's values come from: the one linear map whose output holds them.

It is found on the model itself, by its numbers, whatever it is called and whether it gives queries
and keys too (GPT-2's `c_attn`, a fused `qkv_proj`) or is fed by a latent (DeepSeek): every number
that the attention gets as a value stands somewhere in its output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from haiftrace.engine.direct.attention import AttentionCall
from haiftrace.engine.direct.interface import Recorder, attention_by


class NoValueProjection(ValueError):
    """A layer's values are not what one linear map gives."""


class _Search(Recorder):
    """Finds, at every attention, the module whose last output holds its values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[nn.Module] = []
        self.given: dict[nn.Module, Tensor] = {}

    def attend(self, call: AttentionCall) -> Tensor:
        for candidate, given in reversed(self.given.items()):
            if holds(given, call.value_BGTE):
                self.found.append(candidate)
                break
        else:
            raise NoValueProjection("no linear map gives the values of a layer")
        self.given.clear()
        return call.outputs()


def holds(given: Tensor, value_BGTE: Tensor) -> bool:
    """Whether the columns of values [B, G, T, E] are different ones of an output [B, .., T, X]."""
    batch, _, length, _ = value_BGTE.shape
    if given.shape[0] != batch or given[..., 0].numel() != batch * length:
        return False
    values = value_BGTE.transpose(1, 2).reshape(batch * length, -1)
    known = {column.tobytes() for column in _columns(given.reshape(batch * length, -1))}
    wanted = {column.tobytes() for column in _columns(values)}
    return len(wanted) == values.shape[1] and wanted <= known


def _columns(matrix: Tensor) -> Any:
    return matrix.detach().double().T.contiguous().cpu().numpy()


def value_projections(model: nn.Module, ids_BT: Tensor) -> list[nn.Module]:
    """The module that gives each attention layer's values, in the order of the layers.

    Raises:
        NoValueProjection: there is none for a layer, or one for several.
    """
    search = _Search()
    hooks = []
    for module in model.modules():
        if next(module.children(), None) is None and getattr(module, "weight", None) is not None:
            hooks.append(module.register_forward_hook(_keeping(search)))
    try:
        with torch.no_grad(), attention_by(model, search):
            model(input_ids=ids_BT, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if len(set(search.found)) != len(search.found):
        raise NoValueProjection("several layers have one value projection")
    return search.found


def _keeping(search: _Search) -> Any:
    def keep(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            search.given.pop(module, None)
            search.given[module] = output

    return keep


@contextmanager
def captured_inputs(modules: Sequence[nn.Module], inputs: list[Any]) -> Iterator[None]:
    """While it lasts, what the modules read is appended to a list [B, T, D], in their order."""

    def keep(_: nn.Module, given: tuple[Tensor, ...], __: Any) -> None:
        rows = given[0].detach()
        inputs.append(rows.reshape(rows.shape[0], -1, rows.shape[-1]))

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
