"""The stochastic Neumann series that diverges: it is reported, and never returned."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haiftrace.engine import inverse_product_auto
from haiftrace.engine.curvature import lissa
from haiftrace.engine.curvature.lissa import (
    DEPTH,
    DOUBLINGS,
    EIGENVALUE_SAMPLES,
    RESIDUAL_SAMPLES,
    Diverged,
    inverse_product,
)
from haiftrace.engine.jvp import Direction
from tests.engine.curvature.lissa_kit import (
    counted,
    distance,
    eigenvalues,
    exact,
    join,
    left,
    mini_batches,
    of_matrices,
    per_record,
    query,
    split,
    symmetric,
)


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_negative_curvature_of_a_trained_model_is_reported(name: str) -> None:
    matrices, gradient = per_record(name, "hessian"), query(name)
    mean_matrix = matrices.mean(0)
    lowest, largest = eigenvalues(mean_matrix)
    assert lowest < -1e-3 * largest
    for batches in ([mean_matrix], mini_batches(matrices)):
        for share in (0.01, 0.1):
            product, samples = counted(of_matrices(batches))
            with pytest.raises(Diverged) as caught:
                inverse_product_auto(product, split(gradient), -share * lowest, depth=2000)
            assert caught.value.negative_curvature
            assert not caught.value.scale_too_small
            # No larger scale is tried: none would help.
            assert len(samples) < 2000 + 20 * EIGENVALUE_SAMPLES + 2 * RESIDUAL_SAMPLES
    # A damping beyond the lowest eigenvalue is what helps.
    damping = -3 * lowest
    result = inverse_product_auto(of_matrices([mean_matrix]), split(gradient), damping, depth=4000)
    assert distance(join(result.solution), exact(mean_matrix, damping, gradient)) < 1e-4


def test_negative_curvature_is_seen_while_the_residual_is_still_small() -> None:
    matrix, gradient = per_record("llama", "hessian").mean(0), query("llama")
    lowest, largest = eigenvalues(matrix)
    damping = -0.5 * lowest
    scale = 1.1 * (largest + damping)
    with pytest.raises(Diverged) as caught:
        inverse_product(of_matrices([matrix]), split(gradient), damping, scale)
    assert caught.value.step == DEPTH
    assert caught.value.growth < 0.1
    assert caught.value.negative_curvature


def test_a_scale_that_is_too_small_is_reported() -> None:
    matrix, gradient = per_record("gpt2", "gauss-newton").mean(0), query("gpt2")
    _, largest = eigenvalues(matrix)
    damping = 0.05 * largest
    for share in (0.1, 0.45, 0.5):
        product, samples = counted(of_matrices([matrix]))
        with pytest.raises(Diverged) as caught:
            inverse_product_auto(product, split(gradient), damping, share * largest)
        assert caught.value.scale_too_small
        assert not caught.value.negative_curvature
        assert caught.value.scale == share * largest
        assert len(samples) < DEPTH + 2 * RESIDUAL_SAMPLES + 1
    just_enough = (largest + damping) / 2 * 1.01
    result = inverse_product_auto(of_matrices([matrix]), split(gradient), damping, just_enough)
    assert distance(join(result.solution), exact(matrix, damping, gradient)) < 1e-3


@pytest.mark.parametrize(("safety", "doublings"), [(0.9, 0), (0.3, 1), (0.05, 4), (0.01, None)])
def test_a_scale_of_its_own_is_doubled_until_it_is_large_enough(
    safety: float, doublings: int | None
) -> None:
    matrix = symmetric([1.0, 0.1, 0.02, 0.01, 0.0])
    gradient = torch.ones(5).double()
    with patch.object(lissa, "SAFETY", safety):
        if doublings is None:
            with pytest.raises(Diverged) as caught:
                inverse_product_auto(of_matrices([matrix]), split(gradient), 0.1)
            assert caught.value.scale_too_small
            assert caught.value.scale == pytest.approx(safety * 1.1 * 2**DOUBLINGS, rel=0.05)
            return
        result = inverse_product_auto(of_matrices([matrix]), split(gradient), 0.1)
    assert result.scale == pytest.approx(safety * 1.1 * 2**doublings, rel=0.05)
    assert distance(join(result.solution), exact(matrix, 0.1, gradient)) < 1e-6


@settings(max_examples=100)
@given(
    values=st.lists(st.floats(-1, 4), min_size=3, max_size=6),
    damping=st.floats(0, 0.5),
    scale=st.floats(0.1, 4),
    depth=st.integers(1, 300),
    noise=st.sampled_from([0.0, 0.3]),
)
def test_what_is_returned_is_better_than_nothing(
    values: list[float], damping: float, scale: float, depth: int, noise: float
) -> None:
    """A series that diverges has no way to return: neither numbers nor infinities."""
    matrix = symmetric(values)
    gradient = torch.ones(len(values)).double()
    samples = [matrix + noise * symmetric([sign] * len(values)) for sign in (1.0, -1.0)]
    diverges = any(abs(1 - (value + damping) / scale) > 1.02 for value in values)
    try:
        result = inverse_product(
            of_matrices(samples if noise else [matrix]), split(gradient), damping, scale, depth
        )
    except Diverged:
        return
    solution = join(result.solution)
    assert torch.isfinite(solution).all()
    if not noise:
        assert left(matrix, damping, gradient, solution) < 1
        # Long enough to show, it has shown.
        assert not (diverges and depth > 250)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("when", [0, 7, 30, 45])
def test_values_that_are_not_finite_are_reported(bad: float, when: int) -> None:
    """In the power iteration, the series, the residual or the check of the curvature."""
    gradient = split(torch.ones(6).double())

    def product(number: int, x: Direction) -> Direction:
        return {name: entry * (bad if number == when else 0.5) for name, entry in x.items()}

    with pytest.raises(Diverged):
        inverse_product_auto(product, gradient, depth=30)


def test_a_gradient_that_is_not_finite_is_reported() -> None:
    gradient = split(torch.tensor([1.0, math.nan, 2.0, 3.0]))
    with pytest.raises(Diverged):
        inverse_product(of_matrices([symmetric([1, 1, 1, 1]).float()]), gradient, 0.1, 1.0)
