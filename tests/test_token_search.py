"""tokens.faiss: what comes out is what went in, a quantiser's step apart."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from haiftrace.store import Index, faiss_file, token_search
from tests.store_samples import (
    contents,
    make_records,
    make_row,
    open_writer,
    quick_fsync,  # noqa: F401 (autouse)
    settings,
    write_index,
)


def stored(index: Index) -> list[np.ndarray]:
    """[m, K] the vectors of each window's label tokens, as its tables have them."""
    return [
        window.token_vectors[np.asarray(window.labels)].astype(float)
        for window in index.iter_windows(token_vectors=True)
    ]


def products(index: Index, queries: np.ndarray) -> list[np.ndarray]:
    """[m, Q] a window, by following the blocks."""
    found: list[np.ndarray] = []
    for rows, counts, block in index.token_search.products(queries):
        assert rows.start == len(found)
        assert len(rows) == len(counts)
        assert block.shape == (counts.sum(), len(queries))
        found += np.split(block, np.cumsum(counts)[:-1])
    return found


@pytest.mark.parametrize("block_bytes", [1, 16 * 9, 1 << 20])
def test_every_token_is_there_in_its_place(tmp_path, monkeypatch, block_bytes):
    records = make_records(20)
    records[3] = [make_row(3, labels=[False] * 5)]  # windows without a label
    records[19] = [make_row(4, labels=[False] * 6)]
    write_index(tmp_path / "i", records)
    monkeypatch.setattr(token_search, "_BLOCK_BYTES", block_bytes)
    with Index.open(tmp_path / "i") as index:
        right = stored(index)
        found = products(index, np.eye(4))
        assert len(found) == len(right) == len(index)
        every = np.concatenate(right)
        half_a_step = (every.max(0) - every.min(0)) / 15 / 2
        for ours, theirs in zip(found, right, strict=True):
            assert (np.abs(ours - theirs) <= half_a_step * (1 + 1e-5) + 1e-7).all()
        queries = np.random.default_rng(0).standard_normal((3, 4))
        decoded = np.concatenate(found)
        np.testing.assert_allclose(
            np.concatenate(products(index, queries)), decoded @ queries.T, rtol=1e-4, atol=1e-5
        )


def test_it_is_a_file_of_faiss(tmp_path):
    write_index(tmp_path / "i", make_records(8))
    with Index.open(tmp_path / "i") as index:
        (first,) = products(index, np.eye(4))[:1]
        theirs = faiss.read_index(str(tmp_path / "i/tokens.faiss"))
        assert theirs.ntotal == index.manifest.totals.label_tokens
        np.testing.assert_array_equal(theirs.reconstruct_n(0, len(first)), first)


@pytest.mark.parametrize("sample", [5, 1 << 16])
def test_the_same_rows_give_the_same_file(tmp_path, monkeypatch, sample):
    """Whether interrupted or not, and also where FAISS must build it in memory."""
    monkeypatch.setattr(token_search, "SAMPLE", sample)
    records = make_records(9)
    write_index(tmp_path / "a", records)
    with open_writer(tmp_path / "b") as writer:
        for number in range(4):
            writer.append_record(records[number], cursor=number + 1)
    write_index(tmp_path / "b", records)
    monkeypatch.setattr(faiss_file, "_header", lambda empty, a_row, count: None)
    write_index(tmp_path / "c", records)
    made = {contents(tmp_path / name)["tokens.faiss"] for name in ("a", "b", "c")}
    assert len(made) == 1


def test_the_sample_is_a_part_of_the_tokens(monkeypatch):
    monkeypatch.setattr(token_search, "SAMPLE", 7)
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    cuts = [rows[:3], rows[3:3], rows[3:15], rows[15:]]
    sample = token_search._sample(20, cuts)
    assert len({tuple(row) for row in sample}) == 7
    assert {tuple(row) for row in sample} <= {tuple(row) for row in rows}
    np.testing.assert_array_equal(token_search._sample(20, [rows]), sample)


def test_a_single_token(tmp_path):
    write_index(tmp_path / "i", [[make_row(0)]])
    with Index.open(tmp_path / "i") as index:
        (found,) = products(index, np.eye(4))
        np.testing.assert_allclose(found, stored(index)[0], rtol=1e-6)


def test_indexes_without(tmp_path):
    none = settings(token_vectors=0)
    write_index(tmp_path / "none", make_records(3, none), none)
    write_index(tmp_path / "no-label", [[make_row(3, labels=[False] * 5)]])
    write_index(tmp_path / "earlier", make_records(3))
    manifest = tmp_path / "earlier/manifest.json"
    content = json.loads(manifest.read_text())
    del content["token_faiss"]  # as earlier versions wrote it
    manifest.write_text(json.dumps(content))
    for name in ("none", "no-label", "earlier"):
        with Index.open(tmp_path / name) as index:
            assert index.token_search is None


@pytest.mark.parametrize("bad", [np.ones((2, 3)), np.full((1, 4), np.nan)])
def test_queries_that_do_not_fit_are_refused(tmp_path: Path, bad):
    write_index(tmp_path / "i", make_records(3))
    with Index.open(tmp_path / "i") as index, pytest.raises(ValueError, match="4 finite"):
        products(index, bad)
