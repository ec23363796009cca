"""The projection: the same signs everywhere, linear, and unbiased in its inner products."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from haiftrace.engine import DIMENSION_STEP, Projector
from haiftrace.engine.projection import kronecker_split
from haiftrace.engine.reductions import (
    DenseReduction,
    EmbeddingReduction,
    HeadReduction,
    MatrixReduction,
    VectorReduction,
)

DOUBLE = torch.float64
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE)


def test_signs_are_pinned() -> None:
    """An index stores projections: a change of generator or of key would make them worthless."""
    projector = Projector(64, 7, dtype=DOUBLE)
    left = (projector.left("transformer.h.0.attn.c_attn.weight", 6) * 8**0.5).round().int()
    assert left.tolist() == [
        [-1, 1, -1, -1, 1, 1, 1, 1],
        [-1, -1, -1, -1, 1, 1, -1, -1],
        [-1, 1, 1, -1, -1, -1, -1, -1],
        [1, -1, 1, -1, -1, 1, -1, 1],
        [-1, 1, 1, 1, 1, -1, 1, -1],
        [-1, 1, 1, 1, 1, -1, -1, -1],
    ]
    digest = hashlib.sha256()
    for factor in (projector.right("w", 33), projector.dense("b", 5)):
        digest.update((factor > 0).numpy().tobytes())
    assert digest.hexdigest() == "dd19aaaaf7bea841a0733b7dd1c4c337215ce796fb6df09f4f64f759cb4c255e"


def test_signs_are_signs_of_the_right_size() -> None:
    projector = Projector(96, 0, dtype=DOUBLE)
    a, b = projector.widths
    assert a * b == 96
    for factor, width in (
        (projector.left("w", 10), a),
        (projector.right("w", 11), b),
        (projector.dense("w", 12), 96),
    ):
        assert factor.shape[1] == width
        torch.testing.assert_close(factor.abs(), torch.full_like(factor, width**-0.5), **CLOSE)
        assert abs(float(factor.sign().mean())) < 0.5


def test_signs_depend_on_seed_name_side_and_dimension_only() -> None:
    def signs(dimension: int, seed: int, name: str, dtype: torch.dtype = DOUBLE) -> Tensor:
        return Projector(dimension, seed, dtype=dtype).left(name, 40).sign().double()

    first = signs(64, 1, "a.weight")
    assert torch.equal(first, signs(64, 1, "a.weight"))
    assert torch.equal(first, signs(64, 1, "a.weight", torch.float32))
    assert not torch.equal(first, signs(64, 1, "b.weight"))
    assert not torch.equal(first, signs(64, 2, "a.weight"))
    projector = Projector(64, 1, dtype=DOUBLE)
    # Whatever was projected before.
    projector.dense("b.weight", 7)
    projector.right("a.weight", 9)
    assert torch.equal(first, projector.left("a.weight", 40).sign())
    assert not torch.equal(projector.right("c", 40).sign(), projector.left("c", 40).sign())
    # A larger parameter begins with the same rows: the signs are drawn in order.
    assert torch.equal(first, Projector(64, 1, dtype=DOUBLE).left("a.weight", 60).sign()[:40])


@pytest.mark.parametrize("dimension", [-16, 0, 1, 8, 20, 100, 513])
def test_the_dimension_is_checked(dimension: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of {DIMENSION_STEP} dimensions, not"):
        Projector(dimension, 0)


@given(st.integers(1, 300))
def test_the_sides_are_as_near_to_each_other_as_they_come(steps: int) -> None:
    dimension = steps * DIMENSION_STEP
    a, b = kronecker_split(dimension)
    assert a * b == dimension
    assert 4 <= a <= b
    assert not any(dimension % side == 0 for side in range(a + 1, int(dimension**0.5) + 1))


SHAPES = {
    "matrix": {"w": (9, 7)},
    "vector": {"b": (23,)},
    "scalar": {"g": ()},
    "stacked matrices": {"experts": (3, 5, 4)},
    "mixed": {"w": (9, 7), "b": (23,), "v": (6, 8), "g": (), "experts": (3, 5, 4)},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_inner_products_are_unbiased(kind: str) -> None:
    shapes = SHAPES[kind]
    first_grad, second_grad = (
        {name: rand(*shape) for name, shape in shapes.items()} for _ in range(2)
    )
    # Vectors that are neither parallel nor orthogonal, nor of one length.
    second_grad = {name: value + 0.5 * first_grad[name] for name, value in second_grad.items()}

    def project(gradient: dict[str, Tensor], projector: Projector) -> Tensor:
        projected_grads = [
            projector.project(name, value, value.ndim) for name, value in gradient.items()
        ]
        return torch.stack(projected_grads).sum(0)

    exact = sum(float((first_grad[name] * second_grad[name]).sum()) for name in shapes)
    square = sum(float(value.square().sum()) for value in first_grad.values())
    products, squares = [], []
    for seed in range(600):
        projector = Projector(16, seed, dtype=DOUBLE)
        first, second = project(first_grad, projector), project(second_grad, projector)
        products.append(float(first @ second))
        squares.append(float(first @ first))
    for estimates, right in ((products, exact), (squares, square)):
        sample = torch.tensor(estimates, dtype=DOUBLE)
        error = float(sample.std()) / len(sample) ** 0.5
        assert abs(float(sample.mean()) - right) <= 3 * error + 1e-9
        # Not by being so wide that anything fits.
        assert 3 * error < 0.3 * square


def test_more_dimensions_are_nearer() -> None:
    first_grad, second_grad = rand(40, 30), rand(40, 30)
    spread = []
    for dimension in (16, 256, 2048):
        estimates = []
        for seed in range(40):
            projector = Projector(dimension, seed, dtype=DOUBLE)
            vectors = projector.project("w", torch.stack([first_grad, second_grad]), 2)
            estimates.append(float(vectors[0] @ vectors[1]))
        spread.append(
            float(
                (torch.tensor(estimates) - float((first_grad * second_grad).sum())).square().mean()
            )
        )
    assert spread[0] > 2 * spread[1]
    assert spread[1] > 1.3 * spread[2]


@pytest.mark.parametrize("kind", SHAPES)
def test_it_is_linear(kind: str) -> None:
    projector = Projector(32, 5, dtype=DOUBLE)
    for name, shape in SHAPES[kind].items():
        first_grad, second_grad = rand(*shape), rand(*shape)
        left = projector.project(name, 2 * first_grad - 3 * second_grad, len(shape))
        right = 2 * projector.project(name, first_grad, len(shape))
        right = right - 3 * projector.project(name, second_grad, len(shape))
        torch.testing.assert_close(left, right, **CLOSE)
        assert left.shape == (32,)
        assert left.any()


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_leading_dimensions_are_independent(lead: tuple[int, ...]) -> None:
    projector = Projector(32, 5, dtype=DOUBLE)
    for name, shape in SHAPES["mixed"].items():
        gradient = rand(*lead, *shape)
        together = projector.project(name, gradient, len(shape))
        assert together.shape == (*lead, 32)
        for where in np.ndindex(lead):
            alone = projector.project(name, gradient[where], len(shape))
            torch.testing.assert_close(together[where], alone, **CLOSE)


# A reduction, alone and under batched cotangents, is that of the materialised gradient.

LABELS, RECORDS, POSITIONS, ROWS, COLUMNS, VOCABULARY = 4, 3, 5, 6, 7, 11


def check_reduction(
    reduction: MatrixReduction | VectorReduction | EmbeddingReduction,
    delta: Tensor,
    gradient: Tensor,
) -> None:
    """Reductions of output gradients `delta` against the parameter's gradient, both [N, B, ...]."""
    ndim = gradient.ndim - 2
    projector = Projector(48, 2, dtype=DOUBLE)
    right = projector.project(reduction.name, gradient, ndim)
    assert right.shape == (LABELS, RECORDS, 48)
    queries = rand(2, *gradient.shape[2:])
    dots = torch.einsum("nbk,qk->nbq", gradient.flatten(2), queries.flatten(1))
    squares = gradient.flatten(2).square().sum(-1)
    close = {"rtol": 1e-10, "atol": 1e-10}
    for project, square, dot in (
        (reduction.projection, reduction.squared_norm, reduction.dots),
        (
            torch.func.vmap(reduction.projection, in_dims=(0, None)),
            torch.func.vmap(reduction.squared_norm),
            torch.func.vmap(reduction.dots, in_dims=(0, None)),
        ),
    ):
        torch.testing.assert_close(project(delta, projector), right, **close)
        torch.testing.assert_close(square(delta), squares, **close)
        torch.testing.assert_close(dot(delta, queries), dots, **close)


@pytest.mark.parametrize("positions", [POSITIONS, 20])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_matrix(transposed: bool, positions: int) -> None:
    inputs = rand(RECORDS, positions, COLUMNS)
    delta = rand(LABELS, RECORDS, positions, ROWS)
    gradient = torch.einsum("nbir,bic->nbrc", delta, inputs)
    if transposed:
        gradient = gradient.transpose(-1, -2)
    reduction = MatrixReduction("w", inputs, transposed)
    check_reduction(reduction, delta, gradient)


@pytest.mark.parametrize("rows", [1, 64, 130])
@pytest.mark.parametrize("transposed", [False, True])
def test_dots_of_a_formed_matrix_gradient(transposed: bool, rows: int) -> None:
    inputs, delta = rand(RECORDS, POSITIONS, COLUMNS), rand(LABELS, RECORDS, POSITIONS, rows)
    if transposed:
        inputs, delta = rand(RECORDS, POSITIONS, rows), rand(LABELS, RECORDS, POSITIONS, COLUMNS)
    reduction = MatrixReduction("w", inputs, transposed)
    queries = rand(2, rows, COLUMNS)
    formed = torch.func.vmap(reduction.formed_dots, in_dims=(0, None))(delta, queries)
    torch.testing.assert_close(formed, reduction.dots(delta, queries), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scales", [False, True])
def test_a_vector(scales: bool) -> None:
    factor = rand(RECORDS, POSITIONS, ROWS) if scales else None
    delta = rand(LABELS, RECORDS, POSITIONS, ROWS)
    gradient = (delta if factor is None else delta * factor).sum(-2)
    check_reduction(VectorReduction("b", factor), delta, gradient)


@pytest.mark.parametrize("padding", [None, 3])
def test_an_embedding(padding: int | None) -> None:
    ids = torch.tensor([[3, 1, 3, 4, 1], [0, 0, 0, 0, 0], [10, 3, 2, 1, 0]])
    delta = rand(LABELS, RECORDS, POSITIONS, COLUMNS)
    live = delta if padding is None else delta * (ids != padding).unsqueeze(-1)
    one_hot = torch.nn.functional.one_hot(ids, VOCABULARY).double()
    gradient = torch.einsum("biv,nbic->nbvc", one_hot, live)
    check_reduction(EmbeddingReduction("e", ids, VOCABULARY, padding), delta, gradient)


def test_a_head() -> None:
    hidden, logits_grad = rand(RECORDS, POSITIONS, COLUMNS), rand(RECORDS, POSITIONS, VOCABULARY)
    weights = rand(LABELS, RECORDS, POSITIONS)
    gradient = torch.einsum("nbj,bjv,bjc->nbvc", weights, logits_grad, hidden)
    reduction = HeadReduction("head", hidden, logits_grad)
    projector = Projector(48, 2, dtype=DOUBLE)
    queries = rand(2, VOCABULARY, COLUMNS)
    close = {"rtol": 1e-10, "atol": 1e-10}
    right = projector.project("head", gradient, 2)
    torch.testing.assert_close(reduction.projection(weights, projector), right, **close)
    torch.testing.assert_close(
        reduction.squared_norm(weights), gradient.square().sum((-1, -2)), **close
    )
    dots = torch.einsum("nbvc,qvc->nbq", gradient, queries)
    torch.testing.assert_close(reduction.dots(weights, queries), dots, **close)


@pytest.mark.parametrize("shape", [(), (3,), (4, 5), (2, 3, 4)])
def test_a_parameter_used_in_any_other_way(shape: tuple[int, ...]) -> None:
    gradient = rand(LABELS, *shape)
    reduction = DenseReduction("p", len(shape))
    projector = Projector(48, 2, dtype=DOUBLE)
    queries = rand(2, *shape)
    flat = gradient.reshape(LABELS, -1)
    close = {"rtol": 1e-10, "atol": 1e-10}
    projected = torch.func.vmap(lambda delta: reduction.projection(delta, projector))(gradient)
    right = projector.project("p", gradient, len(shape)).unsqueeze(1)
    torch.testing.assert_close(projected, right, **close)
    squares = torch.func.vmap(reduction.squared_norm)(gradient)
    torch.testing.assert_close(squares, flat.square().sum(1, keepdim=True), **close)
    dots = torch.func.vmap(reduction.dots, in_dims=(0, None))(gradient, queries)
    torch.testing.assert_close(dots, (flat @ queries.reshape(2, -1).T).unsqueeze(1), **close)
