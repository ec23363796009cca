"""Where the device's memory does not hold a batch, its halves give the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.engine.halving import halved
from haiftrace.store import Index
from tests import kit

COLUMNS = ("loss", "token_loss", "token_grad_norm")


@given(st.lists(st.integers(), min_size=1, max_size=20), st.integers(1, 20))
def test_every_item_once_in_order_and_in_batches_that_fit(items, most):
    sizes = []

    def work(batch):
        if len(batch) > most:
            raise torch.OutOfMemoryError("no memory")
        sizes.append(len(batch))
        return [2 * item for item in batch]

    parts = list(halved(work, items))
    assert [item for part, _ in parts for item in part] == items
    assert [result for _, results in parts for result in results] == [2 * n for n in items]
    assert max(sizes) <= most
    assert len(sizes) == len(parts)


def test_an_item_that_is_too_large_alone_is_an_error():
    def work(batch):
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(halved(work, [1, 2, 3]))


@contextmanager
def memory_for(model: torch.nn.Module, records: int) -> Iterator[list[int]]:
    """A device whose memory holds the activations of so many records; gives the sizes tried."""
    tried: list[int] = []

    def forward(module, arguments, named):
        ids = named["input_ids"] if "input_ids" in named else arguments[0]
        tried.append(len(ids))
        if len(ids) > records:
            raise torch.OutOfMemoryError("no memory")

    hook = model.base_model.register_forward_pre_hook(forward, with_kwargs=True)
    try:
        yield tried
    finally:
        hook.remove()


def test_an_index_is_made_where_batches_do_not_fit(tmp_path):
    checkpoint = kit.checkpoint()
    with memory_for(checkpoint.model, 2) as tried:
        kit.make_index(tmp_path / "index", kit.corpus_path(), checkpoint)
    assert max(tried) > 2
    with Index.open(tmp_path / "index") as ours, Index.open(kit.index_path()) as right:
        assert len(ours) == len(right)
        for mine, theirs in zip(ours.iter_windows(), right.iter_windows(), strict=True):
            assert mine.token_ids == theirs.token_ids
            for column in COLUMNS:
                np.testing.assert_allclose(
                    getattr(mine, column), getattr(theirs, column), rtol=1e-6, atol=1e-9
                )


@pytest.mark.parametrize("method", ["layerwise", "haif", "gradient-cosine"])
def test_scores_and_evidence_where_batches_do_not_fit(method):
    right = kit.traced(method=method)
    tracer = kit.tracer()
    with memory_for(tracer.checkpoint.model, 2) as tried:
        ours = kit.traced(tracer, method=method)
    assert max(tried) > 2
    assert [record.id for record in ours.records] == [record.id for record in right.records]
    for mine, theirs in zip(ours.records, right.records, strict=True):
        kit.close(mine.score, theirs.score)
        kit.close(
            [token.evidence for token in mine.tokens], [token.evidence for token in theirs.tokens]
        )
