"""Activations whose derivative is computed once: exact for every function that may be chosen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from haiftrace.engine.activations import cached_derivatives, elementwise_modules
from tests.engine.unchanged import unchanged

NAMES = sorted(ACT2FN)


def inputs() -> Tensor:
    # Kinks and saturated ends included.
    ends = torch.tensor([-60.0, -1.0, 0.0, 1.0, 6.0, 60.0], dtype=torch.float64)
    return torch.cat([ends, 3 * torch.randn(42, dtype=torch.float64)]).reshape(2, 4, 6)


@pytest.mark.parametrize("name", NAMES)
def test_values_and_derivatives_are_those_of_autograd(name: str) -> None:
    model = nn.Sequential(ACT2FN[name], nn.Identity()).double().eval()
    chosen = elementwise_modules(model)
    values = inputs().requires_grad_()
    weights = torch.randn(3, *values.shape, dtype=torch.float64)
    right = model(values)
    expected = [torch.autograd.grad(right, values, w, retain_graph=True)[0] for w in weights]
    with unchanged(model):
        with cached_derivatives(chosen):
            output = model(values)
        (gradients,) = torch.autograd.grad(output, values, weights, is_grads_batched=True)
    torch.testing.assert_close(output, right, rtol=0.0, atol=0.0)
    torch.testing.assert_close(gradients, torch.stack(expected), rtol=1e-12, atol=1e-14)


def test_the_usual_ones_are_chosen() -> None:
    for name in ("gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "relu", "tanh", "sigmoid"):
        assert len(elementwise_modules(nn.Sequential(ACT2FN[name]))) == 1, name


def test_what_mixes_elements_or_has_parameters_is_not() -> None:
    class Mixing(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values / values.norm()

    for module in (
        nn.Softmax(-1),
        nn.LogSoftmax(0),
        nn.GLU(),
        nn.PReLU(),
        Mixing(),
        nn.Linear(8, 8),
    ):
        assert elementwise_modules(nn.Sequential(module)) == [], module


def test_modules_are_restored_after_a_failure() -> None:
    model = nn.Sequential(nn.GELU(), nn.SiLU())
    with unchanged(model), pytest.raises(ZeroDivisionError), cached_derivatives(list(model)):
        raise ZeroDivisionError
