"""Activation modules whose derivative is computed once, not once for every cotangent.

An elementwise function's backward pass multiplies by f'(x). Autograd recomputes f' (a tanh or an
exponential) for each of the batched cotangents; here it is computed once a forward pass, by
autograd itself, so it is exact for any function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from haiftrace.engine.replaced_forward import replaced_forward

_ACTIVATION_MODULES = ("transformers.activations", "torch.nn.modules.activation")


class _Elementwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            output = function(leaf)
            (derivative,) = torch.autograd.grad(output, leaf, torch.ones_like(output))
        ctx.save_for_backward(derivative)
        return output.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (derivative,) = ctx.saved_tensors
        return grads[0] * derivative, None


def elementwise_modules(model: nn.Module) -> list[nn.Module]:
    """The activation modules of a model whose output is elementwise on a trial vector."""
    return [
        module
        for module in model.modules()
        if type(module).__module__ in _ACTIVATION_MODULES
        and next(module.parameters(), None) is None
        and _acts_elementwise(module)
    ]


def _acts_elementwise(module: nn.Module) -> bool:
    probe = torch.linspace(-3.0, 3.0, 8, dtype=torch.float64)
    try:
        with torch.no_grad():
            output, joint_output = module(probe), module(torch.cat([probe, probe * 5]))
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    same_shape = isinstance(output, Tensor) and output.shape == probe.shape
    return (
        same_shape
        and joint_output.shape == (16,)
        and bool(torch.allclose(output, joint_output[:8], atol=0))
    )


@contextmanager
def cached_derivatives(modules: list[nn.Module]) -> Iterator[None]:
    """Context of a forward pass whose modules keep their derivative for the backward pass."""
    with replaced_forward({module: _with_cached_derivative(module.forward) for module in modules}):
        yield


def _with_cached_derivative(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    return lambda x: _Elementwise.apply(x, function)
