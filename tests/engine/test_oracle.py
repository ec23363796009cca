"""The engine against a loop of single backward passes, on trained models of every architecture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from haiftrace.engine import GradientEngine, Support, make_batch
from haiftrace.engine.engine import FORWARD_MODE_DIRECTIONS, forward_mode_limit
from haiftrace.parameters.scopes import select_parameters
from tests.oracle import (
    Oracle,
    TrueFloat64,
    beyond,
    errors,
    numbers_of_engine,
    numbers_of_oracle,
)
from tests.tiny_models import NAMES, PAD, records, trained

SCOPES = ("linear", "matrices", "all")
CASTING = tuple(name for name in NAMES if name != "gpt2")
"""Architectures that compute something in float32 whatever their weights are."""
PADDING = ("qwen2-tied", "qwen2-untied", "llama", "mistral", "gemma3", "opt", "phi", "mixtral")
"""Architectures whose embedding knows a padding row."""
TIED = ("gpt2", "qwen2-tied", "gemma3", "opt", "bloom")
SLOW = Support(batched=False, forward_mode=False, single_record=True)

cached_model = cache(trained)


def precision(casts: bool) -> AbstractContextManager[object]:
    """Float64 as the architecture has it, or to the last operation."""
    return nullcontext() if casts else TrueFloat64()


def sample(name: str) -> list[list[int]]:
    """Three learnt records of unequal length, the longest in the middle, the last of two tokens."""
    first, second, third = records(name)[:3]
    return [first[:6], second[:14], third[:2]]


@dataclass(frozen=True)
class Truth:
    """What the oracle knows of `sample`, and of two queries: the gradients of other records."""

    oracle: Oracle
    queries: tuple[Tensor, Tensor]

    def over(self, names: Sequence[str], *, random: bool = True) -> tuple[Oracle, Tensor]:
        """The oracle and query directions [Q, P] over some parameters.

        Args:
            random: one direction more, which is nobody's gradient, so that every entry counts.
        """
        scoped_oracle = self.oracle.over(names)
        query_oracle = Oracle(self.oracle.shapes, (), tuple(self.queries)).over(names)
        directions = [query.sum(0, keepdim=True) for query in query_oracle.gradients]
        return scoped_oracle, torch.cat(
            [*directions, *([scoped_oracle.directions(1)] if random else [])]
        )


@cache
def truth(name: str, dtype: torch.dtype = torch.float64, casts: bool = False) -> Truth:
    model = cached_model(name, dtype)
    with precision(casts):
        oracle = Oracle.of(model, sample(name))
        response, other = Oracle.of(model, records(name)[3:5]).gradients
    return Truth(oracle, (response[-5:] / 5, other / len(other)))


def compare(
    engine: GradientEngine, rows: Sequence[Sequence[int]], oracle: Oracle, directions: Tensor
) -> dict[str, float]:
    ours = numbers_of_engine(engine, rows, oracle, directions)
    return errors(ours, numbers_of_oracle(oracle, directions))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_quantity_is_exact_in_float64(name: str, scope: str) -> None:
    model = cached_model(name, torch.float64)
    names = select_parameters(model, scope)
    oracle, directions = truth(name).over(names)
    with TrueFloat64():
        deviations = compare(GradientEngine(model, names), sample(name), oracle, directions)
    assert beyond(deviations, 1e-9) == {}


def _with_rounding(
    name: str, scope: str, dtype: torch.dtype
) -> tuple[dict[str, float], dict[str, float]]:
    """Errors of the engine and of the loop, both with their rounding, against true float64."""
    model = cached_model(name, dtype)
    names = select_parameters(model, scope)
    oracle, directions = truth(name).over(names, random=False)
    right = numbers_of_oracle(oracle, directions)
    loop, _ = truth(name, dtype, casts=True).over(names, random=False)
    engine = GradientEngine(model, names)
    ours = numbers_of_engine(engine, sample(name), oracle, directions)
    return errors(ours, right), errors(numbers_of_oracle(loop, directions), right)


@pytest.mark.parametrize("scope", ["linear", "all"])
def test_casts_inside_an_architecture_cost_their_rounding_only(scope: str) -> None:
    # The loop errs by up to 2e-5 itself; in which architecture most is chance (a sum that happens
    # to cancel), and another processor rounds otherwise. HAIF is HAIF-T over a norm.
    each = {name: _with_rounding(name, scope, torch.float64) for name in CASTING}
    kinds = each[CASTING[0]][0]
    worst = {kind: max(by_loop[kind] for _, by_loop in each.values()) for kind in kinds}
    worst["HAIF"] = max(worst["HAIF"], worst["HAIF-T"])
    allowed = {kind: max(1e-6, 3 * error) for kind, error in worst.items()}
    assert max(allowed.values()) < 1e-4
    for name, (deviations, _) in each.items():
        assert beyond(deviations, allowed) == {}, name


@pytest.mark.parametrize("scope", ["linear", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_float32_is_as_good_as_the_loop(name: str, scope: str) -> None:
    deviations, by_loop = _with_rounding(name, scope, torch.float32)
    assert beyond(deviations, {kind: max(1e-4, 2 * error) for kind, error in by_loop.items()}) == {}


@pytest.mark.parametrize("scope", ["linear", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_dots_with_few_and_with_many_directions_are_exact(name: str, scope: str) -> None:
    model = cached_model(name, torch.float64)
    names = select_parameters(model, scope)
    oracle, _ = truth(name).over(names)
    batch = make_batch(sample(name))
    with TrueFloat64():
        engine = GradientEngine(model, names)
        for count in (1, 3, 2 * FORWARD_MODE_DIRECTIONS):
            directions = oracle.directions(count)
            dots_QBT = engine.token_dots(batch, oracle.split(directions))
            assert not dots_QBT[:, ~batch.labels_BT].any()
            for i, rows in enumerate(oracle.gradients):
                right = rows @ directions.T
                ours = dots_QBT[:, i, 1 : batch.lengths[i]].T
                assert float((ours - right).abs().max()) < 1e-9 * float(right.abs().max())


def test_forward_passes_are_worth_more_on_longer_records() -> None:
    counts = [forward_mode_limit(make_batch([[1] * length])) for length in (2, 24, 104, 512)]
    assert counts == sorted(counts)
    assert counts[0] == counts[1] == FORWARD_MODE_DIRECTIONS
    # A reverse pass grows with the square: the break-even by the length.
    assert counts[3] / counts[2] == pytest.approx(512 / 104, rel=0.05)
    # A few labels at the end are a cheap reverse pass.
    late = [False] * 100 + [True] * 4
    assert forward_mode_limit(make_batch([[1] * 104], [late])) == FORWARD_MODE_DIRECTIONS


@pytest.mark.parametrize("name", NAMES)
def test_the_slow_path_is_exact(name: str) -> None:
    model = cached_model(name, torch.float64)
    names = select_parameters(model, "all")
    oracle, directions = truth(name).over(names)
    with TrueFloat64():
        engine = GradientEngine(model, names, support=SLOW)
        deviations = compare(engine, sample(name), oracle, directions)
    assert beyond(deviations, 1e-9) == {}


@pytest.mark.parametrize("name", TIED)
def test_a_matrix_tied_between_embedding_and_head_has_its_cross_term(name: str) -> None:
    model = cached_model(name, torch.float64)
    tied = model.get_output_embeddings().weight
    names = [key for key, value in model.named_parameters() if value is tied]
    assert tied is model.get_input_embeddings().weight
    oracle, directions = truth(name).over(names)
    with TrueFloat64():
        deviations = compare(GradientEngine(model, names), sample(name), oracle, directions)
    assert beyond(deviations, 1e-9) == {}


def _with_padding(name: str) -> list[list[int]]:
    first, second, third = records(name)[:3]
    return [[*first[:3], PAD, *first[4:6], PAD, PAD], [PAD, *second[:3]], [third[0], PAD]]


@pytest.mark.parametrize("name", PADDING)
def test_the_padding_row_gets_what_autograd_gives_it(name: str) -> None:
    model = trained(name, torch.float64, pad=True)
    assert model.get_input_embeddings().padding_idx == PAD
    rows = _with_padding(name)
    names = select_parameters(model, "all")
    with TrueFloat64():
        oracle = Oracle.of(model, rows)
        directions = torch.cat([oracle.gradients[1][[1, -1]], oracle.directions(1)])
        deviations = compare(GradientEngine(model, names), rows, oracle, directions)
    assert beyond(deviations, 1e-9) == {}


@pytest.mark.parametrize("name", ["gpt2", "qwen2-tied", "gemma3", "mixtral"])
def test_records_of_repeated_tokens(name: str) -> None:
    model = cached_model(name, torch.float64)
    token, other = records(name)[0][:2]
    rows = [[token] * 8, [token, other] * 4, [token, token]]
    names = select_parameters(model, "all")
    with TrueFloat64():
        oracle = Oracle.of(model, rows)
        directions = torch.cat([oracle.gradients[1][[0, -1]], oracle.directions(1)])
        deviations = compare(GradientEngine(model, names), rows, oracle, directions)
    assert beyond(deviations, 1e-9) == {}


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "mixtral"])
def test_labels_may_be_any_tokens_but_the_first(name: str) -> None:
    model = cached_model(name, torch.float64)
    names = select_parameters(model, "all")
    oracle, directions = truth(name).over(names)
    rows = sample(name)
    marks = [
        [False, False, True, False, True, False],
        [index == len(rows[1]) - 1 for index in range(len(rows[1]))],
        [False, False],
    ]
    batch = make_batch(rows, marks)
    labels_BT = torch.zeros(batch.ids_BT.shape, dtype=torch.bool)
    norms_BT = torch.zeros(batch.ids_BT.shape, dtype=torch.float64)
    dots_BT = torch.zeros_like(norms_BT)
    sums = []
    for row, (mark, gradients) in enumerate(zip(marks, oracle.gradients, strict=True)):
        length = len(mark)
        labels_BT[row, :length] = torch.tensor(mark)
        norms_BT[row, 1:length] = gradients.norm(dim=1)
        dots_BT[row, 1:length] = gradients @ directions[0]
        sums.append((gradients * torch.tensor(mark[1:]).unsqueeze(1)).sum(0))
    assert torch.equal(batch.labels_BT, labels_BT)
    with TrueFloat64():
        engine = GradientEngine(model, names)
        projector = engine.projector(32, 3)
        tokens = engine.token_gradients(batch, projector)
        # Weights of tokens that are no labels are not looked at.
        reduced = engine.record_gradients(batch, torch.ones(1, *batch.ids_BT.shape), projector)
        _, given_QBT = engine.directional_derivatives(
            batch, [{n: g[0] for n, g in oracle.split(directions[:1]).items()}]
        )
        gradient = engine.gradient(batch, torch.ones(batch.ids_BT.shape))
    right = torch.stack(sums)
    zero = torch.zeros((), dtype=torch.float64)
    close = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(tokens.norms_BT, torch.where(labels_BT, norms_BT, zero), **close)
    torch.testing.assert_close(given_QBT[0], torch.where(labels_BT, dots_BT, zero), **close)
    torch.testing.assert_close(reduced.norm_NB[0], right.norm(dim=1), **close)
    assert reduced.projected_NBK is not None
    projected = oracle.project(right, projector)
    torch.testing.assert_close(reduced.projected_NBK[0], projected, **close)
    assert tokens.vectors_BTK is not None
    lengths = tokens.vectors_BTK.norm(dim=-1) > 0
    assert torch.equal(lengths, labels_BT)
    flat = torch.cat([gradient[n].flatten() for n in oracle.shapes])
    torch.testing.assert_close(flat, right.sum(0), **close)


@pytest.mark.parametrize("name", ["gpt2", "bloom", "mixtral"])
def test_a_batch_without_labels_gives_zeros(name: str) -> None:
    model = cached_model(name, torch.float64)
    engine = GradientEngine(model, select_parameters(model))
    rows = sample(name)
    batch = make_batch(rows, [[False] * len(row) for row in rows])
    tokens = engine.token_gradients(batch, engine.projector(16, 0))
    assert tokens.vectors_BTK is not None
    assert tokens.vectors_BTK.shape == (*batch.ids_BT.shape, 16)
    for values in (tokens.losses_BT, tokens.norms_BT, tokens.vectors_BTK, engine.losses(batch)):
        assert not values.any()
    assert not engine.record_gradients(batch, torch.ones(1, *batch.ids_BT.shape)).norm_NB.any()


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "bloom"])
def test_bfloat16_norms_are_near_those_of_float32(name: str) -> None:
    rows = records(name)[:3]
    batch = make_batch(rows)
    half, single = cached_model(name, torch.bfloat16), cached_model(name, torch.float32)
    names = select_parameters(single)
    # The same weights: those that bfloat16 has.
    rounded = trained(name, torch.bfloat16).float()
    right = GradientEngine(rounded, names).token_gradients(batch).norms_BT
    engine = GradientEngine(half, names)
    tokens = engine.token_gradients(batch, engine.projector(32, 0))
    deviations = (tokens.norms_BT - right)[batch.labels_BT].abs() / right[batch.labels_BT]
    assert float(deviations.median()) < 0.05
    assert float(deviations.mean()) < 0.05
    assert tokens.vectors_BTK is not None
    assert tokens.vectors_BTK.dtype is torch.float32
    gradient = engine.gradient(batch, batch.labels_BT.double())
    assert {value.dtype for value in gradient.values()} == {torch.float32}
    _, dots_QBT = engine.directional_derivatives(batch, [gradient])
    size = sum(float(value.double().square().sum()) for value in gradient.values())
    assert abs(float(dots_QBT.sum()) / size - 1) < 0.05


def test_models_are_trained() -> None:
    """On random weights many terms vanish: what the tests above compare must be worth it."""
    for name in NAMES:
        losses = torch.cat(truth(name).oracle.losses)
        assert losses.min() < 0.2
        assert losses.max() > 1.0
