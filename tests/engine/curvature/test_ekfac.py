"""EK-FAC's factors and inverse against loops of single backward passes and dense matrices."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from haiftrace.engine import (
    AffineMap,
    Damping,
    EkfacFactors,
    FisherEstimator,
    GradientEngine,
    InverseCurvature,
    NoFactors,
    Singular,
    Support,
    make_batch,
)
from haiftrace.engine.curvature import ekfac_factors
from haiftrace.parameters.scopes import select_parameters
from tests.oracle import Oracle, TrueFloat64, flatten
from tests.tiny_models import records, trained

MODELS = ("gpt2", "qwen2-tied", "llama", "gemma3", "gpt-neox", "opt", "phi", "bloom")
BIASED = ("gpt2", "gpt-neox", "opt", "phi", "bloom")
SLOW = Support(batched=False, forward_mode=False, single_record=True)


@cache
def model_of(name: str):
    return trained(name, torch.float64)


def biased_scope(name: str) -> list[str]:
    """The matrices of the linear maps inside the blocks, with their biases."""
    model = model_of(name)
    owned = dict(model.named_parameters())
    matrices = select_parameters(model, "linear")
    return [n for m in matrices for n in (m, m.removesuffix("weight") + "bias") if n in owned]


@cache
def engine_of(name: str, biased: bool = False) -> GradientEngine:
    model = model_of(name)
    with TrueFloat64():
        return GradientEngine(
            model, biased_scope(name) if biased else select_parameters(model, "linear")
        )


def fitted(
    engine: GradientEngine, batches, kind="empirical", seed: int = 0
) -> dict[str, EkfacFactors]:
    """Factors over batches of numbered records."""
    with TrueFloat64():
        estimator = engine.fisher(kind, seed)
        for numbers, sequences in batches:
            keys = [str(number) for number in numbers]
            estimator.add_covariances(make_batch(sequences), keys)
        estimator.end_covariances()
        for numbers, sequences in batches:
            keys = [str(number) for number in numbers]
            estimator.add_eigenvalues(make_batch(sequences), keys)
        return estimator.factors()


def batches_of(name: str, *sizes: int):
    """The model's records in batches of these sizes."""
    numbered = list(enumerate(records(name)))
    batches, start = [], 0
    for size in sizes:
        chunk = numbered[start : start + size]
        batches.append(([n for n, _ in chunk], [r for _, r in chunk]))
        start += size
    assert start == len(numbered)
    return batches


@cache
def inverse_of(name: str, biased: bool = False) -> InverseCurvature:
    factors = fitted(engine_of(name, biased), batches_of(name, 5, 7))
    return InverseCurvature(factors, Damping())


@cache
def oracle_of(name: str, biased: bool = False) -> Oracle:
    with TrueFloat64():
        combined = Oracle.of(model_of(name), records(name)[:3])
    return combined.over(list(engine_of(name, biased).parameters))


def applied(inverse: InverseCurvature, oracle: Oracle, flat: Tensor) -> Tensor:
    """M g of rows [N, P], one after the other."""
    names = list(oracle.shapes)
    rows = []
    for row in flat:
        named = {n: chunk[0] for n, chunk in oracle.split(row.unsqueeze(0)).items()}
        rows.append(flatten(inverse.apply(named), names))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("name", "biased"), [*((n, False) for n in MODELS), *((n, True) for n in BIASED)]
)
def test_norms_under_the_inverse_are_those_of_the_loop(name, biased):
    engine, oracle, inverse = (
        engine_of(name, biased),
        oracle_of(name, biased),
        inverse_of(name, biased),
    )
    batch = make_batch(records(name)[:3])
    weights_NBT = torch.randn(2, *batch.ids_BT.shape, dtype=torch.float64)
    with TrueFloat64():
        norms_BT = engine.token_gradients(batch, metric=inverse).norms_BT
        records_NB = engine.record_gradients(batch, weights_NBT, metric=inverse).norm_NB
    for i, rows in enumerate(oracle.gradients):
        right = applied(inverse, oracle, rows).norm(dim=1)
        ours = norms_BT[i, 1 : batch.lengths[i]]
        assert float(((ours - right).abs() / right).max()) < 1e-9
        for n in range(2):
            combined = (weights_NBT[n, i, 1 : batch.lengths[i], None] * rows).sum(0, keepdim=True)
            norm = float(applied(inverse, oracle, combined).norm())
            assert abs(float(records_NB[n, i]) - norm) < 1e-9 * norm


def test_the_slow_path_takes_norms_under_the_inverse_too():
    name = "gpt2"
    engine = GradientEngine(model_of(name), list(engine_of(name, True).parameters), support=SLOW)
    batch = make_batch(records(name)[:2])
    weights = torch.ones(1, *batch.ids_BT.shape, dtype=torch.float64)
    fast, inverse = engine_of(name, True), inverse_of(name, True)
    with TrueFloat64():
        for ours, right in (
            (e.token_gradients(batch, metric=inverse).norms_BT for e in (engine, fast)),
            (e.record_gradients(batch, weights, metric=inverse).norm_NB for e in (engine, fast)),
        ):
            torch.testing.assert_close(ours, right, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("name", "biased"), [("gpt2", True), ("gpt2", False), ("qwen2-tied", False)]
)
def test_eigenvalues_are_the_second_moments_of_record_gradients_in_the_eigenbasis(name, biased):
    """The definition of the correction: λ = diag(Uᵀ F U), F the dense empirical Fisher."""
    engine = engine_of(name, biased)
    factors = fitted(engine, batches_of(name, 12))
    sums = []
    for sequence in records(name):
        batch = make_batch([sequence])
        with TrueFloat64():
            sums.append(engine.gradient(batch, batch.labels_BT.double()))
    for factor in factors.values():
        left, right = factor.left_RR, factor.right_CC
        eye = torch.eye(len(left), dtype=torch.float64)
        torch.testing.assert_close(left.T @ left, eye, rtol=0, atol=1e-9)
        squares = [(left.T @ factor.affine.gradient_matrix(g) @ right).square() for g in sums]
        expected = torch.stack(squares).mean(0)
        torch.testing.assert_close(
            factor.eigenvalues_RC, expected, rtol=1e-9, atol=1e-12 * float(expected.max())
        )


@pytest.mark.parametrize("kind", ["empirical", "true"])
@pytest.mark.parametrize("name", ["gpt2", "qwen2-tied", "mistral"])
def test_batches_and_padding_change_no_operator(name, kind):
    engine = engine_of(name)
    gradient = engine.gradient(make_batch(records(name)[:1]), torch.ones(1, len(records(name)[0])))
    operators = []
    for sizes in ((12,), (1,) * 12, (5, 7)):
        inverse = InverseCurvature(fitted(engine, batches_of(name, *sizes), kind), Damping())
        operators.append(flatten(inverse.apply(gradient), list(gradient)))
    for other in operators[1:]:
        assert float((other - operators[0]).norm()) < 1e-7 * float(operators[0].norm())


def test_drawn_labels_follow_the_seed_and_the_prediction():
    engine = engine_of("gpt2")
    batches = batches_of("gpt2", 12)
    name = next(iter(engine.parameters))
    once, again, other = (
        fitted(engine, batches, "true", seed)[name].eigenvalues_RC for seed in (1, 1, 2)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    logits = torch.randn(1, 1, 7, dtype=torch.float64).expand(1, 20_000, 7)
    sampled = ekfac_factors._sampled_labels(logits, ["a seed"])
    frequencies = torch.bincount(sampled.flatten(), minlength=7) / 20_000
    assert float((frequencies - torch.softmax(logits[0, 0], -1)).abs().max()) < 0.015


def test_ek_fac_is_exact_where_inputs_and_output_gradients_are_independent(monkeypatch):
    """Linear regression with Gaussian noise: gradients δ xᵀ with δ independent of x, so that the
    Fisher information is the Kronecker product itself, and its damped inverse known densely."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    inputs = torch.randn(6, 4, generator=generator, dtype=torch.float64) @ mixing
    noise = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    affine = AffineMap("w", None, False)
    # Every input with every noise: in this sample they are exactly independent.
    pairs = [(x, d) for x in inputs for d in noise]
    dense = torch.zeros(12, 12, dtype=torch.float64)
    for x, d in pairs:
        flat = torch.outer(d, x).flatten()
        dense += torch.outer(flat, flat) / len(pairs)

    def one_position_a_record(traced, batch, receive, seeds):
        receive(
            affine,
            torch.stack([x for x, _ in pairs]).unsqueeze(1),
            torch.stack([d for _, d in pairs]).unsqueeze(1),
        )

    monkeypatch.setattr(ekfac_factors, "_pass", one_position_a_record)
    monkeypatch.setattr(ekfac_factors, "affine_maps", lambda traced: [affine])

    model = SimpleNamespace(parameters={"w": torch.zeros(3, 4, dtype=torch.float64)})
    estimator = FisherEstimator(model, "empirical")  # type: ignore[arg-type]
    batch = make_batch([[1, 2]] * len(pairs))
    estimator.add_covariances(batch, ["0"] * len(pairs))
    estimator._positions = len(pairs)  # one position a record, where a record of text has two
    estimator.end_covariances()
    estimator.add_eigenvalues(batch, ["0"] * len(pairs))
    for damping in (Damping(0.1), Damping(1e-3, relative=False)):
        gradient = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        added = damping.of(estimator.factors()["w"].eigenvalues_RC)
        eye = torch.eye(12, dtype=torch.float64)
        right = torch.linalg.solve(dense + added * eye, gradient.flatten())
        ours = InverseCurvature(estimator.factors(), damping).apply({"w": gradient})["w"]
        torch.testing.assert_close(ours.flatten(), right, rtol=1e-9, atol=1e-12)
        assert added == pytest.approx(
            damping.value * (float(dense.trace()) / 12 if damping.relative else 1)
        )


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("gpt2", "all"),
        ("gpt2", "matrices"),
        ("mixtral", "linear"),
        ("llama", "norm|mlp"),
        ("gpt2", "bias"),
    ],
)
def test_what_is_no_linear_map_has_no_factors(name, scope):
    model = model_of(name)
    engine = GradientEngine(model, select_parameters(model, scope))
    with pytest.raises(NoFactors, match="is not the matrix or bias of a linear map") as caught:
        engine.fisher("true", 0)
    assert caught.value.name in dict(model.named_parameters())


def test_a_damping_that_leaves_a_matrix_singular_is_refused():
    engine = engine_of("gpt2")
    factors = fitted(engine, batches_of("gpt2", 12))
    InverseCurvature(factors, Damping(1e-12, relative=False))
    with pytest.raises(Singular) as caught:
        InverseCurvature(factors, Damping(0.0))
    assert caught.value.name in engine.parameters
    assert 0 < caught.value.entries < caught.value.size
    nothing = {
        name: EkfacFactors(f.affine, f.left_RR, f.right_CC, torch.zeros_like(f.eigenvalues_RC))
        for name, f in factors.items()
    }
    with pytest.raises(Singular):
        InverseCurvature(nothing, Damping(0.1))
