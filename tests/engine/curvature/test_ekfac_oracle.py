"""The dense EK-FAC oracle against kronfluence: its committed numbers, and itself where installed.

Reached in float64: 2e-13 (damping 0.1 × mean) and 6e-13 (1e-4) of the largest score.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tests.engine.curvature.ekfac_oracle as ekfac_oracle
from haiftrace.parameters.scopes import select_parameters
from tests.engine.curvature.ekfac_oracle import (
    AffineFactors,
    DenseEkfac,
    answer_weights,
    dot,
    loss_gradient,
)
from tests.oracle import TrueFloat64
from tests.reference import NAMES, Reference, load_reference
from tests.reference.make_kronfluence import DAMPINGS, kronfluence_numbers, with_linear
from tests.tiny_models import mean_loss

TOLERANCE = 1e-9
NOTICED = 1e-2
"""A convention that is got wrong moves the scores by more than this map_factors of the largest."""

reference = cache(load_reference)
each_model = pytest.mark.parametrize("name", NAMES)
each_scope = pytest.mark.parametrize("biases", [True, False], ids=["biases", "matrices"])


def scored(truth: Reference, curvature: DenseEkfac | None = None) -> dict[float | None, Tensor]:
    """The oracle's scores [Q, K] by damping."""
    with TrueFloat64():
        dense = curvature or DenseEkfac.of(truth.model, truth.affine, truth.records)
        queries = [
            loss_gradient(truth.model, dense.names, q.ids, weights=answer_weights(q.ids, q.answer))
            for q in truth.queries
        ]
        records = [loss_gradient(truth.model, dense.names, ids) for ids in truth.records]
    return {damping: dense.scores(queries, records, damping) for damping in DAMPINGS}


def apart(ours: dict[float | None, Tensor], theirs: dict[float | None, Tensor]) -> float:
    """The largest difference, relative to the largest score of the query."""
    assert ours.keys() == theirs.keys() == set(DAMPINGS)
    return max(
        float(((ours[d] - right).abs().amax(1) / right.abs().amax(1)).max())
        for d, right in theirs.items()
    )


@each_scope
@each_model
def test_scores_are_those_of_kronfluence(name: str, biases: bool) -> None:
    truth = reference(name, biases=biases)
    assert apart(scored(truth), truth.scores) < TOLERANCE


@each_scope
@each_model
def test_factors_are_those_of_kronfluence(name: str, biases: bool) -> None:
    truth = reference(name, biases=biases)
    with TrueFloat64():
        dense = DenseEkfac.of(truth.model, truth.affine, truth.records)
    assert truth.factors.keys() == {map_factors.weight for map_factors in dense.maps}
    for map_factors in dense.maps:
        ours = {
            "input_trace": map_factors.inputs_CC.trace(),
            "output_trace": map_factors.outputs_RR.trace(),
            "mean_eigenvalue": map_factors.eigenvalues_RC.mean(),
            "largest_eigenvalue": map_factors.eigenvalues_RC.max(),
        }
        for quantity, right in truth.factors[map_factors.weight].items():
            assert float(ours[quantity]) == pytest.approx(right, rel=TOLERANCE), map_factors.weight


@each_model
def test_the_scope_is_every_linear_map_of_the_blocks(name: str) -> None:
    truth = reference(name)
    assert [weight for weight, _ in truth.affine] == select_parameters(truth.model, "linear")
    biases = {bias for _, bias in truth.affine}
    assert biases - {None} == {
        bias
        for bias, _ in truth.model.named_parameters()
        if bias.endswith(".bias") and f"{bias.removesuffix('bias')}weight" in truth.factors
    }
    assert (None in biases) == (name == "qwen2-tied")


@each_model
def test_a_convention_got_wrong_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = reference(name)
    right = scored(truth)
    # An eigenvalue for every pair of the covariances' own: K-FAC.
    with TrueFloat64():
        dense = DenseEkfac.of(truth.model, truth.affine, truth.records)
    assert apart(scored(truth, DenseEkfac(tuple(map(uncorrected, dense.maps)))), right) > NOTICED
    assert apart(scored(reference(name, biases=False)), right) > NOTICED

    every_flow = ekfac_oracle._flows

    def without_last(*arguments: object) -> list[tuple[Tensor, Tensor]]:
        return [(inputs[:-1], outputs[:-1]) for inputs, outputs in every_flow(*arguments)]

    monkeypatch.setattr(ekfac_oracle, "_flows", without_last)
    assert apart(scored(truth), right) > NOTICED


def uncorrected(map_factors: AffineFactors) -> AffineFactors:
    inputs_C = torch.linalg.eigvalsh(map_factors.inputs_CC)
    outputs_R = torch.linalg.eigvalsh(map_factors.outputs_RR)
    covariances = (
        map_factors.inputs_CC,
        map_factors.outputs_RR,
        map_factors.right_CC,
        map_factors.left_RR,
    )
    eigenvalues_RC = torch.outer(outputs_R, inputs_C).clamp(min=0)
    return AffineFactors(
        map_factors.weight, map_factors.bias, map_factors.transposed, *covariances, eigenvalues_RC
    )


@each_model
def test_the_inverse_undoes_the_damped_operator(name: str) -> None:
    """(H + d) (H + d)⁻¹ g = g, with H applied map by map as Σ over its rank-one terms."""
    truth = reference(name)
    with TrueFloat64():
        dense = DenseEkfac.of(truth.model, truth.affine, truth.records[:3])
        gradient = loss_gradient(truth.model, dense.names, truth.records[0])
    inverse = dense.inverse(gradient, 1e-2)
    assert {n: g.shape for n, g in inverse.items()} == {n: g.shape for n, g in gradient.items()}
    for map_factors in dense.maps[:2]:
        names = (map_factors.weight, map_factors.bias, map_factors.transposed)
        solved_RC = ekfac_oracle.joined(inverse, *names)
        again_RC = 1e-2 * solved_RC
        for row, left_R in enumerate(map_factors.left_RR.T):
            for column, right_C in enumerate(map_factors.right_CC.T):
                curvature = map_factors.eigenvalues_RC[row, column] * (left_R @ solved_RC @ right_C)
                again_RC += curvature * torch.outer(left_R, right_C)
        torch.testing.assert_close(
            again_RC, ekfac_oracle.joined(gradient, *names), rtol=1e-9, atol=1e-12
        )


def test_labels_of_ones_own_change_the_curvature() -> None:
    truth = reference("gpt2")
    records = truth.records[:2]
    shifted = [[*ids[2:], ids[0]] for ids in records]
    with TrueFloat64():
        own = DenseEkfac.of(truth.model, truth.affine, records)
        same = DenseEkfac.of(truth.model, truth.affine, records, [ids[1:] for ids in records])
        other = DenseEkfac.of(truth.model, truth.affine, records, shifted)
    torch.testing.assert_close(same.maps[0].eigenvalues_RC, own.maps[0].eigenvalues_RC)
    assert torch.equal(other.maps[0].inputs_CC, own.maps[0].inputs_CC)
    assert other.maps[0].outputs_RR.trace() > 2 * own.maps[0].outputs_RR.trace()


@each_scope
@each_model
def test_the_model_given_to_kronfluence_computes_the_same(name: str, biases: bool) -> None:
    truth = reference(name)
    copied, tracked = with_linear(truth.model, list(truth.factors), biases=biases)
    ids = torch.tensor([truth.records[0]])
    with torch.no_grad(), TrueFloat64():
        ours, theirs = (model(input_ids=ids).logits for model in (truth.model, copied))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    modules = {matrix: copied.get_submodule(module) for matrix, module in tracked.items()}
    assert modules.keys() == truth.factors.keys()
    assert all(isinstance(module, torch.nn.Linear) for module in modules.values())
    traced = {matrix for matrix, module in modules.items() if module.bias is not None}
    assert traced == {weight for weight, bias in truth.affine if biases and bias}


@each_model
def test_the_model_had_learnt_its_records(name: str) -> None:
    """The numbers are worth comparing on a trained model only: no gradient vanishes there."""
    truth = reference(name)
    names = [weight for weight, _ in truth.affine]
    gradients = [loss_gradient(truth.model, names, ids) for ids in truth.records]
    assert min(dot(gradient, gradient) for gradient in gradients) > 1e-3
    assert mean_loss(truth.model, truth.records) < 1.0


@each_scope
@pytest.mark.parametrize("batch", [1, 5])
@each_model
def test_kronfluence_itself(name: str, batch: int, biases: bool, tmp_path: Path) -> None:
    """On the committed weights; batches of five are padded on the right and masked."""
    pytest.importorskip("kronfluence")
    truth = reference(name, biases=biases)
    matrices = list(truth.factors)
    scores, factors = kronfluence_numbers(
        truth.model, matrices, truth.records, truth.queries, tmp_path, biases=biases, batch=batch
    )
    assert apart(scored(truth), scores) < TOLERANCE
    assert apart(truth.scores, scores) < TOLERANCE
    for matrix in matrices:
        assert factors[matrix] == pytest.approx(truth.factors[matrix], rel=TOLERANCE)
