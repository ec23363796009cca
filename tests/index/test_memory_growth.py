"""What an index takes of memory does not grow with its corpus: a few numbers a record at most."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from haiftrace.calibration import term_tables
from haiftrace.calibration.controls import records_holding
from haiftrace.calibration.near_copies import near_copy_groups
from haiftrace.scoring.layerwise import estimates
from haiftrace.store import Index, token_search
from tests.index import memory_growth
from tests.index.memory_growth import people
from tests.store.store_samples import (
    make_row,
    quick_fsync,  # noqa: F401 (autouse)
    settings,
    write_index,
)

SMALL, LARGE = 500, 2000


def growth(work: Callable[[int], object]) -> float:
    """Bytes that the peak grows by for each record more."""
    peaks = []
    for size in (SMALL, SMALL, LARGE):  # what is imported and cached at first is no growth
        tracemalloc.start()
        work(size)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return (peaks[2] - peaks[1]) / (LARGE - SMALL)


@pytest.fixture(scope="module", name="indexes")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Index]:
    """Two indexes of records with 40 labels each."""
    folder = tmp_path_factory.mktemp("growth")
    rng = np.random.default_rng(0)
    tokens = {
        "offsets": [(n, n + 1) for n in range(41)],
        "labels": [False] + [True] * 40,
        "token_loss": rng.random(41),
        "token_grad_norm": rng.random(41),
        "token_codes": rng.integers(0, 256, (41, 1), np.uint8),
    }
    records = [
        [make_row(number, token_ids=rng.integers(0, 500, 41).tolist(), **tokens)]
        for number in range(LARGE)
    ]
    indexes = {}
    for size in (SMALL, LARGE):
        write_index(folder / str(size), records[:size], settings(seed=0), shard_rows=64)
        indexes[size] = Index.open(folder / str(size))
    return indexes


def test_near_copies(monkeypatch):
    monkeypatch.setattr(term_tables, "_KNOWN", 256)
    assert growth(lambda size: near_copy_groups(people(size))) < 400


def test_estimates_of_all_windows(indexes, monkeypatch):
    """They are held for so many query tokens as a fixed room allows, and nothing for each label."""
    monkeypatch.setattr(estimates, "_MATRIX_BYTES", 1)
    monkeypatch.setattr(token_search, "_BLOCK_TOKENS", 16)
    queries = np.ones((1, 8), np.float32)

    def work(size: int) -> Iterable[float]:
        return estimates.Estimates(indexes[size], None, 1.0)._pooled(queries)  # type: ignore[arg-type]

    assert growth(work) < 150


def test_where_spans_stand(indexes):
    spans = {(token,) for token in range(500)}
    assert growth(lambda size: records_holding(indexes[size], spans, 100)) < 100


@pytest.mark.slow
def test_of_index_calibration_and_trace(tmp_path):
    """Memory of every stage, at 2,500 and 6,000 records: 20 MB and 5 % more at most.

    Both have an inverted file. Pages of mapped files do not count: the system takes them back.
    """
    for size in (2500, 6000):
        memory_growth.run(tmp_path, size)
    peaks: dict[str, dict[int, int]] = {}
    for line in (tmp_path / "memory.jsonl").read_text().splitlines():
        row = json.loads(line)
        peaks.setdefault(row["stage"], {})[row["records"]] = row["anonymous_mb"]
    assert len(peaks) > 7
    for stage, of_size in peaks.items():
        assert of_size[6000] < 1.05 * of_size[2500] + 20, stage
