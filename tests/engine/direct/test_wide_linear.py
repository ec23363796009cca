"""The head's product with the vocabulary in slices is the layer's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from haiftrace.engine.direct.wide_linear import SLICE, sliced_forward


@pytest.mark.parametrize("outputs", [2 * SLICE, 3 * SLICE + 7])
@pytest.mark.parametrize("has_bias", [False, True])
def test_outputs_and_gradients_are_the_layers_own(outputs: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, outputs, bias=has_bias, dtype=torch.float64)
    hidden = torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 5, outputs, dtype=torch.float64)
    forward = sliced_forward(layer)
    assert forward is not None

    output, expected = forward(hidden), layer(hidden)
    torch.testing.assert_close(output, expected, rtol=1e-13, atol=1e-13)
    (gradient,) = torch.autograd.grad(output, hidden, direction)
    (expected_gradient,) = torch.autograd.grad(expected, hidden, direction)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


class _Scaled(nn.Linear):
    """A layer that does something of its own."""


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(8, 2 * SLICE - 1),
        nn.Linear(8, 3 * SLICE, dtype=torch.bfloat16),
        nn.Linear(8, 3 * SLICE, device="meta"),
        _Scaled(8, 3 * SLICE),
        nn.Embedding(3 * SLICE, 8),
        None,
    ],
    ids=["narrow", "half precision", "another device", "another class", "no linear map", "none"],
)
def test_other_layers_keep_their_own_forward_pass(layer: nn.Module | None) -> None:
    assert sliced_forward(layer) is None
