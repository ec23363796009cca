"""What must change nothing: company, order, padding, chunks, masks; and the model stays as is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haiftrace.engine import Batch, GradientEngine, Support, inverse_norms, make_batch
from haiftrace.parameters.scopes import select_parameters
from tests.engine.unchanged import unchanged
from tests.oracle import TrueFloat64, flatten
from tests.tiny_models import VOCABULARY, records, trained

NAMES = ("gpt2", "qwen2-tied", "mixtral", "bloom")
EXACT = {"rtol": 1e-9, "atol": 1e-11}
DIMENSION = 32

cached_model = cache(trained)


@cache
def engine_of(name: str) -> GradientEngine:
    model = cached_model(name, torch.float64)
    with TrueFloat64():
        return GradientEngine(model, select_parameters(model, "all"))


@cache
def direction_of(name: str) -> dict[str, Tensor]:
    batch = make_batch(records(name)[5:6])
    with TrueFloat64():
        return engine_of(name).gradient(batch, batch.labels_BT / 10)


@st.composite
def marked_records(draw: st.DrawFn) -> list[tuple[list[int], list[bool], list[float]]]:
    """One to three records of 2 to 9 tokens with label marks and weights of their tokens."""
    tokens = st.integers(0, VOCABULARY - 1)
    rows = draw(st.lists(st.lists(tokens, min_size=2, max_size=9), min_size=1, max_size=3))
    marked = []
    for row in rows:
        marks = draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row)))
        weight = st.floats(-2, 2, allow_subnormal=False)
        weights = draw(st.lists(weight, min_size=len(row), max_size=len(row)))
        marked.append((row, marks, weights))
    return marked


def everything(
    engine: GradientEngine, name: str, batch: Batch, weights_BT: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All that the engine gives of a batch: by token [B, T, ...] and by record [B, ...]."""
    projector = engine.projector(DIMENSION, 1)
    direction = direction_of(name)
    queries = {key: value.unsqueeze(0) for key, value in direction.items()}
    tokens = engine.token_gradients(batch, projector)
    reduced = engine.record_gradients(batch, weights_BT.unsqueeze(0), projector, queries)
    _, dots_QBT = engine.directional_derivatives(batch, [direction])
    formed = engine.token_gradients(batch, queries=queries).dots_QBT
    assert formed is not None
    assert tokens.vectors_BTK is not None
    assert reduced.projected_NBK is not None
    assert reduced.dots_NBQ is not None
    return (
        {
            "losses": engine.losses(batch),
            "norms": tokens.norms_BT,
            "vectors": tokens.vectors_BTK,
            "directional": dots_QBT[0],
            "formed dots": formed[0],
        },
        {
            "record norms": reduced.norm_NB[0],
            "record projections": reduced.projected_NBK[0],
            "record dots": reduced.dots_NBQ[0],
        },
    )


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=7)
@given(marked=marked_records(), chunk=st.integers(1, 9))
def test_company_order_padding_chunks_and_masks_change_nothing(
    name: str, marked: list[tuple[list[int], list[bool], list[float]]], chunk: int
) -> None:
    engine = engine_of(name)
    rows = [row for row, _, _ in marked]
    batch = make_batch(rows, [marks for _, marks, _ in marked])
    weights_BT = torch.zeros(batch.ids_BT.shape, dtype=torch.float64)
    for index, (row, _, weights) in enumerate(marked):
        weights_BT[index, : len(row)] = torch.tensor(weights, dtype=torch.float64)
    with TrueFloat64():
        with patch.object(engine, "_chunk", lambda *_, **__: chunk):
            by_token, by_record = everything(engine, name, batch, weights_BT)
        gradient = engine.gradient(batch, weights_BT)
        total = torch.zeros_like(flatten(gradient, list(gradient)))
        for index, row in enumerate(rows):
            length = len(row)
            # The record alone, all of its tokens labels, the others' weights zero.
            alone = make_batch([row])
            marks_T = batch.labels_BT[index, :length]
            weights = (weights_BT[index, :length] * marks_T).unsqueeze(0)
            of_tokens, of_record = everything(engine, name, alone, weights)
            for kind, values in of_tokens.items():
                ours = by_token[kind][index]
                shape = (-1, *[1] * (values.ndim - 2))
                right = torch.where(marks_T.reshape(shape), values[0], 0.0)
                torch.testing.assert_close(ours[:length], right, **EXACT, msg=kind)
                assert not ours[length:].any(), kind
            for kind, values in of_record.items():
                torch.testing.assert_close(by_record[kind][index], values[0], **EXACT, msg=kind)
            total += flatten(engine.gradient(alone, weights), list(gradient))
        torch.testing.assert_close(flatten(gradient, list(gradient)), total, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_evidence_sums_to_the_score(name: str) -> None:
    """Forward mode token by token, and reverse mode of the re-weighted record, are one number."""
    engine, direction = engine_of(name), direction_of(name)
    batch = make_batch(records(name)[:3])
    with TrueFloat64():
        weights_BT = inverse_norms(engine.token_gradients(batch).norms_BT)
        queries = {key: value.unsqueeze(0) for key, value in direction.items()}
        reduced = engine.record_gradients(batch, weights_BT.unsqueeze(0), queries=queries)
        _, dots_QBT = engine.directional_derivatives(batch, [direction])
    formed = engine.token_gradients(batch, queries=queries).dots_QBT
    assert formed is not None
    assert reduced.dots_NBQ is not None
    inverse_B = inverse_norms(reduced.norm_NB[0])
    evidence_BT = weights_BT * dots_QBT[0] * inverse_B.unsqueeze(1)
    score_B = reduced.dots_NBQ[0, :, 0] * inverse_B
    torch.testing.assert_close(evidence_BT.sum(1), score_B, **EXACT)
    length = flatten(direction, list(direction)).norm()
    assert ((score_B / length).abs() <= 1).all()


def test_several_directions_are_independent() -> None:
    engine, direction = engine_of("gpt2"), direction_of("gpt2")
    batch = make_batch(records("gpt2")[:2])
    double = {key: 2 * value for key, value in direction.items()}
    nothing = {key: torch.zeros_like(value) for key, value in direction.items()}
    _, dots_QBT = engine.directional_derivatives(batch, [direction, nothing, double])
    torch.testing.assert_close(dots_QBT[2], 2 * dots_QBT[0], **EXACT)
    assert not dots_QBT[1].any()
    assert dots_QBT[0].any()


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_the_memory_budget_changes_the_chunks_and_nothing_else(name: str) -> None:
    model = cached_model(name, torch.float64)
    names = select_parameters(model)
    sizes: list[int] = []
    batch = make_batch(records(name)[:3])
    results = []
    for memory in (1, 100_000, 1 << 30):
        engine = GradientEngine(model, names, memory=memory)
        sizes.append(engine._chunk(1, 1))
        results.append(engine.token_gradients(batch).norms_BT)
    assert sizes[0] == 1 < sizes[1] <= sizes[2]
    for norms_BT in results[1:]:
        # Rounding inside the architecture's float32 casts depends on the shapes.
        torch.testing.assert_close(norms_BT, results[0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scope", [r"layers\.0\.self_attn\.q_proj", r"layers\.0\..*[qk]_proj"])
def test_a_vanishing_gradient_has_no_weight_and_no_direction(
    scope: str, dtype: torch.dtype
) -> None:
    """The first label attends to one token only: its query and key gradients are exactly zero."""
    model = cached_model("llama", dtype)
    engine = GradientEngine(model, select_parameters(model, scope))
    rows = [records("llama")[0], records("llama")[1][:2]]
    batch = make_batch(rows)
    projector = engine.projector(DIMENSION, 0)
    tokens = engine.token_gradients(batch, projector)
    assert tokens.vectors_BTK is not None
    assert not tokens.norms_BT[:, 1].any()
    assert not tokens.vectors_BTK[:, 1].any()
    assert (tokens.norms_BT[0, 2:] > 0).all()
    lengths = tokens.vectors_BTK[0, 2:].norm(dim=-1)
    assert ((lengths > 0.2) & (lengths < 5)).all()
    weights_BT = inverse_norms(tokens.norms_BT)
    assert not weights_BT[:, :2].any()
    assert not weights_BT[1].any()
    assert torch.isfinite(weights_BT).all()

    queries = {name: torch.ones(1, *value.shape) for name, value in engine.parameters.items()}
    queries = {name: value.to(dtype) for name, value in queries.items()}
    weightings = torch.stack([weights_BT, batch.labels_BT.double()])
    reduced = engine.record_gradients(batch, weightings, projector, queries)
    assert reduced.projected_NBK is not None
    assert reduced.dots_NBQ is not None
    for values in (reduced.norm_NB, reduced.projected_NBK, reduced.dots_NBQ):
        assert not values[:, 1].any()
        assert values[:, 0].all()
    _, dots_QBT = engine.directional_derivatives(
        batch, [{name: q[0] for name, q in queries.items()}]
    )
    assert float(dots_QBT[:, :, 1].abs().max()) <= 1e-6 * float(dots_QBT.abs().max())


def test_inverse_norms() -> None:
    norms = torch.tensor([0.0, 1e-300, 0.25, 4.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 1e300, 4.0, 0.25], dtype=torch.float64)
    torch.testing.assert_close(inverse_norms(norms), expected, rtol=1e-12, atol=0.0)
    assert torch.equal(inverse_norms(torch.zeros(2)), torch.zeros(2))


def test_batches_are_checked() -> None:
    for sequences in ([], [[1, 2], [3]], [[]]):
        with pytest.raises(ValueError, match="at least two tokens"):
            make_batch(sequences)
    with pytest.raises(ValueError, match="2 label marks for 3 tokens"):
        make_batch([[1, 2, 3]], [[True, True]])
    batch = make_batch([[1, 2], [3, 4, 5]], [[True, True], [True, False, True]])
    assert batch.labels_BT.tolist() == [[False, True, False], [False, False, True]]
    assert batch.lengths == (2, 3)


def test_parameters_are_checked() -> None:
    model = cached_model("gpt2", torch.float64)
    with pytest.raises(ValueError, match="no parameters"):
        GradientEngine(model, [])
    with pytest.raises(ValueError, match=r"transformer\.nowhere"):
        GradientEngine(model, ["transformer.wte.weight", "transformer.nowhere"])


# The model stays as it was.


def calls(engine: GradientEngine, name: str) -> list[Callable[[], object]]:
    batch = make_batch([row[:6] for row in records(name)[:2]])
    weights_BT = batch.labels_BT.double()
    direction = {key: torch.ones_like(value) for key, value in engine.parameters.items()}
    queries = {key: value.unsqueeze(0) for key, value in direction.items()}
    projector = engine.projector(16, 0)
    return [
        lambda: engine.losses(batch),
        lambda: engine.token_gradients(batch, projector),
        lambda: engine.record_gradients(batch, weights_BT.unsqueeze(0), projector, queries),
        lambda: engine.directional_derivatives(batch, [direction]),
        lambda: engine.gradient(batch, weights_BT),
    ]


SLOW = Support(batched=False, forward_mode=False, single_record=True)


@pytest.mark.parametrize("support", [None, SLOW], ids=["found", "slow"])
@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was(name: str, support: Support | None) -> None:
    model = trained(name)
    # Whatever required gradients before does afterwards, and nothing else.
    for index, value in enumerate(model.parameters()):
        value.requires_grad_(index % 3 != 0)
    with unchanged(model):
        engine = GradientEngine(model, select_parameters(model, "all"), support=support)
    for call in calls(engine, name):
        with unchanged(model):
            call()


@pytest.mark.parametrize("support", [None, SLOW], ids=["found", "slow"])
@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was_by_a_failure(name: str, support: Support | None) -> None:
    model = trained(name).requires_grad_(False)
    engine = GradientEngine(model, select_parameters(model, "all"), support=support)
    last = list(model.modules())[-1]

    def interrupted(*_: object, **__: object) -> Tensor:
        raise KeyboardInterrupt

    for call in calls(engine, name):
        with (
            unchanged(model),
            patch.object(type(last), "forward", interrupted),
            pytest.raises(KeyboardInterrupt),
        ):
            call()
    _, tokens, records_, _, gradient = calls(engine, name)
    for call in (tokens, records_, gradient):
        with (
            unchanged(model),
            patch.object(torch.autograd, "grad", interrupted),
            pytest.raises(KeyboardInterrupt),
        ):
            call()


@pytest.mark.parametrize("name", NAMES)
def test_the_callers_gradient_mode_does_not_matter(name: str) -> None:
    model = trained(name)
    engine = GradientEngine(model, select_parameters(model, "all"))
    with torch.no_grad():
        silent = [call() for call in calls(engine, name)]
        again = GradientEngine(model, select_parameters(model, "all"))
    assert again.support == engine.support
    for ours, right in zip(silent, [call() for call in calls(engine, name)], strict=True):
        assert repr(ours) == repr(right)
