"""Cosines of full gradients, where a model has no direct ones, against a loop and a matrix."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from haiftrace.engine import GradientEngine, make_batch
from haiftrace.engine.full_similarity import FullGradients
from haiftrace.parameters.scopes import select_parameters
from tests.oracle import Oracle, TrueFloat64
from tests.tiny_models import records, trained

NAMES = ("mamba", "bloom", "gptj", "qwen2-untied")
cached_model = cache(trained)


def sample(name: str) -> tuple[list[list[int]], list[list[bool]]]:
    first, second, third = records(name)[:3]
    sequences = [first[:6], second[:11], third[:2]]
    marks = [[True] * 6, [place > 7 for place in range(11)], [False, True]]
    return sequences, marks


@cache
def oracle(name: str) -> Oracle:
    """Of the sample's records, and after them of two query records."""
    model = cached_model(name, torch.float64)
    rows = [*sample(name)[0], records(name)[6][:8], records(name)[7][:5]]
    with TrueFloat64():
        full_oracle = Oracle.of(model, rows)
    return full_oracle.over(select_parameters(model, "linear"))


@pytest.mark.parametrize("name", NAMES)
def test_cosines_and_measures_are_those_of_a_loop(name: str) -> None:
    model = cached_model(name, torch.float64)
    right = oracle(name)
    sequences, marks = sample(name)
    batch = make_batch(sequences, marks)
    query_batches = [
        make_batch([records(name)[6][:8]], [[place >= 5 for place in range(8)]]),
        make_batch(
            [records(name)[7][:5], records(name)[6][:8]],
            [[False] * 4 + [True], [False, True] + [False] * 6],
        ),
    ]
    with TrueFloat64():
        full = FullGradients(GradientEngine(model, select_parameters(model, "linear")))
        queries = full.queries(query_batches)
        losses_J, cosines = full.cosines(batch, queries)
        (cosines_JQ,) = list(cosines)
        measures = full.measures(batch, 32, 5)
        bare = full.measures(batch, 0, 0)
    at = batch.labels_BT

    def chosen(values: tuple[Tensor, ...]) -> Tensor:
        return torch.cat(
            [value[torch.tensor(row[1:])] for value, row in zip(values, marks, strict=False)]
        )

    gradients = chosen(right.gradients)
    six, seven = right.gradients[3:]
    theirs = torch.cat([six[4:7], seven[3:4], six[0:1]])
    expected = torch.nn.functional.normalize(gradients) @ torch.nn.functional.normalize(theirs).T
    torch.testing.assert_close(cosines_JQ, expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(losses_J, chosen(right.losses))
    torch.testing.assert_close(measures.losses_BT[at], losses_J)
    torch.testing.assert_close(measures.norms_BT[at], gradients.norm(dim=1))
    torch.testing.assert_close(bare.norms_BT, measures.norms_BT)
    assert bare.vectors_BTK is None
    assert measures.vectors_BTK is not None
    for value in (measures.losses_BT, measures.norms_BT, measures.vectors_BTK.norm(dim=2)):
        assert not value[~at].any()
    vectors = torch.nn.functional.normalize(gradients)
    projector = full._engine.projector(32, 5)
    torch.testing.assert_close(measures.vectors_BTK[at], right.project(vectors, projector))


def test_queries_can_be_selected_singly() -> None:
    name = "qwen2-untied"
    full = FullGradients(
        GradientEngine(cached_model(name), select_parameters(cached_model(name), "linear")),
        ("why",),
    )
    assert full.layers == 1
    assert full.notes == ("why",)
    queries = full.queries([make_batch([records(name)[0][:7]])])
    assert queries.count == 6
    selected = queries.select([4, 1])
    assert selected.count == 2
    assert sum(units.nbytes for units in selected.units.values()) == full.token_cost.nbytes * 2
    batch = make_batch([records(name)[1][:6]])
    (all_JQ,) = full.cosines(batch, queries)[1]
    (subset_JQ,) = full.cosines(batch, selected)[1]
    torch.testing.assert_close(subset_JQ, all_JQ[:, [4, 1]])
    (own,) = full.cosines(make_batch([records(name)[0][:7]]), queries)[1]
    torch.testing.assert_close(own.diagonal(), torch.ones(6).to(own))
