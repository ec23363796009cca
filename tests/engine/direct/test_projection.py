"""Token vectors: a linear map of the layers' unit gradients that keeps cosines in the mean."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from haiftrace.engine import make_batch
from haiftrace.engine.direct import DirectGradients
from haiftrace.engine.direct.factors import LayerFactors
from haiftrace.engine.direct.projection import TokenProjector
from tests.tiny_models import records, trained

GROUPS, HEADS, SLOPE, INPUT = 2, 3, 4, 90


def random_factors(count: int, inputs: int = INPUT) -> LayerFactors:
    output_grad_GJRE = torch.randn(GROUPS, count, HEADS, SLOPE, dtype=torch.float64)
    input_GJRD = torch.randn(GROUPS, count, HEADS, inputs, dtype=torch.float64)
    return LayerFactors.of(output_grad_GJRE, input_GJRD, torch.ones(count))


def formed(factors: LayerFactors) -> Tensor:
    """[J, P] the unit gradients themselves."""
    gradient_JGED = torch.einsum("gjre,gjrd->jged", factors.output_grad_GJRE, factors.input_GJRD)
    return gradient_JGED.flatten(1)


def matrix_of(projector: TokenProjector, layer: int, inputs: int) -> Tensor:
    """[P, K] the linear map that a projector is in one layer, entry by entry."""
    rows = []
    for group in range(GROUPS):
        for e in range(SLOPE):
            for d in range(inputs):
                slope = torch.zeros(GROUPS, 1, 1, SLOPE, dtype=torch.float64)
                given = torch.zeros(GROUPS, 1, 1, inputs, dtype=torch.float64)
                slope[group, 0, 0, e] = given[group, 0, 0, d] = 1
                entry = LayerFactors(slope, given, torch.ones(1))
                rows.append(projector.of_layer(layer, entry)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("inputs", [20, INPUT])
def test_a_vector_is_a_linear_map_of_the_gradient(inputs: int) -> None:
    factors = random_factors(5, inputs)
    projector = TokenProjector(12, 3, 2)
    for layer in range(2):
        right = formed(factors) @ matrix_of(projector, layer, inputs)
        torch.testing.assert_close(projector.of_layer(layer, factors), right)
    first, second = (matrix_of(projector, layer, inputs) for layer in range(2))
    assert not torch.allclose(first, second)
    again = TokenProjector(12, 3, 2)
    assert torch.equal(matrix_of(again, 0, inputs), first)
    assert not torch.equal(matrix_of(TokenProjector(12, 4, 2), 0, inputs), first)


@pytest.mark.parametrize("inputs", [20, INPUT])
def test_inner_products_are_unbiased_and_vary_with_the_dimension(inputs: int) -> None:
    left, right = random_factors(6, inputs), random_factors(6, inputs)
    # Pairs of all cosines: the gradients of `right` lean towards those of `left`.
    lean = torch.linspace(-0.9, 0.9, 6, dtype=torch.float64)[None, :, None, None]
    mixed = lean * left.input_GJRD + (1 - lean.abs()) * right.input_GJRD
    right = LayerFactors.of(left.output_grad_GJRE, mixed, torch.ones(6))
    cosine_J = (formed(left) * formed(right)).sum(1)
    torch.testing.assert_close(left.cosines(right).diagonal(), cosine_J)
    assert cosine_J.min() < -0.7
    assert cosine_J.max() > 0.7
    for dimension, seeds in ((32, 800), (128, 200)):
        products = torch.stack(
            [
                (p.of_layer(0, left) * p.of_layer(0, right)).sum(1)
                for p in (TokenProjector(dimension, seed, 1) for seed in range(seeds))
            ]
        )
        spread = products.std(0) / math.sqrt(seeds)
        assert ((products.mean(0) - cosine_J).abs() < 4.5 * spread).all()
        # Two random factors a number, and what a wide input loses on its way: a few over K.
        assert (products.var(0) * dimension < 8 + dimension / 30).all()


def test_of_several_layers_they_estimate_the_mean_cosine() -> None:
    model = trained("qwen2-untied", torch.float64)
    direct = DirectGradients(model)
    rows = records("qwen2-untied")
    batch, query_batch = make_batch(rows[:2]), make_batch(rows[2:3])
    _, cosines = direct.cosines(batch, direct.queries([query_batch]))
    mean_JQ = torch.stack(list(cosines)).mean(0)

    def vectors(seed: int) -> tuple[Tensor, Tensor]:
        ours, theirs = (direct.measures(b, 64, seed).vectors_BTK for b in (batch, query_batch))
        assert ours is not None
        assert theirs is not None
        return ours[batch.labels_BT], theirs[query_batch.labels_BT]

    products = torch.stack([left @ right.T for left, right in map(vectors, range(60))])
    error = products.mean(0) - mean_JQ
    spread = products.std(0) / math.sqrt(60)
    assert float((error / spread).square().mean()) < 1.5
    assert float(error.abs().max()) < 0.12
    norms = torch.stack([vectors(seed)[0].square().sum(1) for seed in range(60)]).mean(0)
    # Of a vector with itself: all cosines are one.
    assert float((norms - 1).abs().max()) < 0.2


def test_a_projection_has_a_dimension() -> None:
    with pytest.raises(ValueError, match="positive number"):
        TokenProjector(0, 1, 1)
