"""The value projection of each layer: the one linear map whose output holds its values.

It is identified on the model itself, by its numbers, whatever its name and whether it gives queries
and keys too (GPT-2's `c_attn`, a fused `qkv_proj`) or takes a latent (DeepSeek): every column of
the values is a column of its output.
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
    """A layer's values are not the output of one linear map."""


class _ProjectionSearch(Recorder):
    """Identifies, at every attention, the module whose last output holds its values.

    Attributes:
        projections: those modules, in the order of the layers.
        outputs: of the modules that ran since the last attention, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.projections: list[nn.Module] = []
        self.outputs: dict[nn.Module, Tensor] = {}

    def attend(self, call: AttentionCall) -> Tensor:
        for module, output in reversed(self.outputs.items()):
            if _holds(output, call.value_BGTE):
                self.projections.append(module)
                break
        else:
            raise NoValueProjection("no linear map gives the values of a layer")
        self.outputs.clear()
        return call.outputs()


def _holds(output: Tensor, value_BGTE: Tensor) -> bool:
    """Whether the columns of values [B, G, T, E] are different ones of an output [B, .., T, X]."""
    batch, _, length, _ = value_BGTE.shape
    if output.shape[0] != batch or output[..., 0].numel() != batch * length:
        return False
    values = value_BGTE.transpose(1, 2).reshape(batch * length, -1)
    output_columns = {column.tobytes() for column in _columns(output.reshape(batch * length, -1))}
    value_columns = {column.tobytes() for column in _columns(values)}
    return len(value_columns) == values.shape[1] and value_columns <= output_columns


def _columns(matrix: Tensor) -> Any:
    return matrix.detach().double().T.contiguous().cpu().numpy()


def value_projections(model: nn.Module, ids_BT: Tensor) -> list[nn.Module]:
    """The value projection of each attention layer, in the order of the layers.

    Raises:
        NoValueProjection: there is none for a layer, or one for several.
    """
    search = _ProjectionSearch()
    hooks = []
    for module in model.modules():
        if next(module.children(), None) is None and getattr(module, "weight", None) is not None:
            hooks.append(module.register_forward_hook(_output_hook(search)))
    try:
        with torch.no_grad(), attention_by(model, search):
            model(input_ids=ids_BT, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if len(set(search.projections)) != len(search.projections):
        raise NoValueProjection("several layers have one value projection")
    return search.projections


def _output_hook(search: _ProjectionSearch) -> Any:
    def record(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            search.outputs.pop(module, None)
            search.outputs[module] = output

    return record


@contextmanager
def captured_inputs(modules: Sequence[nn.Module], inputs: list[Any]) -> Iterator[None]:
    """While it lasts, the modules' inputs [B, T, D] are appended to a list, in their order."""

    def record(_: nn.Module, args: tuple[Tensor, ...], __: Any) -> None:
        rows = args[0].detach()
        inputs.append(rows.reshape(rows.shape[0], -1, rows.shape[-1]))

    hooks = [module.register_forward_hook(record) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
