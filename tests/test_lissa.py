"""The stochastic Neumann series against the exact damped inverse, and its ways to fail."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cache
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haiftrace.engine import CurvatureKind, GradientEngine, Support, inverse_product_auto, lissa
from haiftrace.engine.batch import make_batch
from haiftrace.engine.directional import Direction
from haiftrace.engine.lissa import (
    DEPTH,
    DOUBLINGS,
    EIGENVALUE_DRAWS,
    RELATIVE_DAMPING,
    RESIDUAL_DRAWS,
    Diverged,
    Product,
    inverse_product,
    largest_eigenvalue,
    random_direction,
)
from haiftrace.scopes import select_parameters
from tests.dense_curvature import few
from tests.oracle import TrueFloat64, flatten
from tests.tiny_models import records, trained

BATCH = 4
"""Records of a draw, of the twelve that a tiny model has learnt."""

FORWARD = Support(batched=False, forward_mode=True)


@cache
def per_record(name: str, curvature: CurvatureKind) -> Tensor:
    """[12, P, P] dense curvature of each learnt record's mean loss."""
    chosen = few(name)
    of = chosen.gauss_newton if curvature == "gauss-newton" else chosen.hessian
    return torch.stack(
        [
            of(row, torch.full((len(row) - 1,), 1 / (len(row) - 1), dtype=torch.float64))
            for row in records(name)
        ]
    )


@cache
def query(name: str) -> Tensor:
    """[P] the gradient of the last four tokens of the first record."""
    chosen, row = few(name), records(name)[0]
    batch = make_batch([row])
    weights_BT = batch.labels_BT.double() / 4
    weights_BT[:, :-4] = 0
    with TrueFloat64():
        engine = GradientEngine(chosen.model, chosen.names, support=FORWARD)
        return flatten(engine.gradient(batch, weights_BT), chosen.names)


def split(flat: Tensor) -> dict[str, Tensor]:
    """A vector in two parts of different shapes."""
    head, tail = flat.split([len(flat) // 3, len(flat) - len(flat) // 3])
    return {"head": head.unsqueeze(0), "tail": tail}


def join(parts: Direction) -> Tensor:
    return torch.cat([parts["head"].squeeze(0), parts["tail"]])


def of_matrices(matrices: Sequence[Tensor], seed: str = "") -> Product:
    """Draws of some matrices, in a random but given order."""

    def product(draw: int, x: Direction) -> Direction:
        chosen = random.Random(f"draw {draw} {seed}").randrange(len(matrices))
        return split(matrices[chosen] @ join(x))

    return product


def mini_batches(matrices: Tensor) -> list[Tensor]:
    """Means over `BATCH` of the records; their own mean is that of all records."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(matrices), generator=generator) for _ in range(10)]
    return [matrices[part].mean(0) for order in orders for part in order.split(BATCH)]


def counted(product: Product) -> tuple[Product, list[int]]:
    """The product, and the draws that it has been asked for."""
    draws: list[int] = []

    def counting(draw: int, x: Direction) -> Direction:
        draws.append(draw)
        return product(draw, x)

    return counting, draws


def exact(matrix: Tensor, damping: float, gradient: Tensor) -> Tensor:
    return torch.linalg.solve(matrix + damping * torch.eye(len(matrix)).double(), gradient)


def distance(ours: Tensor, right: Tensor) -> float:
    return float((ours - right).norm() / right.norm())


def left(matrix: Tensor, damping: float, gradient: Tensor, solution: Tensor) -> float:
    """The true residual."""
    return distance(matrix @ solution + damping * solution, gradient)


def eigenvalues(matrix: Tensor) -> tuple[float, float]:
    """The lowest and the highest."""
    found = torch.linalg.eigvalsh(matrix)
    return float(found[0]), float(found[-1])


def symmetric(values: Sequence[float], seed: int = 0) -> Tensor:
    """A matrix of these eigenvalues along random axes."""
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    axes, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return axes @ torch.tensor(values, dtype=torch.float64).diag() @ axes.T


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
    whole, batches = matrices.mean(0), mini_batches(matrices)
    damping = 0.1 * eigenvalues(whole)[1]
    scale = 1.1 * (max(eigenvalues(batch)[1] for batch in batches) + damping)
    right = exact(whole, damping, gradient)
    solutions = []
    for repeat in range(16):
        product = of_matrices(batches, f"repeat {repeat}")
        result = inverse_product(product, split(gradient), damping, scale, depth=300)
        assert result.truncation < 1e-4
        solutions.append(join(result.solution))
        # The estimate of the residual is as good as it says.
        residual = left(whole, damping, gradient, solutions[-1])
        assert abs(result.residual - residual) < 3 * result.resolution
    one, four, sixteen = (
        (means - right).square().sum(1).mean().sqrt() / right.norm()
        for means in (torch.stack(solutions).unflatten(0, (-1, n)).mean(1) for n in (1, 4, 16))
    )
    assert one < 0.05
    # Two and four times less is what independent noise without bias comes to.
    assert 0.3 < four / one < 0.7
    assert 0.1 < sixteen / one < 0.45


def engine_product(
    engine: GradientEngine, rows: list[list[int]], size: int, curvature: CurvatureKind
) -> Product:
    """Draws of `size` of the records by the engine itself."""

    def product(draw: int, x: Direction) -> Direction:
        chosen = random.Random(f"draw {draw}").sample(range(len(rows)), size)
        batch = make_batch([rows[index] for index in chosen])
        weights_BT = batch.labels_BT.double()
        weights_BT /= weights_BT.sum(1, keepdim=True) * size
        return engine.curvature_product(batch, weights_BT, x, curvature)

    return product


@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
def test_with_the_engines_products(curvature: CurvatureKind) -> None:
    chosen = few("llama")
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
    product, draws = counted(engine_product(engine, rows, BATCH, "gauss-newton"))
    result = inverse_product_auto(product, gradient)
    assert result.truncation < 0.03
    assert result.residual < 0.1
    assert result.resolution < 0.2
    assert DEPTH < len(draws) < 1.3 * DEPTH
    curved = engine_product(engine, rows, 12, "gauss-newton")(0, result.solution)
    names = list(gradient)
    found = flatten(curved, names) + result.damping * flatten(result.solution, names)
    assert distance(found, flatten(gradient, names)) < 0.1


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_negative_curvature_of_a_trained_model_is_reported(name: str) -> None:
    matrices, gradient = per_record(name, "hessian"), query(name)
    whole = matrices.mean(0)
    lowest, largest = eigenvalues(whole)
    assert lowest < -1e-3 * largest
    for batches in ([whole], mini_batches(matrices)):
        for share in (0.01, 0.1):
            product, draws = counted(of_matrices(batches))
            with pytest.raises(Diverged) as caught:
                inverse_product_auto(product, split(gradient), -share * lowest, depth=2000)
            assert caught.value.negative_curvature
            assert not caught.value.scale_too_small
            # No larger scale is tried: none would help.
            assert len(draws) < 2000 + 20 * EIGENVALUE_DRAWS + 2 * RESIDUAL_DRAWS
    # A damping beyond the lowest eigenvalue is what helps.
    damping = -3 * lowest
    result = inverse_product_auto(of_matrices([whole]), split(gradient), damping, depth=4000)
    assert distance(join(result.solution), exact(whole, damping, gradient)) < 1e-4


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
        product, draws = counted(of_matrices([matrix]))
        with pytest.raises(Diverged) as caught:
            inverse_product_auto(product, split(gradient), damping, share * largest)
        assert caught.value.scale_too_small
        assert not caught.value.negative_curvature
        assert caught.value.scale == share * largest
        assert len(draws) < DEPTH + 2 * RESIDUAL_DRAWS + 1
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
    draws = [matrix + noise * symmetric([sign] * len(values)) for sign in (1.0, -1.0)]
    diverges = any(abs(1 - (value + damping) / scale) > 1.02 for value in values)
    try:
        result = inverse_product(
            of_matrices(draws if noise else [matrix]), split(gradient), damping, scale, depth
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

    def product(draw: int, x: Direction) -> Direction:
        return {name: part * (bad if draw == when else 0.5) for name, part in x.items()}

    with pytest.raises(Diverged):
        inverse_product_auto(product, gradient, depth=30)


def test_a_gradient_that_is_not_finite_is_reported() -> None:
    gradient = split(torch.tensor([1.0, math.nan, 2.0, 3.0]))
    with pytest.raises(Diverged):
        inverse_product(of_matrices([symmetric([1, 1, 1, 1]).float()]), gradient, 0.1, 1.0)


def test_every_draw_is_used_once() -> None:
    matrix = symmetric([1.0, 0.5, 0.2])
    product, draws = counted(of_matrices([matrix]))
    inverse_product(product, split(torch.ones(3).double()), 0.1, 1.2, depth=7, repeats=3)
    series, checks = draws[:21], draws[21:]
    assert series == list(range(21))
    assert set(checks) == set(range(21, 21 + RESIDUAL_DRAWS))


def test_repeats_are_averaged() -> None:
    product = of_matrices([symmetric([1.0, 0.5, 0.2]), symmetric([0.8, 0.4, 0.1], 1)])
    gradient = split(torch.ones(3).double())
    whole = inverse_product(product, gradient, 0.1, 1.2, depth=7, repeats=3)
    parts = [
        inverse_product(lambda d, x, r=r: product(d + 7 * r, x), gradient, 0.1, 1.2, depth=7)
        for r in range(3)
    ]
    mean = torch.stack([join(part.solution) for part in parts]).mean(0)
    torch.testing.assert_close(join(whole.solution), mean)


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
    before = {name: part.clone() for name, part in gradient.items()}
    result = inverse_product_auto(lambda draw, x: x, gradient, damping=1.0)
    torch.testing.assert_close(join(result.solution), join(before) / 2)
    for name, part in before.items():
        assert torch.equal(gradient[name], part)


def test_half_precision_is_accumulated_in_single() -> None:
    gradient = {name: part.bfloat16() for name, part in split(torch.ones(4)).items()}
    result = inverse_product_auto(
        lambda draw, x: {name: (part * 0.5).bfloat16() for name, part in x.items()}, gradient
    )
    assert {part.dtype for part in result.solution.values()} == {torch.float32}
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
        found = largest_eigenvalue(
            lambda x, matrix=matrix: split(matrix @ join(x)),
            random_direction(split(query("llama")), 0),
            iterations=2000,
            tolerance=0.0,
        )
        assert 0.999 * right < found <= right * (1 + 1e-9)


def test_a_negative_eigenvalue_may_be_the_largest() -> None:
    matrix = symmetric([-3.0, 1.0, 0.5])
    start = random_direction(split(torch.ones(3).double()), 0)
    found = largest_eigenvalue(lambda x: split(matrix @ join(x)), start, tolerance=1e-9)
    assert found == pytest.approx(3.0, rel=1e-6)
    assert largest_eigenvalue(lambda x: split(0 * join(x)), start) == 0


def test_the_power_iteration_stops_where_it_gains_no_more() -> None:
    product, draws = counted(of_matrices([symmetric([5.0, 1e-3, 1e-4])]))
    start = random_direction(split(torch.ones(3).double()), 0)
    assert largest_eigenvalue(lambda x: product(0, x), start) == pytest.approx(5.0)
    assert len(draws) <= 4


def test_random_directions_are_seeded() -> None:
    like = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(4).double()}
    first, again, other = (random_direction(like, seed) for seed in (1, 1, 2))
    assert first["a"].dtype is torch.float32
    assert first["b"].dtype is torch.float64
    for name in like:
        assert first[name].shape == like[name].shape
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
