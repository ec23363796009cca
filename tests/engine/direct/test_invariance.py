"""What must change no direct gradient: company, order, padding, the text after, sizes of chunks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haiftrace.engine import Batch, make_batch
from haiftrace.engine.direct import (
    DirectGradients,
    DirectQueries,
    SecondMoments,
    attention,
    factors,
    head,
)
from haiftrace.engine.direct.activations import SavedTensorBytes
from tests.engine.unchanged import unchanged
from tests.oracle import TrueFloat64
from tests.tiny_models import VOCABULARY, records, trained

NAMES = ("gpt2", "qwen2-untied", "mistral", "gemma2", "gpt-oss", "deepseek-v3")
EXACT = {"rtol": 1e-8, "atol": 1e-11}
DIMENSION = 16

cached_model = cache(trained)


@cache
def direct_of(name: str) -> DirectGradients:
    model = cached_model(name, torch.float64)
    with TrueFloat64():
        direct = DirectGradients(model)
        moments = SecondMoments()
        moments.add(*direct.value_inputs(make_batch(records(name))))
        return direct.whitened(moments.whitening())


@cache
def queries_of(name: str) -> DirectQueries:
    direct = direct_of(name)
    with TrueFloat64():
        return direct.queries([make_batch(records(name)[5:7])])


def everything(name: str, batch: Batch) -> dict[str, Tensor]:
    """Of every label, in order."""
    direct, queries = direct_of(name), queries_of(name)
    with TrueFloat64():
        losses_J, cosines = direct.cosines(batch, queries)
        measures = direct.measures(batch, DIMENSION, 3)
        at = batch.labels_BT
        assert measures.vectors_BTK is not None
        assert not (measures.norms_BT * ~at).any()
        assert not (measures.losses_BT * ~at).any()
        assert not (measures.vectors_BTK * ~at[:, :, None]).any()
        torch.testing.assert_close(measures.losses_BT[at], losses_J, **EXACT)
        return {
            "losses": losses_J,
            "cosines": torch.cat(list(cosines), 1),
            "norms": measures.norms_BT[at],
            "vectors": measures.vectors_BTK[at],
        }


def same(ours: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    for quantity, value in right.items():
        torch.testing.assert_close(ours[quantity], value, **EXACT)


@st.composite
def marked_records(draw: st.DrawFn) -> list[tuple[list[int], list[bool]]]:
    """Two to four records of 2 to 9 tokens with label marks, at least one label in all."""
    tokens = st.integers(0, VOCABULARY - 1)
    rows = draw(st.lists(st.lists(tokens, min_size=2, max_size=9), min_size=2, max_size=4))
    marked = [
        (row, draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row)))) for row in rows
    ]
    marked[0][1][-1] = True
    return marked


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(marked=marked_records())
def test_company_and_order_change_nothing(
    name: str, marked: list[tuple[list[int], list[bool]]]
) -> None:
    def of(rows: list[tuple[list[int], list[bool]]]) -> dict[str, Tensor]:
        return everything(name, make_batch([r for r, _ in rows], [m for _, m in rows]))

    each = [of([row]) for row in marked]
    for order in (marked, marked[::-1]):
        alone = each if order is marked else each[::-1]
        same(
            of(order),
            {key: torch.cat([similarity[key] for similarity in alone]) for key in each[0]},
        )


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_seen_alike_whichever_others_there_are_and_whatever_follows(name: str) -> None:
    ids = records(name)[1][:12]
    full = everything(name, make_batch([ids]))
    for place in range(1, len(ids)):
        alone = everything(name, make_batch([ids], [[p == place for p in range(len(ids))]]))
        cut = everything(name, make_batch([ids[: place + 1]]))
        same(alone, {key: value[place - 1 : place] for key, value in full.items()})
        same(cut, {key: value[:place] for key, value in full.items()})


@pytest.mark.parametrize("name", ["gpt2", "qwen2-untied"])
def test_a_batch_without_labels_gives_nothing(name: str) -> None:
    batch = make_batch([records(name)[0]], [[False] * len(records(name)[0])])
    assert all(len(value) == 0 for value in everything(name, batch).values())


@contextmanager
def _small_chunks(rows: int, cosines: int, logits: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "ROW_BYTES", rows)
        patch.setattr(attention, "LEAST_ROWS", 1)
        patch.setattr(factors, "COSINE_BYTES", cosines)
        patch.setattr(head, "LOGIT_BYTES", logits)
        yield


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (9000, 5000, 1500), (30000, 20000, 3000)])
def test_sizes_of_chunks_change_nothing(name: str, sizes: tuple[int, int, int]) -> None:
    marks = [[p % 3 != 1 for p in range(len(row))] for row in records(name)[:3]]
    for batch in (make_batch(records(name)[:3]), make_batch(records(name)[:3], marks)):
        full = everything(name, batch)
        with _small_chunks(*sizes):
            same(everything(name, batch), full)


@pytest.mark.parametrize("name", [*NAMES, "mixtral", "qwen3-next", "llama"])
def test_a_pass_in_little_memory_is_the_same(name: str) -> None:
    direct = direct_of(name)
    lean = DirectGradients(
        cached_model(name, torch.float64), direct._whitening, direct.support, memory=0
    )
    batch = make_batch(records(name)[:3])
    assert len(direct.support.feed_forward) >= direct.layers
    kept = []
    for similarity in (direct, lean):
        with SavedTensorBytes(cached_model(name, torch.float64)) as count:
            kept.append((similarity.measures(batch, DIMENSION, 3), count.count))
    (ours, less), (right, more) = kept[1], kept[0]
    assert less < 0.8 * more
    assert abs(more / direct.support.position_bytes / batch.ids_BT[:, 1:].numel() - 1) < 0.2
    # Casts to float32 inside the architecture are done alike both times.
    torch.testing.assert_close(ours.norms_BT, right.norms_BT, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.vectors_BTK, right.vectors_BTK, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_stays_as_it_is(name: str) -> None:
    model = trained(name)
    model.get_input_embeddings().weight.requires_grad_(False)
    with unchanged(model):
        direct = DirectGradients(model)
        direct.measures(make_batch(records(name)[:2]), DIMENSION, 1)
        lean = DirectGradients(model, support=direct.support, memory=0)
        lean.measures(make_batch(records(name)[:2]), DIMENSION, 1)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert len(frozen) == 1
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_comes_back_holds_a_graph(name: str) -> None:
    direct = direct_of(name)
    batch = make_batch(records(name)[:1])
    losses_J, cosines = direct.cosines(batch, queries_of(name))
    measures = direct.measures(batch, DIMENSION, 1)
    assert measures.vectors_BTK is not None
    results = [losses_J, *cosines, measures.losses_BT, measures.norms_BT, measures.vectors_BTK]
    assert not any(value.requires_grad for value in results)


def test_queries_can_be_selected_singly() -> None:
    direct, queries = direct_of("qwen2-untied"), queries_of("qwen2-untied")
    batch = make_batch(records("qwen2-untied")[:2])
    full = list(direct.cosines(batch, queries)[1])
    indices = [5, 0, 7]
    subset = queries.select(indices)
    assert subset.count == 3
    assert sum(layer.nbytes for layer in subset.layers) == direct.token_cost.nbytes * 3
    for ours, right in zip(direct.cosines(batch, subset)[1], full, strict=True):
        torch.testing.assert_close(ours, right[:, indices], rtol=1e-6, atol=1e-6)
    own = direct.cosines(make_batch(records("qwen2-untied")[5:7]), queries)[1]
    for cosine in own:
        torch.testing.assert_close(cosine.diagonal(), torch.ones(queries.count).to(cosine))
