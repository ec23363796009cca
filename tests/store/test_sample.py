"""A seeded sample of an index's windows."""

from __future__ import annotations

import random

import numpy as np

from haiftrace.store import Index
from haiftrace.store.sample import sample_rows
from tests import kit
from tests.tiny_models import SENTENCES


def test_a_sample_is_of_what_the_records_hold(tmp_path):
    shuffled = tuple(random.Random(3).sample(SENTENCES, len(SENTENCES)))
    kit.make_index(tmp_path / "index", kit.write_corpus(tmp_path / "data.jsonl", shuffled))
    with Index.open(kit.index_path()) as first, Index.open(tmp_path / "index") as other:
        _compare(first, other, shuffled)


def _compare(first, other, shuffled):
    for count, seed in ((5, 0), (5, 1), (1, 0)):
        rows = sample_rows(first, count, seed)
        assert rows == sorted(set(rows))
        assert len(rows) == count
        texts = {SENTENCES[row] for row in rows}
        assert texts == {shuffled[row] for row in sample_rows(other, count, seed)}
    assert sample_rows(first, 5, 0) != sample_rows(first, 5, 1)
    assert sample_rows(first, 12, 0) == sample_rows(first, 99, 7) == list(range(12))
    samples = [row for seed in range(300) for row in sample_rows(first, 4, seed)]
    counts = np.bincount(samples, minlength=12)  # 100 each on average, deviation 8
    assert counts.min() > 65
    assert counts.max() < 135
