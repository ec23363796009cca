"""Direct gradients of trained tiny models against single backward passes and explicit matrices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from haiftrace.engine import Batch, make_batch
from haiftrace.engine.direct import DirectGradients, SecondMoments, Whitening
from haiftrace.engine.direct.factors import LayerFactors
from tests.engine.direct.direct_oracle import DirectTruth, direct_truth, full_value_gradients
from tests.oracle import TrueFloat64
from tests.tiny_models import DIRECT_NAMES, records, trained

each_model = pytest.mark.parametrize("name", DIRECT_NAMES)
cached_model = cache(trained)


def sample(name: str) -> tuple[list[list[int]], list[list[bool]]]:
    """Records of unequal length and their labels: all, the end, every other one, one, the first."""
    first, second, third, fourth, fifth = records(name)[:5]
    sequences = [first[:7], second[:14], third[:12], fourth[:9], fifth[:2]]
    marks = [
        [place > 0 for place in range(7)],
        [place > 8 for place in range(14)],
        [place % 2 == 1 for place in range(12)],
        [place == 5 for place in range(9)],
        [False, True],
    ]
    return sequences, marks


@cache
def truth(name: str) -> tuple[list[DirectTruth], list[DirectTruth]]:
    """Of the sample's records, and of two queries."""
    model = cached_model(name, torch.float64)
    with TrueFloat64():
        known = [
            direct_truth(name, model, ids, [p for p, mark in enumerate(marks) if mark])
            for ids, marks in zip(*sample(name), strict=True)
        ]
        query_truths = [direct_truth(name, model, ids, [p, p + 1]) for ids, p in queries(name)]
    return known, query_truths


def queries(name: str) -> list[tuple[list[int], int]]:
    return [(records(name)[6], 8), (records(name)[7], 5)]


def check_last_layer(name: str, model: torch.nn.Module) -> None:
    """Its direct gradient is the full gradient of the last value projection."""
    record = records(name)[0][:12]
    with TrueFloat64():
        direct = DirectGradients(model)
        last = layers_of(direct, make_batch([record]))[1][-1]
        full = full_value_gradients(name, model, record, last.output_grad_GJRE.shape[0])
    gradient = torch.einsum("gjre,gjrd->jged", last.output_grad_GJRE, last.input_GJRD)
    close(gradient * last.norm_J[:, None, None, None], full)


def joined(chunks: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Each layer's, of all records."""
    return [torch.cat(layer) for layer in zip(*chunks, strict=True)]


def close(ours: Tensor, right: Tensor, tolerance: float = 1e-9) -> None:
    assert ours.shape == right.shape
    assert not torch.isnan(ours).any()
    assert (ours - right).abs().max() <= tolerance * right.abs().max()


def layers_of(direct: DirectGradients, batch: Batch) -> tuple[Tensor, list[LayerFactors]]:
    """Losses, and the factors of all labels in order."""
    chunks: list[list[tuple[Tensor, LayerFactors]]] = [[] for _ in range(direct.layers)]
    losses_J = direct.run(batch, lambda layer, *label_factors: chunks[layer].append(label_factors))
    layers = []
    for chunk in chunks:
        order = torch.cat([labels_N for labels_N, _ in chunk]).argsort()
        layers.append(LayerFactors.joined([factors for _, factors in chunk]).select(order))
    return losses_J, layers


def slopes_of(layer: LayerFactors) -> Tensor:
    """e [J, H, E]."""
    return (layer.output_grad_GJRE * layer.norm_J[:, None, None]).transpose(0, 1).flatten(1, 2)


def moments_of(inputs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """(A + 0.1 tr(A)/D)^(-1/2) by layer, from its definition, position by position."""
    matrices = []
    for layer in zip(*inputs, strict=True):
        rows = torch.cat(list(layer))
        second = sum(torch.outer(x, x) for x in rows) / len(rows)
        identity = torch.eye(len(second), dtype=torch.float64)
        damped = second + 0.1 * torch.trace(second) / len(second) * identity
        # The inverse root by Denman and Beavers' iteration: not by eigenvalues.
        root, inverse = damped, identity
        for _ in range(60):
            root, inverse = (
                (root + torch.linalg.inv(inverse)) / 2,
                (inverse + torch.linalg.inv(root)) / 2,
            )
        matrices.append(inverse)
    return matrices


@each_model
def test_factors_are_those_of_single_backward_passes(name: str) -> None:
    known, _ = truth(name)
    model = cached_model(name, torch.float64)
    with TrueFloat64():
        direct = DirectGradients(model)
        losses_J, layers = layers_of(direct, make_batch(*sample(name)))
    close(losses_J, torch.cat([record.losses_J for record in known]))
    assert direct.layers == len(known[0].slopes)
    for layer, right in zip(layers, joined([record.slopes for record in known]), strict=True):
        close(slopes_of(layer), right)
    for layer, right in zip(layers, joined([record.means for record in known]), strict=True):
        close(layer.input_GJRD.transpose(0, 1).flatten(1, 2), right)


@each_model
def test_norms_and_cosines_are_those_of_explicit_gradients(name: str) -> None:
    known, query_truths = truth(name)
    whiten = moments_of([record.inputs for record in known])
    model = cached_model(name, torch.float64)
    with TrueFloat64():
        direct = DirectGradients(model, Whitening(tuple(whiten)))
        query_factors = direct.queries(
            [
                make_batch([ids], [[place in (at, at + 1) for place in range(len(ids))]])
                for ids, at in queries(name)
            ]
        )
        batch = make_batch(*sample(name))
        losses_J, cosines = direct.cosines(batch, query_factors)
        cosines = list(cosines)
        norms_J = direct.measures(batch, 0, 0).norms_BT[batch.labels_BT]
        same_J, layers = layers_of(direct, batch)
    close(losses_J, same_J)
    ours = joined([record.gradients(whiten) for record in known])
    theirs = joined([query.gradients(whiten) for query in query_truths])
    squares = torch.zeros(len(losses_J), dtype=torch.float64)
    for layer, (left, right) in enumerate(zip(ours, theirs, strict=True)):
        left, right = left.flatten(1), right.flatten(1)
        close(layers[layer].norm_J, left.norm(dim=1))
        close(query_factors.layers[layer].norm_J, right.norm(dim=1))
        close(cosines[layer], (left @ right.T) / left.norm(dim=1)[:, None] / right.norm(dim=1))
        squares += left.norm(dim=1) ** 2
    close(norms_J, squares.sqrt())
    assert max(float(of_layer.abs().max()) for of_layer in cosines) > 0.05


@each_model
def test_the_last_layers_gradient_is_the_full_one(name: str) -> None:
    check_last_layer(name, cached_model(name, torch.float64))


@each_model
def test_an_architectures_own_casts_cost_their_rounding_only(name: str) -> None:
    known, _ = truth(name)
    direct = DirectGradients(cached_model(name, torch.float64))
    _, layers = layers_of(direct, make_batch(*sample(name)))
    for layer, right in zip(layers, joined([record.slopes for record in known]), strict=True):
        close(slopes_of(layer), right, 1e-4)


@each_model
def test_whitening_makes_the_inputs_moment_one_but_for_the_damping(name: str) -> None:
    batch = make_batch(sample(name)[0])
    model = cached_model(name, torch.float64)
    with TrueFloat64():
        direct = DirectGradients(model)
        moments = SecondMoments()
        for row in batch.rows():  # the last position, which predicts nothing, counts too
            moments.add(*direct.value_inputs(row))
        together = SecondMoments()
        together.add(*direct.value_inputs(batch))
        known = [direct_truth(name, model, [*ids, 2]).inputs for ids in sample(name)[0]]
    for ours, same, right in zip(
        moments.whitening().matrices,
        together.whitening().matrices,
        moments_of(known),
        strict=True,
    ):
        assert ours is not None
        assert same is not None
        close(ours, right)
        close(same, right)
