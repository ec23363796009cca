"""How well direct gradients stand in float32 and bfloat16, where a model has memorised its text."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from haiftrace.engine import make_batch
from haiftrace.engine.direct import DirectGradients, SecondMoments, Whitening
from haiftrace.engine.direct.factors import LayerFactors
from haiftrace.engine.direct.head import losses_and_logit_grads
from tests.engine.direct.test_oracle import layers_of
from tests.oracle import TrueFloat64
from tests.tiny_models import memorised, records

NAMES = ("gpt2", "qwen2-untied", "gpt-neox")


@cache
def model_of(name: str, sharpened: float) -> Any:
    """A model that has learnt its records by heart, its logits multiplied."""
    model = memorised(name)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(sharpened)
    return model


def measured(model: Any, name: str, whitening: Whitening) -> tuple[Tensor, list[LayerFactors]]:
    losses_J, layers = layers_of(DirectGradients(model, whitening), make_batch(records(name)))
    return losses_J, [
        LayerFactors(layer.output_grad_GJRE.double(), layer.input_GJRD.double(), layer.norm_J)
        for layer in layers
    ]


def compared(
    name: str, sharpened: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses; errors of losses, of norms, of cosines with each other; cosines with the right ones.

    The right ones are those of the same weights in float64.
    """
    model = copy.deepcopy(model_of(name, sharpened)).to(dtype)
    wide = copy.deepcopy(model).to(torch.float64)
    with TrueFloat64():
        moments = SecondMoments()
        moments.add(*DirectGradients(wide).value_inputs(make_batch(records(name))))
        whitening = moments.whitening()
        right_J, right = measured(wide, name, whitening)
    losses_J, ours = measured(model, name, whitening)
    norms, right_norms = (
        torch.stack([layer.norm_J for layer in layers]).norm(dim=0) for layers in (ours, right)
    )
    pairs = [(a.cosines(a) - b.cosines(b)).abs() for a, b in zip(ours, right, strict=True)]
    own = [a.cosines(b).diagonal() for a, b in zip(ours, right, strict=True)]
    return (
        right_J,
        (losses_J - right_J).abs() / right_J,
        (norms - right_norms).abs() / right_norms,
        torch.stack(pairs),
        torch.stack(own),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sharpened", [1.0, 4.0])
def test_float32_is_right_whatever_the_loss(name: str, sharpened: float) -> None:
    losses, of_losses, of_norms, of_cosines, own = compared(name, sharpened, torch.float32)
    assert (losses.min() < 1e-12) == (sharpened > 1)
    assert of_losses.max() < 1e-4 * sharpened
    assert of_norms.max() < 1e-3 * sharpened
    assert of_cosines.max() < 1e-3 * sharpened
    assert own.min() > 1 - 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_losses_beyond_float32_have_their_direction(name: str) -> None:
    losses, _, of_norms, of_cosines, own = compared(name, 12.0, torch.float32)
    assert losses.min() < 1e-38
    assert losses.min() > 0
    assert of_norms.max() < 0.05
    assert of_cosines.max() < 0.01
    assert own.min() > 0.999


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_off_by_some_percent(name: str) -> None:
    """Its rounding is that of the model's own forward and backward pass; see README."""
    _, _, of_norms, of_cosines, own = compared(name, 1.0, torch.bfloat16)
    assert of_norms.median() < 0.08
    assert of_norms.quantile(0.95) < 0.5
    assert of_cosines.flatten().median() < 0.02
    assert of_cosines.flatten().quantile(0.95) < 0.15
    assert own.median() > 0.98


def test_losses_and_slopes_are_those_of_autograd() -> None:
    logits = (5 * torch.randn(7, 11, dtype=torch.float64)).requires_grad_(True)
    targets = torch.randint(0, 11, (7,))
    each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (right,) = torch.autograd.grad(each.sum(), logits)
    before = logits.detach().clone()
    losses, others, slopes = losses_and_logit_grads(logits.detach(), targets)
    torch.testing.assert_close(losses, each.detach())
    torch.testing.assert_close(others, 1 - (-losses).exp())
    torch.testing.assert_close(others[:, None] * slopes, right)
    assert torch.equal(logits.detach(), before)
    assert torch.equal(slopes.sum(1).abs() < 1e-12, torch.ones(7, dtype=torch.bool))
