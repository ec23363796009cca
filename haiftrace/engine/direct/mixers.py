"""Layers that mix positions by other means than attention: state spaces, convolutions and the like.

A hybrid model has them beside its attention layers. They have no attention weights, and their
outputs count as constants: the residual stream goes on past them. They are detected by their
gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def branches(model: nn.Module) -> list[nn.Module]:
    """The modules directly below each layer: mostly branches that add to the residual stream."""
    lists: list[nn.Module] = []
    pending: list[nn.Module] = [model]
    while pending:
        for child in pending.pop().children():
            (lists if isinstance(child, nn.ModuleList) else pending).append(child)
    return [
        branch for layers in lists for layer in layers.children() for branch in layer.children()
    ]


class MixerSearch:
    """Context of a forward pass whose attention keeps streams apart.

    Attributes:
        mixers: branches that mix them nevertheless.
    """

    def __init__(self, model: nn.Module) -> None:
        self.mixers: list[nn.Module] = []
        self._branches = branches(model)

    def __enter__(self) -> MixerSearch:
        self._hooks = [
            branch.register_forward_hook(self._try, with_kwargs=True) for branch in self._branches
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _try(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        inputs = [
            value
            for value in (*args, *kwargs.values())
            if isinstance(value, Tensor) and value.requires_grad
        ]
        has_gradient = isinstance(output, Tensor) and output.requires_grad
        if has_gradient and inputs and _mixes(output, inputs):
            self.mixers.append(module)


def _mixes(output_BTX: Tensor, inputs: Sequence[Tensor]) -> bool:
    """Whether an output at one position has a gradient by an input at another."""
    directions = torch.randn_like(output_BTX)
    for position in range(output_BTX.shape[1]):
        here = (output_BTX[:, position] * directions[:, position]).sum()
        for grad in torch.autograd.grad(here, inputs, retain_graph=True, allow_unused=True):
            if grad is not None and grad.ndim > 2 and grad.shape[1] == output_BTX.shape[1]:
                others = grad.clone()
                others[:, position] = 0
                if others.any():
                    return True
    return False


@contextmanager
def held_constant(modules: Sequence[nn.Module]) -> Iterator[None]:
    """While it lasts, the outputs of these modules have no gradient by their inputs."""
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs: (_detached(args), _detached(kwargs)), with_kwargs=True
        )
        for module in modules
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if type(value) in (tuple, list):
        return type(value)(_detached(item) for item in value)
    if type(value) is dict:
        return {name: _detached(item) for name, item in value.items()}
    return value
