"""The store: what goes in comes out, and what is in the way stays untouched."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from haiftrace.errors import IndexStoreError
from haiftrace.store import Index, WindowRow
from tests.store.store_samples import (
    FINGERPRINTS,
    SETTINGS,
    assert_same,
    make_records,
    make_row,
    open_writer,
    quick_fsync,  # noqa: F401 (autouse)
    settings,
    write_index,
)

# Round trip


@pytest.mark.parametrize("dim", [0, 8])
def test_everything_comes_back_as_it_was(tmp_path: Path, dim: int) -> None:
    config = settings(token_vectors=dim)
    records = make_records(8, config)
    write_index(tmp_path / "i", records, config)
    rows = [row for record in records for row in record]
    with Index.open(tmp_path / "i") as index:
        assert len(index) == len(rows) == 10
        windows = list(index.iter_windows())
        assert [w.row for w in windows] == list(range(10))
        assert [w.record for w in windows] == [0, 1, 2, 2, 3, 4, 5, 5, 6, 7]
        for stored, row in zip(windows, rows, strict=True):
            assert_same(stored, row)


def test_odd_windows_come_back(tmp_path: Path) -> None:
    odd = [
        make_row(1, line=None, text="", id=""),
        make_row(0),  # two tokens, one label
        make_row(3, labels=[False] * 5),  # no label at all
        make_row(4, labels=[True] * 6),
        make_row(5, loss=0.0, token_codes=np.zeros((7, 1), np.uint8)),  # A(0) = 0
        make_row(6, token_ids=[7], offsets=[(0, 1)], labels=[True], token_loss=np.ones(1),
                 token_grad_norm=np.ones(1), token_codes=np.ones((1, 1), np.uint8)),
    ]  # fmt: skip
    write_index(tmp_path / "i", [[row] for row in odd])
    index = Index.open(tmp_path / "i")
    for stored, row in zip(index.iter_windows(), odd, strict=True):
        assert_same(stored, row)
    assert index.manifest.totals.label_tokens == sum(sum(row.labels) for row in odd)


finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def window_rows(draw: st.DrawFn) -> WindowRow:
    length = draw(st.integers(1, 5))
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    small = st.floats(-1e3, 1e3, width=32)
    pair = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))

    def each(element: st.SearchStrategy[Any], count: int = length) -> list[Any]:
        return draw(st.lists(element, min_size=count, max_size=count))

    return WindowRow(
        id=draw(text),
        path=draw(text),
        line=draw(st.none() | st.integers(1, 2**40)),
        start=draw(st.integers(0, 2**40)),
        window=draw(st.integers(0, 2**31 - 1)),
        windows=draw(st.integers(1, 2**31 - 1)),
        text=draw(text),
        token_ids=each(st.integers(0, 2**31 - 1)),
        offsets=each(pair),
        labels=each(st.booleans()),
        loss=draw(finite),
        token_loss=np.array(each(small), dtype=np.float32),
        token_grad_norm=np.array(each(small)),
        token_codes=np.array(each(st.integers(0, 255)), dtype=np.uint8)[:, None],
    )


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(window_rows(), min_size=1, max_size=3), min_size=1, max_size=5))
def test_any_windows_come_back(records: list[list[WindowRow]]) -> None:
    config = settings(token_vectors=8)
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder) / "i", records, config, shard_rows=2)
        with Index.open(Path(folder) / "i") as index:
            flat = [row for record in records for row in record]
            for stored, row in zip(index.iter_windows(), flat, strict=True):
                assert_same(stored, row)


def test_files_are_what_the_design_says(tmp_path: Path) -> None:
    records = make_records(4)
    write_index(tmp_path / "i", records)
    table = pq.read_table(tmp_path / "i/records/00000.parquet")
    assert table.num_rows == 4  # three were asked for, the last record has two windows
    for name in ("token_loss", "token_norm"):
        assert table.schema.field(name).type.value_type == pa.float32()
    second = pq.read_table(tmp_path / "i/records/00001.parquet").to_pydict()
    assert second["token_ids"] == [records[3][0].token_ids]
    assert second["label_count"] == [len(second["token_loss"][0])]
    content = json.loads((tmp_path / "i/manifest.json").read_text())
    assert content["format_version"] == 4
    assert content["complete"] is True
    assert content["settings"] == SETTINGS
    assert content["fingerprints"] == FINGERPRINTS
    assert content["totals"]["records"] == 4
    assert content["totals"]["windows"] == 5
    assert [shard["records"]["rows"] for shard in content["shards"]] == [4, 1]
    assert [shard["cursor"] for shard in content["shards"]] == [3, 4]
    assert not (tmp_path / "i/tokens").exists()
    searched = faiss.read_index_binary(str(tmp_path / "i/tokens.faiss"))
    assert searched.ntotal == sum(sum(row.labels) for record in records for row in record)


def test_directory_and_files_are_private(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir(mode=0o755)
    previous = os.umask(0)
    try:
        write_index(tmp_path / "i", make_records(4))
    finally:
        os.umask(previous)
    for path in [tmp_path / "i", *(tmp_path / "i").rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_shards_break_between_records(tmp_path: Path) -> None:
    three = [make_row(n, windows=3, window=n) for n in range(3)]
    write_index(tmp_path / "a", [three, three], shard_rows=2)
    sizes = [s.records.rows for s in Index.open(tmp_path / "a").manifest.shards]
    assert sizes == [3, 3]


def test_import_is_light() -> None:
    code = (
        "import sys, haiftrace.store\n"
        "assert not {'torch', 'faiss', 'pyarrow'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# What must not enter


def test_refused_rows_leave_no_trace(tmp_path: Path) -> None:
    records = make_records(2)
    nan = make_row(50, text="secret", path="corpus.jsonl", line=51, loss=math.nan)
    overflow = make_row(2)
    overflow.token_grad_norm[1] = 1e39  # too large for float32
    token = make_row(2)
    token.token_loss[1] = math.inf
    ignored = make_row(4)
    ignored.token_grad_norm[0] = math.nan  # no label: not looked at
    surrogate = make_row(53, text="\ud800")
    with open_writer(tmp_path / "i", shard_rows=100) as writer:
        writer.append_record(records[0])
        with pytest.raises(IndexStoreError, match=r"corpus\.jsonl:51") as caught:
            writer.append_record([nan])
        assert "secret" not in caught.value.message + caught.value.hint
        for row in (overflow, token):
            with pytest.raises(IndexStoreError, match="not a finite"):
                writer.append_record([row])
        with pytest.raises(IndexStoreError, match="surrogate"):
            writer.append_record([surrogate])
        writer.append_record([ignored])
        writer.finish()
    assert len(Index.open(tmp_path / "i")) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"labels": [True]},
        {"offsets": []},
        {"token_loss": np.zeros(3)},
        {"token_grad_norm": np.zeros(1)},
        {"token_codes": None},
        {"token_codes": np.zeros((2, 3), np.uint8)},
    ],
)
def test_rows_of_another_shape_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with (
        open_writer(tmp_path / "i") as writer,
        pytest.raises(ValueError, match=next(iter(change))),
    ):
        writer.append_record([make_row(0, **change)])


@pytest.mark.parametrize(
    "change",
    [
        {"token_vectors": -1},
        {"token_vectors": True},
        {"token_vectors": 12},
        {"token_vectors": None},
        {"damping": math.nan},
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        open_writer(tmp_path / "i", settings(**change))
    assert not (tmp_path / "i").exists()


def test_a_record_has_a_window(tmp_path: Path) -> None:
    with open_writer(tmp_path / "i") as writer, pytest.raises(ValueError, match="window"):
        writer.append_record([])


def test_an_empty_index_cannot_be_finished(tmp_path: Path) -> None:
    with open_writer(tmp_path / "i") as writer, pytest.raises(IndexStoreError, match="no record"):
        writer.finish()
    with pytest.raises(IndexStoreError, match="unfinished"):
        Index.open(tmp_path / "i")


def test_finished_and_closed_writers_take_nothing(tmp_path: Path) -> None:
    with open_writer(tmp_path / "i") as writer:
        writer.append_record([make_row(0)])
        totals = writer.finish({"note": "n", "seconds": 1.5})
        assert (totals.records, totals.windows, totals.label_tokens) == (1, 1, 1)
        with pytest.raises(ValueError, match="complete"):
            writer.keep_extra({})
    with open_writer(tmp_path / "i") as writer:
        assert writer.already_complete
        with pytest.raises(ValueError, match="complete"):
            writer.finish()
    manifest = Index.open(tmp_path / "i").manifest
    assert manifest.extra == {"note": "n", "seconds": 1.5}
    assert manifest.finished is not None
