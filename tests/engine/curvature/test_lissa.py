"""The stochastic Neumann series against the exact damped inverse, and its largest eigenvalue."""

from __future__ import annotations

import math
import random

import pytest
import torch

from haiftrace.engine import CurvatureKind, GradientEngine, inverse_product_auto
from haiftrace.engine.batch import make_batch
from haiftrace.engine.curvature.lissa import (
    DEPTH,
    RELATIVE_DAMPING,
    RESIDUAL_SAMPLES,
    Product,
    inverse_product,
    largest_eigenvalue,
    random_direction,
)
from haiftrace.engine.jvp import Direction
from haiftrace.parameters.scopes import select_parameters
from tests.engine.curvature.dense_curvature import dense_scope
from tests.engine.curvature.lissa_kit import (
    BATCH,
    FORWARD,
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
from tests.oracle import TrueFloat64, flatten
from tests.tiny_models import records, trained


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_error_falls_with_depth_to_the_exact_inverse(name: str) -> None:
    matrix, gradient = per_record(name, "gauss-newton").mean(0), query(name)
    _, largest = eigenvalues(matrix)
    damping = RELATIVE_DAMPING * largest
    scale = 1.1 * (largest + damping)
    right = exact(matrix, damping, gradient)
    errors = []
    for depth in (10, 100, 1000, 2500):
        product = of_matrices([matrix])
        result = inverse_product(product, split(gradient), damping, scale, depth)
        solution = join(result.solution)
        errors.append(distance(solution, right))
        # Draws without noise know the residual.
        residual = left(matrix, damping, gradient, solution)
        assert result.residual == pytest.approx(residual, rel=1e-3, abs=1e-9)
        assert result.resolution < 1e-6
        assert residual <= result.truncation * (1 + 1e-6)
        assert (result.damping, result.scale) == (damping, scale)
        assert (result.depth, result.repeats) == (depth, 1)
    assert errors[1] < 0.6 * errors[0] < 0.6
    assert errors[2] < 1e-3 * errors[1]
    assert errors[3] < 1e-6


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_mini_batches_err_by_a_noise_that_falls_with_repeats(name: str) -> None:
    matrices, gradient = per_record(name, "gauss-newton"), query(name)
    mean_matrix, batches = matrices.mean(0), mini_batches(matrices)
    damping = 0.1 * eigenvalues(mean_matrix)[1]
    scale = 1.1 * (max(eigenvalues(batch)[1] for batch in batches) + damping)
    right = exact(mean_matrix, damping, gradient)
    solutions = []
    for repeat in range(16):
        product = of_matrices(batches, f"repeat {repeat}")
        result = inverse_product(product, split(gradient), damping, scale, depth=300)
        assert result.truncation < 1e-4
        solutions.append(join(result.solution))
        # The estimate of the residual is as good as it says.
        residual = left(mean_matrix, damping, gradient, solutions[-1])
        assert abs(result.residual - residual) < 3 * result.resolution
    single, four, sixteen = (
        (means - right).square().sum(1).mean().sqrt() / right.norm()
        for means in (torch.stack(solutions).unflatten(0, (-1, n)).mean(1) for n in (1, 4, 16))
    )
    assert single < 0.05
    # Two and four times less is what independent noise without bias comes to.
    assert 0.3 < four / single < 0.7
    assert 0.1 < sixteen / single < 0.45


def engine_product(
    engine: GradientEngine, rows: list[list[int]], size: int, curvature: CurvatureKind
) -> Product:
    """Draws of `size` of the records by the engine itself."""

    def product(number: int, x: Direction) -> Direction:
        chosen = random.Random(f"draw {number}").sample(range(len(rows)), size)
        batch = make_batch([rows[index] for index in chosen])
        weights_BT = batch.labels_BT.double()
        weights_BT /= weights_BT.sum(1, keepdim=True) * size
        return engine.curvature_product(batch, weights_BT, x, curvature)

    return product


@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
def test_with_the_engines_products(curvature: CurvatureKind) -> None:
    chosen = dense_scope("llama")
    matrix, gradient = per_record("llama", curvature).mean(0), query("llama")
    damping = 0.3 * eigenvalues(matrix)[1]
    with TrueFloat64():
        engine = GradientEngine(chosen.model, chosen.names, support=FORWARD)
        product = engine_product(engine, records("llama"), 12, curvature)
        result = inverse_product_auto(product, chosen.named(gradient), damping, depth=80)
    solution = flatten(result.solution, chosen.names)
    assert distance(solution, exact(matrix, damping, gradient)) < 1e-6
    assert result.residual < 1e-6


def test_the_defaults_converge_on_a_trained_model_in_float32() -> None:
    model, rows = trained("gpt2"), records("gpt2")
    engine = GradientEngine(model, select_parameters(model))
    batch = make_batch(rows[:1])
    gradient = engine.gradient(batch, batch.labels_BT / 10)
    product, samples = counted(engine_product(engine, rows, BATCH, "gauss-newton"))
    result = inverse_product_auto(product, gradient)
    assert result.truncation < 0.03
    assert result.residual < 0.1
    assert result.resolution < 0.2
    assert DEPTH < len(samples) < 1.3 * DEPTH
    curved = engine_product(engine, rows, 12, "gauss-newton")(0, result.solution)
    names = list(gradient)
    computed = flatten(curved, names) + result.damping * flatten(result.solution, names)
    assert distance(computed, flatten(gradient, names)) < 0.1


def test_every_draw_is_used_once() -> None:
    matrix = symmetric([1.0, 0.5, 0.2])
    product, samples = counted(of_matrices([matrix]))
    inverse_product(product, split(torch.ones(3).double()), 0.1, 1.2, depth=7, repeats=3)
    series, checks = samples[:21], samples[21:]
    assert series == list(range(21))
    assert set(checks) == set(range(21, 21 + RESIDUAL_SAMPLES))


def test_repeats_are_averaged() -> None:
    product = of_matrices([symmetric([1.0, 0.5, 0.2]), symmetric([0.8, 0.4, 0.1], 1)])
    gradient = split(torch.ones(3).double())
    mean_matrix = inverse_product(product, gradient, 0.1, 1.2, depth=7, repeats=3)
    results = [
        inverse_product(lambda d, x, r=r: product(d + 7 * r, x), gradient, 0.1, 1.2, depth=7)
        for r in range(3)
    ]
    mean = torch.stack([join(entry.solution) for entry in results]).mean(0)
    torch.testing.assert_close(join(mean_matrix.solution), mean)


def test_one_step_is_the_first_two_terms_of_the_series() -> None:
    matrix, gradient = symmetric([1.0, 0.5, 0.2]), torch.tensor([1.0, 2.0, 3.0]).double()
    result = inverse_product(of_matrices([matrix]), split(gradient), 0.1, 1.2, depth=1)
    by_hand = (2 * gradient - (matrix @ gradient + 0.1 * gradient) / 1.2) / 1.2
    torch.testing.assert_close(join(result.solution), by_hand)


def test_the_solution_is_the_mean_of_the_last_iterates() -> None:
    matrix, gradient = symmetric([1.0, 0.5, 0.2]), torch.tensor([1.0, 2.0, 3.0]).double()
    x, iterates = gradient, []
    for _ in range(8):
        x = gradient + x - (matrix @ x + 0.1 * x) / 1.2
        iterates.append(x / 1.2)
    result = inverse_product(of_matrices([matrix]), split(gradient), 0.1, 1.2, depth=8)
    torch.testing.assert_close(join(result.solution), (iterates[-2] + iterates[-1]) / 2)


def test_a_product_may_hand_back_what_it_was_given() -> None:
    gradient = split(torch.tensor([1.0, 2.0, 3.0]))
    before = {name: entry.clone() for name, entry in gradient.items()}
    result = inverse_product_auto(lambda number, x: x, gradient, damping=1.0)
    torch.testing.assert_close(join(result.solution), join(before) / 2)
    for name, entry in before.items():
        assert torch.equal(gradient[name], entry)


def test_half_precision_is_accumulated_in_single() -> None:
    gradient = {name: entry.bfloat16() for name, entry in split(torch.ones(4)).items()}
    result = inverse_product_auto(
        lambda number, x: {name: (entry * 0.5).bfloat16() for name, entry in x.items()}, gradient
    )
    assert {entry.dtype for entry in result.solution.values()} == {torch.float32}
    torch.testing.assert_close(
        join(result.solution), torch.full((4,), 1 / 0.505), rtol=0.02, atol=0
    )


def test_no_gradient_has_no_solution_but_zero() -> None:
    result = inverse_product(of_matrices([symmetric([1, 2, 3])]), split(torch.zeros(3)), 0.1, 3.0)
    assert not join(result.solution).any()
    assert (result.residual, result.resolution) == (0.0, 0.0)


def test_no_curvature_leaves_the_damping_alone() -> None:
    nothing = of_matrices([torch.zeros(3, 3)])
    gradient = split(torch.ones(3))
    result = inverse_product_auto(nothing, gradient, damping=0.5)
    torch.testing.assert_close(join(result.solution), torch.full((3,), 2.0))
    for damping in (None, 0.0):
        with pytest.raises(ValueError, match="curvature is zero"):
            inverse_product_auto(nothing, gradient, damping)


@pytest.mark.parametrize(
    ("damping", "scale", "depth", "repeats"),
    [(-0.1, 1, 9, 1), (math.nan, 1, 9, 1), (0.1, 0, 9, 1), (0.1, 1, 0, 1), (0.1, 1, 9, 0)],
)
def test_settings_out_of_range(damping: float, scale: float, depth: int, repeats: int) -> None:
    with pytest.raises(ValueError, match="are needed"):
        inverse_product(
            of_matrices([torch.eye(3)]), split(torch.ones(3)), damping, scale, depth, repeats
        )


@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
def test_the_largest_eigenvalue_is_found_from_below(curvature: CurvatureKind) -> None:
    for matrix in per_record("llama", curvature):
        right = max(abs(value) for value in eigenvalues(matrix))
        computed = largest_eigenvalue(
            lambda x, matrix=matrix: split(matrix @ join(x)),
            random_direction(split(query("llama")), 0),
            iterations=2000,
            tolerance=0.0,
        )
        assert 0.999 * right < computed <= right * (1 + 1e-9)


def test_a_negative_eigenvalue_may_be_the_largest() -> None:
    matrix = symmetric([-3.0, 1.0, 0.5])
    start = random_direction(split(torch.ones(3).double()), 0)
    computed = largest_eigenvalue(lambda x: split(matrix @ join(x)), start, tolerance=1e-9)
    assert computed == pytest.approx(3.0, rel=1e-6)
    assert largest_eigenvalue(lambda x: split(0 * join(x)), start) == 0


def test_the_power_iteration_stops_where_it_gains_no_more() -> None:
    product, samples = counted(of_matrices([symmetric([5.0, 1e-3, 1e-4])]))
    start = random_direction(split(torch.ones(3).double()), 0)
    assert largest_eigenvalue(lambda x: product(0, x), start) == pytest.approx(5.0)
    assert len(samples) <= 4


def test_random_directions_are_seeded() -> None:
    like = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(4).double()}
    first, again, other = (random_direction(like, seed) for seed in (1, 1, 2))
    assert first["a"].dtype is torch.float32
    assert first["b"].dtype is torch.float64
    for name in like:
        assert first[name].shape == like[name].shape
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
