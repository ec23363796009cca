"""Our EK-FAC against the peer library's numbers (kronfluence 1.0.1) and the dense oracle."""

from __future__ import annotations

import pytest
import torch

from haiftrace.engine import Damping, GradientEngine, InverseCurvature, make_batch
from tests.engine.curvature.ekfac_oracle import DenseEkfac, answer_weights, loss_gradient
from tests.oracle import TrueFloat64, flatten
from tests.reference import NAMES, load_reference


def fitted(reference, batch_size: int, kind: str = "empirical"):
    """The engine over the reference's scope, and factors of its records."""
    names = [name for pair in reference.affine for name in pair if name is not None]
    engine = GradientEngine(reference.model, names)
    estimator = engine.fisher(kind, 0)
    records = reference.records
    batches = [records[i : i + batch_size] for i in range(0, len(records), batch_size)]
    for add, end in (
        (estimator.add_covariances, estimator.end_covariances),
        (estimator.add_eigenvalues, lambda: None),
    ):
        for rows in batches:
            add(make_batch(rows), [str(records.index(r)) for r in rows])
        end()
    return engine, estimator.factors()


def scores(engine: GradientEngine, factors, reference, damping: float | None) -> torch.Tensor:
    """v · (H + d)⁻¹ Σ_j g_kj [Q, K] by the engine's forward mode."""
    given = Damping() if damping is None else Damping(damping, relative=False)
    inverse = InverseCurvature(factors, given)
    directions = []
    for query in reference.queries:
        batch = make_batch([query.ids])
        weights = torch.zeros(1, batch.length, dtype=torch.float64)
        share = answer_weights(query.ids, query.answer)
        weights[0, 1:] = torch.tensor(share, dtype=torch.float64)
        directions.append(inverse.apply(engine.gradient(batch, weights)))
    _, dots_QBT = engine.directional_derivatives(make_batch(reference.records), directions)
    return dots_QBT.sum(-1)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_peers(name, biases):
    reference = load_reference(name, biases=biases)
    with TrueFloat64():
        for batch_size in (1, 5):
            engine, factors = fitted(reference, batch_size)
            for damping, right in reference.scores.items():
                ours = scores(engine, factors, reference, damping)
                assert float((ours - right).abs().max()) < 1e-9 * float(right.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_within_its_rounding_of_the_peers_scores(name):
    reference = load_reference(name, torch.float32)
    engine, factors = fitted(reference, 4)
    right = reference.scores[None]
    ours = scores(engine, factors, reference, None)
    assert float((ours - right).abs().max()) < 1e-4 * float(right.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_drawn_labels_give_the_true_fisher_of_the_oracle(name):
    """The oracle is given the labels that the estimator draws, one record after the other."""
    from haiftrace.engine.curvature import ekfac_factors

    reference = load_reference(name)
    names = [n for pair in reference.affine for n in pair if n is not None]
    with TrueFloat64():
        _, factors = fitted(reference, 5, "true")
        labels = []
        for number, ids in enumerate(reference.records):
            logits = reference.model(input_ids=torch.tensor([ids])).logits[:, :-1].detach()
            labels.append(ekfac_factors._sampled_labels(logits, [f"0|{number}"])[0].tolist())
        oracle = DenseEkfac.of(reference.model, reference.affine, reference.records, labels)
        query = reference.queries[0]
        weights = answer_weights(query.ids, query.answer)
        gradient = loss_gradient(reference.model, names, query.ids, weights=weights)
        right = flatten(oracle.inverse(gradient, None), names)
        ours = flatten(InverseCurvature(factors, Damping()).apply(gradient), names)
    assert labels != [ids[1:] for ids in reference.records]
    assert float((ours - right).norm()) < 1e-9 * float(right.norm())


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_relative_influence_divides_by_the_dense_inverses_norm(name, biases):
    """θ-RelatIF (Barshan et al. 2020; Liu and Yang 2024, eq. 6): ‖(H + d)⁻¹∇L(z_k)‖."""
    reference = load_reference(name, biases=biases)
    names = [n for pair in reference.affine for n in pair if n is not None]
    with TrueFloat64():
        engine, factors = fitted(reference, 5)
        batch = make_batch(reference.records)
        weights_BT = batch.labels_BT.double()
        weights_BT /= weights_BT.sum(1, keepdim=True)
        inverse = InverseCurvature(factors, Damping())
        ours = engine.record_gradients(batch, weights_BT.unsqueeze(0), metric=inverse).norm_NB[0]
        oracle = DenseEkfac.of(reference.model, reference.affine, reference.records)
        for number, ids in enumerate(reference.records):
            mean = [1 / (len(ids) - 1)] * (len(ids) - 1)
            gradient = loss_gradient(reference.model, names, ids, weights=mean)
            right = float(flatten(oracle.inverse(gradient, None), names).norm())
            assert abs(float(ours[number]) - right) < 1e-9 * right
