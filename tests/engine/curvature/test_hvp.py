"""Products with curvature matrices against the dense matrices and against finite differences."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from haiftrace.engine import Batch, CurvatureKind, GradientEngine, Support, make_batch
from haiftrace.engine.curvature.hvp import gauss_newton_product, hessian_product, softmax_curvature
from haiftrace.engine.traced_model import TracedModel
from haiftrace.parameters.scopes import select_parameters
from tests.engine.curvature.dense_curvature import SCOPES, dense_scope, sample
from tests.engine.test_losses import VOCABULARY, sure_logits
from tests.engine.unchanged import unchanged
from tests.oracle import TrueFloat64, flatten
from tests.tiny_models import NAMES, PAD, records, trained

CURVATURES: tuple[CurvatureKind, ...] = ("gauss-newton", "hessian")
NO_FORWARD_MODE = ("bloom",)
STEP = 1e-5
"""Of the finite differences: small enough to pass no kink of a rectifier."""
PADDING = ("qwen2-tied", "llama", "gemma3", "opt", "mixtral")


def support(forward_mode: bool) -> Support:
    return Support(batched=False, forward_mode=forward_mode)


@cache
def engine_of(name: str, forward_mode: bool) -> GradientEngine:
    chosen = dense_scope(name)
    return GradientEngine(chosen.model, chosen.names, support=support(forward_mode))


def forward_modes(name: str) -> tuple[bool, ...]:
    return (False,) if name in NO_FORWARD_MODE else (True, False)


def weights_of(batch: Batch) -> Tensor:
    """Weights of every place, labels or not, some negative."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch.ids_BT.shape, generator=generator, dtype=torch.float64)


@cache
def dense(name: str, curvature: CurvatureKind) -> Tensor:
    """The matrix [P, P] of `sample(name)` under `weights_of`."""
    rows = sample(name)
    weights_BT = weights_of(make_batch(rows))
    of = (
        dense_scope(name).gauss_newton if curvature == "gauss-newton" else dense_scope(name).hessian
    )
    per_record = [of(row, w[1 : len(row)]) for row, w in zip(rows, weights_BT, strict=True)]
    return torch.stack(per_record).sum(0)


def directions(size: int, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def distance(ours: Tensor, right: Tensor) -> float:
    return float((ours - right).norm() / right.norm())


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", SCOPES)
def test_products_are_those_of_the_dense_matrix(name: str, curvature: CurvatureKind) -> None:
    chosen, matrix = dense_scope(name), dense(name, curvature)
    batch = make_batch(sample(name))
    for forward_mode in forward_modes(name):
        engine = engine_of(name, forward_mode)
        for direction in directions(len(matrix)):
            with TrueFloat64():
                product = engine.curvature_product(
                    batch, weights_of(batch), chosen.named(direction), curvature
                )
            assert {n: p.shape for n, p in product.items()} == {
                n: chosen.model.get_parameter(n).shape for n in chosen.names
            }
            assert distance(flatten(product, chosen.names), matrix @ direction) < 1e-11


def test_the_dense_matrices_are_worth_the_comparison() -> None:
    """The two differ, and a trained model's Hessian has negative eigenvalues of some size."""
    for name in SCOPES:
        rows = sample(name)
        newton, hessian = (
            torch.stack([of(row, torch.ones(len(row) - 1)) for row in rows]).sum(0)
            for of in (dense_scope(name).gauss_newton, dense_scope(name).hessian)
        )
        assert distance(newton, hessian) > 0.05
        lowest, *_, highest = torch.linalg.eigvalsh(newton).tolist()
        assert highest > 0.1
        assert lowest > -1e-12 * highest
        lowest, *_, highest = torch.linalg.eigvalsh(hessian).tolist()
        assert lowest < -0.01 * highest


def central_difference(values: Callable[[float], Tensor], step: float) -> Tensor:
    """The derivative at zero, with an error of the fourth order."""
    near, far = (values(h) - values(-h) for h in (step, 2 * step))
    return (8 * near - far) / (12 * step)


def by_differences(
    traced: TracedModel, batch: Batch, direction: dict[str, Tensor]
) -> dict[CurvatureKind, Tensor]:
    """Both curvatures times a direction: of the loss's gradient, and of the logits for `J u`."""
    values = {name: value.detach().clone() for name, value in traced.parameters.items()}
    labels = batch.labels_BT[:, 1:]
    weights = weights_of(batch)[:, 1:]

    def logits_at(step: float) -> Tensor:
        with torch.no_grad():
            for name, parameter in traced.parameters.items():
                parameter.copy_(values[name] + step * direction[name])
        return traced.model(input_ids=batch.ids_BT[:, :-1], use_cache=False).logits

    def pull_back(scalar: Tensor) -> Tensor:
        parameters = list(traced.parameters.values())
        grads = torch.autograd.grad(scalar, parameters, allow_unused=True)
        pairs = zip(grads, parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])

    def gradient(step: float) -> Tensor:
        logits, targets = logits_at(step)[labels], batch.ids_BT[:, 1:][labels]
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return pull_back((losses * weights[labels]).sum())

    hessian = central_difference(gradient, STEP)
    tangents = central_difference(lambda step: logits_at(step).detach(), STEP)
    logits = logits_at(0.0)
    p = logits.detach().softmax(-1)
    curved = p * tangents - p * (p * tangents).sum(-1, keepdim=True)
    scaled = curved * (weights * labels).unsqueeze(-1)
    return {"gauss-newton": pull_back((logits * scaled).sum()), "hessian": hessian}


def traced_whole(name: str, *, pad: bool = False) -> TracedModel:
    model = trained(name, torch.float64, pad=pad)
    return TracedModel(model, {n: model.get_parameter(n) for n in select_parameters(model, "all")})


def direction_over(traced: TracedModel, seed: int = 5) -> dict[str, Tensor]:
    """A random direction in which every parameter counts."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value.std().clamp_min(0.1)
        * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in traced.parameters.items()
    }


def all_products(
    name: str, traced: TracedModel, batch: Batch, direction: dict[str, Tensor]
) -> list[tuple[CurvatureKind, Tensor]]:
    """Flat products by every path that the architecture has."""
    weights_BT = weights_of(batch)
    computed: list[tuple[CurvatureKind, dict[str, Tensor]]] = [
        ("hessian", hessian_product(traced, batch, weights_BT, direction))
    ]
    for forward_mode in forward_modes(name):
        product = gauss_newton_product(traced, batch, weights_BT, direction, forward_mode)
        computed.append(("gauss-newton", product))
    return [(kind, flatten(product, list(product))) for kind, product in computed]


@pytest.mark.parametrize("name", NAMES)
def test_all_parameters_of_every_architecture(name: str) -> None:
    traced, batch = traced_whole(name), make_batch(sample(name))
    direction = direction_over(traced)
    with TrueFloat64():
        products = all_products(name, traced, batch, direction)
        right = by_differences(traced, batch, direction)
    assert [(kind, e) for kind, p in products if not (e := distance(p, right[kind])) < 1e-8] == []


@pytest.mark.parametrize("name", PADDING)
def test_the_padding_row_is_a_constant_where_it_is_looked_up(name: str) -> None:
    traced = traced_whole(name, pad=True)
    embedding = traced.model.get_input_embeddings()
    assert embedding.padding_idx == PAD
    matrix = traced.name_of(embedding.weight)
    assert matrix is not None
    first, second = records(name)[:2]
    batch = make_batch([[*first[:3], PAD, *first[4:6], PAD], [PAD, *second[:3]]])
    direction, other = direction_over(traced), direction_over(traced, seed=6)
    still = {**direction, matrix: direction[matrix].clone()}
    still[matrix][PAD] = 0.0
    with TrueFloat64():
        products = all_products(name, traced, batch, direction)
        others = all_products(name, traced, batch, other)
        # Differences cannot hold the row still where it is looked up and move it in the head.
        held = all_products(name, traced, batch, still)
        right = by_differences(traced, batch, still)
    flat, flat_other = (flatten(d, list(d)) for d in (direction, other))
    for (kind, product), (_, by_other), (_, of_held) in zip(products, others, held, strict=True):
        assert distance(of_held, right[kind]) < 1e-8
        # Symmetry: the row's lookups are left out on both sides.
        torch.testing.assert_close(flat_other @ product, flat @ by_other, rtol=1e-10, atol=1e-10)
        if traced.model.get_output_embeddings().weight is not embedding.weight:
            assert distance(product, of_held) < 1e-12


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", ["gpt2", "qwen2-tied", "bloom", "mixtral"])
def test_company_padding_and_labels_change_nothing(name: str, curvature: CurvatureKind) -> None:
    chosen = dense_scope(name)
    rows = sample(name)
    marks = [[index % 3 != 1 for index in range(len(row))] for row in rows]
    batch = make_batch(rows, marks)
    weights_BT = weights_of(batch)
    direction = chosen.named(directions(len(chosen.start))[0])
    for forward_mode in forward_modes(name):
        engine = engine_of(name, forward_mode)
        with TrueFloat64():
            together = engine.curvature_product(batch, weights_BT, direction, curvature)
            total = torch.zeros_like(chosen.start)
            for index, row in enumerate(rows):
                # The record alone, all of its tokens labels, the others' weights zero.
                alone = make_batch([row])
                weights = weights_BT[index : index + 1, : len(row)] * torch.tensor(marks[index])
                entry = engine.curvature_product(alone, weights, direction, curvature)
                total += flatten(entry, chosen.names)
        assert distance(flatten(together, chosen.names), total) < 1e-12


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", ["gpt2", "bloom"])
def test_without_labels_or_direction_there_is_nothing(name: str, curvature: CurvatureKind) -> None:
    chosen = dense_scope(name)
    engine = engine_of(name, name not in NO_FORWARD_MODE)
    rows = sample(name)
    direction = chosen.named(directions(len(chosen.start))[0])
    nothing = {n: torch.zeros_like(entry) for n, entry in direction.items()}
    unmarked = make_batch(rows, [[False] * len(row) for row in rows])
    for batch, given in ((unmarked, direction), (make_batch(rows), nothing)):
        ones_BT = torch.ones(batch.ids_BT.shape)
        product = engine.curvature_product(batch, ones_BT, given, curvature)
        assert {n: p.shape for n, p in product.items()} == {n: d.shape for n, d in given.items()}
        assert not any(entry.any() for entry in product.values())


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "mixtral"])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_the_model_is_left_as_it_was(name: str, requires_grad: bool) -> None:
    model = trained(name).requires_grad_(requires_grad)
    engine = GradientEngine(model, select_parameters(model))
    batch = make_batch(sample(name))
    direction = {n: torch.ones_like(p) for n, p in engine.parameters.items()}
    with unchanged(model):
        for curvature in CURVATURES:
            product = engine.curvature_product(batch, batch.labels_BT, direction, curvature)
            assert not any(entry.requires_grad for entry in product.values())
            assert all(torch.isfinite(entry).all() for entry in product.values())


def test_the_model_is_left_as_it_was_after_a_refusal() -> None:
    model = trained("bloom").requires_grad_(False)
    engine = GradientEngine(model, select_parameters(model), support=support(True))
    batch = make_batch(sample("bloom"))
    direction = {n: torch.ones_like(p) for n, p in engine.parameters.items()}
    with unchanged(model), pytest.raises(RuntimeError):
        engine.curvature_product(batch, batch.labels_BT, direction, "gauss-newton")
    with unchanged(model), pytest.raises(KeyError):
        engine.curvature_product(batch, batch.labels_BT, {}, "hessian")


@pytest.mark.parametrize("forward_mode", [True, False])
@pytest.mark.parametrize("curvature", CURVATURES)
def test_nothing_of_the_graph_is_left(
    curvature: CurvatureKind, forward_mode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained("gpt2")
    names = select_parameters(model)
    engine = GradientEngine(model, names, support=support(forward_mode))
    batch = make_batch(sample("gpt2"))
    alive: list[weakref.ref[Any]] = []
    logits = TracedModel.logits

    def watched(self: TracedModel, ids_BT: Tensor, keep: int) -> Tensor:
        computed = logits(self, ids_BT, keep)
        alive.append(weakref.ref(computed))
        return computed

    monkeypatch.setattr(TracedModel, "logits", watched)
    direction = {n: torch.ones_like(p) for n, p in engine.parameters.items()}
    engine.curvature_product(batch, batch.labels_BT, direction, curvature)
    gc.collect()
    assert alive
    assert not any(ref() is not None for ref in alive)


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "mixtral"])
def test_single_and_half_precision(name: str, curvature: CurvatureKind) -> None:
    batch = make_batch(sample(name))
    computed = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        # The same weights in all: those that bfloat16 has.
        model = trained(name, torch.bfloat16).to(dtype)
        forward_mode = name not in NO_FORWARD_MODE
        engine = GradientEngine(model, SCOPES[name], support=support(forward_mode))
        direction = dense_scope(name).named(directions(len(dense_scope(name).start))[0])
        product = engine.curvature_product(batch, batch.labels_BT, direction, curvature)
        wide = torch.float64 if dtype is torch.float64 else torch.float32
        assert {entry.dtype for entry in product.values()} == {wide}
        computed[dtype] = flatten(product, SCOPES[name])
    assert distance(computed[torch.float32], computed[torch.float64]) < 1e-4
    assert distance(computed[torch.bfloat16], computed[torch.float64]) < 0.1


@pytest.mark.parametrize("loss", [1e-12, 1e-7, 1e-3, 1.0])
def test_the_softmax_keeps_its_digits_where_it_is_nearly_certain(loss: float) -> None:
    logits, _ = sure_logits(loss, base=100.0)
    tangents = torch.randn(5, VOCABULARY) + 10
    p = logits.double().softmax(-1)
    d = tangents.double()
    # Σ_l p_k p_l (ż_k - ż_l): no term of it is a difference of nearly equal numbers.
    right = (p.unsqueeze(-1) * p.unsqueeze(-2) * (d.unsqueeze(-1) - d.unsqueeze(-2))).sum(-1)
    computed = softmax_curvature(logits, tangents)
    assert computed.dtype is torch.float32
    assert distance(computed.double(), right) < 1e-4
    assert softmax_curvature(logits.bfloat16(), tangents.bfloat16()).dtype is torch.float32
    if loss < 1e-6:
        textbook = logits.softmax(-1) * (
            tangents - (logits.softmax(-1) * tangents).sum(-1, keepdim=True)
        )
        assert distance(textbook.double(), right) > 0.1
