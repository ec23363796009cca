"""Token losses and their logit gradients, where memorised text makes them tiny."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from haiftrace.engine.losses import logit_gradients, loss_tangents, token_losses

VOCABULARY = 50


def sure_logits(loss: float, base: float = 0.0) -> tuple[Tensor, Tensor]:
    """Float32 logits [5, V] whose labels have about this loss, and the labels."""
    logits = torch.randn(5, VOCABULARY) * 3 + base
    targets = torch.tensor([3, 0, VOCABULARY - 1, 7, 7])
    others = logits.scatter(1, targets.unsqueeze(1), -torch.inf).double().logsumexp(1)
    label = others - torch.log(torch.expm1(torch.tensor(loss, dtype=torch.float64)))
    return logits.scatter(1, targets.unsqueeze(1), label.float().unsqueeze(1)), targets


def exact(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and logit gradients of the same logits by the definition, in float64.

    With differences to the label: l = log(1 + Σ_{k≠y} e^(z_k - z_y)), and p_k = e^(z_k - z_y - l).
    """
    logits = logits.double()
    index = targets.unsqueeze(-1)
    ratios = (logits - logits.gather(-1, index)).exp().scatter(-1, index, 0.0)
    losses = torch.log1p(ratios.sum(-1))
    others = ratios * torch.exp(-losses).unsqueeze(-1)
    return losses, others.scatter(-1, index, -others.sum(-1, keepdim=True))


def gradient_by_autograd(logits: Tensor, targets: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(token_losses(leaf, targets).sum(), leaf)
    return gradient


@pytest.mark.parametrize("base", [0.0, 100.0, -1e4, 1e4, 1e6])
@pytest.mark.parametrize("loss", [1e-12, 1e-7, 1e-5, 1e-3, 0.1, 3.0])
def test_float32_is_right_to_a_ten_thousandth(loss: float, base: float) -> None:
    logits, targets = sure_logits(loss, base)
    losses, gradients = exact(logits, targets)
    assert loss / 3 < float(losses.min()) <= float(losses.max()) < loss * 3
    torch.testing.assert_close(token_losses(logits, targets).double(), losses, rtol=1e-4, atol=0.0)
    computed = gradient_by_autograd(logits, targets)
    torch.testing.assert_close(computed.double(), gradients, rtol=1e-4, atol=1e-30)
    assert torch.equal(computed, logit_gradients(logits, targets))


def test_the_textbook_forms_would_fail() -> None:
    """Why the losses are formed as they are."""
    logits, targets = sure_logits(1e-7)
    losses, gradients = exact(logits, targets)
    textbook = F.cross_entropy(logits, targets, reduction="none").double()
    assert float(((textbook - losses) / losses).abs().max()) > 0.01
    label = (torch.softmax(logits, -1) - F.one_hot(targets, VOCABULARY)).double()
    label, right = (g.gather(1, targets.unsqueeze(1)) for g in (label, gradients))
    assert float(((label - right) / right).abs().max()) > 0.01


@given(
    values=st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=9),
    place=st.integers(0, 8),
)
def test_float64_agrees_with_cross_entropy(values: list[float], place: int) -> None:
    logits = torch.tensor([values], dtype=torch.float64)
    targets = torch.tensor([place % len(values)])
    computed = token_losses(logits, targets)
    right = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(computed, right, rtol=1e-12, atol=1e-11)
    gradients = gradient_by_autograd(logits, targets)
    by_hand = torch.softmax(logits, -1) - F.one_hot(targets, len(values))
    torch.testing.assert_close(gradients, by_hand, rtol=1e-10, atol=1e-12)
    assert torch.isfinite(computed).all()
    assert torch.isfinite(gradients).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite(dtype: torch.dtype) -> None:
    largest = 1e30
    logits = torch.tensor(
        [
            [largest, -largest, 0.0],  # certain, and right
            [-largest, largest, 0.0],  # certain, and wrong
            [0.0, 0.0, 0.0],
            [-largest, -largest, -largest],
            [200.0, 0.0, 0.0],
        ],
        dtype=dtype,
    )
    targets = torch.zeros(5, dtype=torch.long)
    losses = token_losses(logits, targets)
    gradients = gradient_by_autograd(logits, targets)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradients).all()
    assert losses[0] == 0
    assert not gradients[0].any()
    torch.testing.assert_close(losses[1], torch.tensor(2 * largest, dtype=dtype))
    assert gradients[1].tolist() == [-1.0, 1.0, 0.0]
    torch.testing.assert_close(losses[2:4], torch.full((2,), 3.0, dtype=dtype).log())
    tangents = loss_tangents(logits, torch.ones_like(logits), targets)
    assert not tangents.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 4, VOCABULARY).to(dtype)
    targets = torch.randint(VOCABULARY, (2, 4))
    losses = token_losses(logits, targets)
    assert losses.dtype is torch.float32
    torch.testing.assert_close(losses, token_losses(logits.float(), targets))
    tangents = torch.randn(2, 4, VOCABULARY).to(dtype)
    assert loss_tangents(logits, tangents, targets).dtype is torch.float64


@given(st.integers(0, 10_000))
def test_tangents_are_the_gradient_along_the_tangent(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(3, 4, 11, generator=generator, dtype=torch.float64)
    tangents = torch.randn(3, 4, 11, generator=generator, dtype=torch.float64)
    targets = torch.randint(11, (3, 4), generator=generator)
    right = (logit_gradients(logits, targets) * tangents).sum(-1)
    computed = loss_tangents(logits, tangents, targets)
    torch.testing.assert_close(computed, right, rtol=1e-10, atol=1e-12)


def test_tangents_of_tiny_losses_keep_their_digits() -> None:
    logits, targets = sure_logits(1e-7)
    tangents = torch.randn(5, VOCABULARY)
    _, gradients = exact(logits, targets)
    # All of the sum's terms are of one sign: what is lost is lost to rounding alone.
    index = targets.unsqueeze(1)
    tangents = tangents.abs().scatter(1, index, -1.0)
    right = (gradients * tangents.double()).sum(-1)
    computed = loss_tangents(logits, tangents, targets)
    torch.testing.assert_close(computed, right, rtol=1e-5, atol=0.0)


def test_losses_can_be_differentiated_for_many_cotangents_at_once() -> None:
    logits = torch.randn(2, 3, 11, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (2, 3))
    losses = token_losses(logits, targets)
    weights = torch.randn(4, 2, 3, dtype=torch.float64)
    together = torch.stack(
        [torch.autograd.grad(losses, logits, w, retain_graph=True)[0] for w in weights]
    )
    right = weights.unsqueeze(-1) * logit_gradients(logits.detach(), targets)
    torch.testing.assert_close(together, right)


def test_losses_can_be_differentiated_twice() -> None:
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([2, 0, 6])
    weights = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda z: token_losses(z, targets), (logits,))
    assert torch.autograd.gradgradcheck(
        lambda z, w: (token_losses(z, targets) * w).sum().exp(), (logits, weights)
    )


@pytest.mark.parametrize("loss", [1e-12, 1e-7, 1e-5, 1e-3, 0.1, 3.0])
def test_second_derivatives_in_float32_are_right_to_a_ten_thousandth(loss: float) -> None:
    logits, targets = sure_logits(loss, base=100.0)
    tangents = torch.randn(5, VOCABULARY) + 10
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(token_losses(leaf, targets).sum(), leaf, create_graph=True)
    (computed,) = torch.autograd.grad(gradient, leaf, tangents)
    # (diag(p) - p pᵀ) ż as Σ_l p_k p_l (ż_k - ż_l): no difference of nearly equal numbers.
    p, d = logits.double().softmax(-1), tangents.double()
    right = (p.unsqueeze(-1) * p.unsqueeze(-2) * (d.unsqueeze(-1) - d.unsqueeze(-2))).sum(-1)
    for ours, expected in zip(computed.double(), right, strict=True):
        assert float((ours - expected).norm()) < 1e-4 * float(expected.norm())
