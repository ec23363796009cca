"""tokens.faiss: the signs of what went in come out, in their place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from haiftrace.store import Index, SupplementWriter, WindowRow, faiss_file, token_search
from haiftrace.store.token_codes import decode_signs
from tests.store.store_samples import (
    contents,
    label_vectors,
    make_records,
    make_row,
    open_writer,
    quick_fsync,  # noqa: F401 (autouse)
    settings,
    write_index,
)


def stored(records: list[list[WindowRow]]) -> list[np.ndarray]:
    """[m, K] the vectors of each window's label tokens, as they wait for the search index."""
    rows = [row for record in records for row in record]
    ends = np.cumsum([sum(row.labels) for row in rows])
    return np.split(label_vectors(rows).astype(float), ends[:-1])


def products(index: Index, queries: np.ndarray) -> list[np.ndarray]:
    """[m, Q] a window, by following the blocks."""
    blocks: list[np.ndarray] = []
    for rows, counts, block in index.token_search.products(queries):
        assert rows.start == len(blocks)
        assert len(rows) == len(counts)
        assert block.shape == (counts.sum(), len(queries))
        blocks += np.split(block, np.cumsum(counts)[:-1])
    return blocks


@pytest.mark.parametrize("block_tokens", [1, 9, 1 << 12])
def test_every_token_is_there_in_its_place(tmp_path, monkeypatch, block_tokens):
    records = make_records(20)
    records[3] = [make_row(3, labels=[False] * 5)]  # windows without a label
    records[19] = [make_row(4, labels=[False] * 6)]
    write_index(tmp_path / "i", records)
    monkeypatch.setattr(token_search, "_BLOCK_TOKENS", block_tokens)
    with Index.open(tmp_path / "i") as index:
        right = stored(records)
        blocks = products(index, np.eye(8))
        assert len(blocks) == len(right) == len(index)
        for ours, theirs in zip(blocks, right, strict=True):
            assert ((ours > 0) == (theirs > 0)).all()
        queries = np.random.default_rng(0).standard_normal((3, 8))
        np.testing.assert_allclose(
            np.concatenate(products(index, queries)),
            np.concatenate(blocks) @ queries.T,
            rtol=1e-4,
            atol=1e-5,
        )


def test_it_is_a_file_of_faiss(tmp_path):
    write_index(tmp_path / "i", make_records(8))
    with Index.open(tmp_path / "i") as index:
        (first,) = products(index, np.eye(8))[:1]
        theirs = faiss.read_index_binary(str(tmp_path / "i/tokens.faiss"))
        assert theirs.ntotal == index.manifest.totals.label_tokens
        np.testing.assert_array_equal(decode_signs(theirs.reconstruct_n(0, len(first))), first)


def test_the_same_rows_give_the_same_file(tmp_path, monkeypatch):
    """Whether interrupted or not, and also where FAISS must build it in memory."""
    records = make_records(9)
    write_index(tmp_path / "a", records)
    with open_writer(tmp_path / "b") as writer:
        for number in range(3):  # a shard
            writer.append_record(records[number])
    write_index(tmp_path / "b", records)
    monkeypatch.setattr(faiss_file, "_header", lambda empty, count: None)
    write_index(tmp_path / "c", records)
    made = {contents(tmp_path / name)["tokens.faiss"] for name in ("a", "b", "c")}
    assert len(made) == 1


def test_a_single_token(tmp_path):
    records = [[make_row(0)]]
    write_index(tmp_path / "i", records)
    with Index.open(tmp_path / "i") as index:
        (blocks,) = products(index, np.eye(8))
        np.testing.assert_array_equal(blocks > 0, stored(records)[0] > 0)


def test_indexes_without(tmp_path):
    none = settings(token_vectors=0)
    write_index(tmp_path / "none", make_records(3, none), none)
    write_index(tmp_path / "no-label", [[make_row(3, labels=[False] * 5)]])
    for name in ("none", "no-label"):
        with Index.open(tmp_path / name) as index:
            assert index.token_search is None


@pytest.mark.parametrize("bad", [np.ones((2, 3)), np.full((1, 4), np.nan)])
def test_queries_that_do_not_fit_are_refused(tmp_path: Path, bad):
    write_index(tmp_path / "i", make_records(3))
    with Index.open(tmp_path / "i") as index, pytest.raises(ValueError, match="8 finite"):
        products(index, bad)


@pytest.mark.parametrize("removed", [0, 2])
@pytest.mark.parametrize("again", [open_writer, SupplementWriter])
def test_vectors_that_a_kill_left_behind_belong_to_nothing(
    tmp_path: Path, removed: int, again: Callable[[Path], Any]
) -> None:
    """Between the manifest that names the search index and the end of the removal."""
    path, records = tmp_path / "i", make_records(8)  # 3 shards
    write_index(tmp_path / "whole", records)
    unlink, left = os.unlink, [removed]

    def stopped(file: Any, **options: Any) -> None:
        if ".parquet" in str(file):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        unlink(file, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "unlink", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_index(path, records)
    assert len(list((path / "tokens").iterdir())) == 3 - removed
    with Index.open(path) as index:
        assert len(list(index.iter_windows())) == 10
        assert index.token_search is not None
    again(path).close()
    assert not (path / "tokens").exists()
    assert contents(path) == contents(tmp_path / "whole")
    assert len(Index.open(path)) == 10
