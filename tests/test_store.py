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
from haiftrace.store import Index, IndexWriter, WindowRow
from tests.store_samples import (
    FINGERPRINTS,
    SETTINGS,
    assert_same,
    contents,
    make_records,
    make_row,
    open_writer,
    quick_fsync,  # noqa: F401 (autouse)
    settings,
    write_index,
)

# Round trip


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("dim", [0, 4])
def test_everything_comes_back_as_it_was(tmp_path: Path, dtype: str, dim: int) -> None:
    config = settings(vector_dtype=dtype, token_vectors=dim, extra_columns=["ekfac_norm"])
    records = make_records(8, config)
    write_index(tmp_path / "i", records, config)
    rows = [row for record in records for row in record]
    with Index.open(tmp_path / "i") as index:
        assert len(index) == len(rows) == 10
        windows = list(index.iter_windows(vectors=True, token_vectors=dim > 0))
        assert [w.row for w in windows] == list(range(10))
        assert [w.record for w in windows] == [0, 1, 2, 2, 3, 4, 5, 5, 6, 7]
        for stored, row in zip(windows, rows, strict=True):
            assert_same(stored, row, config)


def test_odd_windows_come_back(tmp_path: Path) -> None:
    odd = [
        make_row(1, line=None, text="", id=""),
        make_row(0),  # two tokens, one label
        make_row(3, labels=[False] * 5),  # no label at all
        make_row(4, labels=[True] * 6),
        make_row(5, loss=0.0, vector=np.zeros(8, np.float32)),  # A(0) = 0
        make_row(6, token_ids=[7], offsets=[(0, 1)], labels=[True], token_loss=np.ones(1),
                 token_grad_norm=np.ones(1), token_vectors=np.ones((1, 4))),
    ]  # fmt: skip
    write_index(tmp_path / "i", [[row] for row in odd])
    index = Index.open(tmp_path / "i")
    windows = index.iter_windows(vectors=True, token_vectors=True)
    for stored, row in zip(windows, odd, strict=True):
        assert_same(stored, row, SETTINGS)
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
        grad_norm=draw(finite),
        haif_norm=draw(finite),
        vector=np.array(each(small, 3), dtype=np.float32),
        token_loss=np.array(each(small), dtype=np.float32),
        token_grad_norm=np.array(each(finite)),
        token_vectors=np.array(each(small, 2 * length), dtype=np.float16).reshape(length, 2),
    )


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(window_rows(), min_size=1, max_size=3), min_size=1, max_size=5))
def test_any_windows_come_back(records: list[list[WindowRow]]) -> None:
    config = settings(projection_dim=3, token_vectors=2, vector_dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder) / "i", records, config, shard_rows=2)
        with Index.open(Path(folder) / "i") as index:
            windows = index.iter_windows(vectors=True, token_vectors=True)
            flat = [row for record in records for row in record]
            for stored, row in zip(windows, flat, strict=True):
                assert_same(stored, row, config)


def test_files_are_what_the_design_says(tmp_path: Path) -> None:
    records = make_records(4)
    write_index(tmp_path / "i", records)
    table = pq.read_table(tmp_path / "i/records/00000.parquet")
    assert table.num_rows == 4  # three were asked for, the last record has two windows
    assert table.schema.field("vector").type.list_size == 8
    assert table.schema.field("vector").type.value_type == pa.float16()
    tokens = pq.read_table(tmp_path / "i/tokens/00001.parquet").to_pydict()
    row = records[3][0]
    count = sum(row.labels)
    assert tokens["row"] == [4] * count
    assert tokens["position"] == list(range(1, count + 1))
    assert tokens["token_id"] == row.token_ids[1:]
    content = json.loads((tmp_path / "i/manifest.json").read_text())
    assert content["format_version"] == 2
    assert content["complete"] is True
    assert content["settings"] == SETTINGS
    assert content["fingerprints"] == FINGERPRINTS
    assert content["totals"]["records"] == 4
    assert content["totals"]["windows"] == 5
    assert [shard["records"]["rows"] for shard in content["shards"]] == [4, 1]
    assert [shard["cursor"] for shard in content["shards"]] == [3, 4]
    assert faiss.read_index(str(tmp_path / "i/records.faiss")).ntotal == 5


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


def test_shards_break_between_records_and_at_the_byte_bound(tmp_path: Path) -> None:
    three = [make_row(n, windows=3, window=n) for n in range(3)]
    write_index(tmp_path / "a", [three, three], shard_rows=2)
    sizes = [s.records.rows for s in Index.open(tmp_path / "a").manifest.shards]
    assert sizes == [3, 3]
    write_index(tmp_path / "b", make_records(4), shard_rows=100, shard_bytes=1)
    assert len(Index.open(tmp_path / "b").manifest.shards) == 4


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
    infinite = make_row(51, vector=np.full(8, np.inf, np.float32))
    overflow = make_row(52, vector=np.full(8, 1e6, np.float32))  # too large for float16
    token = make_row(2)
    token.token_grad_norm[1] = math.inf
    ignored = make_row(4)
    ignored.token_grad_norm[0] = math.nan  # no label: not looked at
    surrogate = make_row(53, text="\ud800")
    with open_writer(tmp_path / "i", shard_rows=100) as writer:
        writer.append_record(records[0], cursor=1)
        with pytest.raises(IndexStoreError, match=r"corpus\.jsonl:51") as caught:
            writer.append_record([nan], cursor=2)
        assert "secret" not in caught.value.message + caught.value.hint
        with np.errstate(over="ignore"):
            for row in (infinite, overflow, token):
                with pytest.raises(IndexStoreError, match="not a finite"):
                    writer.append_record([row], cursor=2)
        with pytest.raises(IndexStoreError, match="surrogate"):
            writer.append_record([surrogate], cursor=2)
        writer.append_record([ignored], cursor=2)
        writer.finish()
    assert len(Index.open(tmp_path / "i")) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"vector": np.zeros(7)},
        {"labels": [True]},
        {"offsets": []},
        {"token_loss": np.zeros(3)},
        {"token_grad_norm": np.zeros(1)},
        {"token_vectors": None},
        {"token_vectors": np.zeros((2, 3))},
        {"extra": {"norm": 1.0}},
    ],
)
def test_rows_of_another_shape_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with (
        open_writer(tmp_path / "i") as writer,
        pytest.raises(ValueError, match=next(iter(change))),
    ):
        writer.append_record([make_row(0, **change)], cursor=1)


@pytest.mark.parametrize(
    "change",
    [
        {"projection_dim": 0},
        {"projection_dim": True},
        {"vector_dtype": "float64"},
        {"token_vectors": -1},
        {"token_vectors": None},
        {"extra_columns": ["loss"]},
        {"extra_columns": ["line"]},
        {"extra_columns": ["a", "a"]},
        {"extra_columns": "norm"},
        {"damping": math.nan},
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        open_writer(tmp_path / "i", settings(**change))
    assert not (tmp_path / "i").exists()


def test_cursor_must_advance(tmp_path: Path) -> None:
    with open_writer(tmp_path / "i") as writer:
        writer.append_record([make_row(0)], cursor=4)
        with pytest.raises(ValueError, match="cursor"):
            writer.append_record([make_row(1)], cursor=4)
        with pytest.raises(ValueError, match="cursor"):
            writer.flush(cursor=3)
        with pytest.raises(ValueError, match="window"):
            writer.append_record([], cursor=5)
        writer.flush(cursor=9)
        assert writer.resume_after.cursor == 9
        assert writer.resume_after.windows == 1


def test_an_empty_index_cannot_be_finished(tmp_path: Path) -> None:
    with open_writer(tmp_path / "i") as writer, pytest.raises(IndexStoreError, match="no record"):
        writer.finish()
    with pytest.raises(IndexStoreError, match="unfinished"):
        Index.open(tmp_path / "i")


def test_finished_and_closed_writers_take_nothing(tmp_path: Path) -> None:
    with open_writer(tmp_path / "i") as writer:
        writer.append_record([make_row(0)], cursor=1)
        totals = writer.finish({"note": "n", "seconds": 1.5})
        assert (totals.records, totals.windows, totals.label_tokens) == (1, 1, 1)
        with pytest.raises(ValueError, match="complete"):
            writer.append_record([make_row(1)], cursor=2)
    with open_writer(tmp_path / "i") as writer:
        assert writer.already_complete
        with pytest.raises(ValueError, match="complete"):
            writer.finish()
    manifest = Index.open(tmp_path / "i").manifest
    assert manifest.extra == {"note": "n", "seconds": 1.5}
    assert manifest.finished is not None


# Other directories


def test_a_foreign_directory_is_never_touched(tmp_path: Path) -> None:
    for overwrite in (False, True):
        for name, text in [("thesis.txt", "x"), ("manifest.json", '{"name": "web app"}')]:
            place = tmp_path / f"{name}-{overwrite}"
            place.mkdir()
            (place / name).write_text(text)
            with pytest.raises(IndexStoreError, match=r"not (an index|written by)") as caught:
                open_writer(place, overwrite=overwrite)
            assert "-o" in caught.value.hint
            assert [p.name for p in place.iterdir()] == [name]
            assert (place / name).read_text() == text
    (tmp_path / "file").write_text("x")
    with pytest.raises(IndexStoreError, match="not a directory"):
        open_writer(tmp_path / "file", overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(IndexStoreError, match="not a directory"):
        open_writer(tmp_path / "link")


def test_overwrite_removes_our_files_only(tmp_path: Path) -> None:
    place = tmp_path / "i"
    write_index(place, make_records(9))
    (place / "notes.txt").write_text("mine")
    (place / "records/readme.parquet").write_text("mine too")
    other = settings(projection_dim=5)
    before = contents(place)
    with pytest.raises(IndexStoreError, match="projection_dim 8 there and 5 now") as caught:
        open_writer(place, other)
    assert "--overwrite" in caught.value.hint
    assert contents(place) == before
    Index.open(place)

    write_index(place, make_records(2, other), other, overwrite=True)
    assert sorted(contents(place)) == [
        "notes.txt",
        "records.faiss",
        "records/00000.parquet",
        "records/readme.parquet",
        "tokens.faiss",
        "tokens/00000.parquet",
    ]
    assert len(Index.open(place)) == 2


def test_other_fingerprints_are_another_index(tmp_path: Path) -> None:
    write_index(tmp_path / "i", make_records(2))
    with pytest.raises(IndexStoreError, match="other corpus"):
        IndexWriter.create_or_resume(tmp_path / "i", SETTINGS, {**FINGERPRINTS, "corpus": "c2"})


def test_overwrite_rebuilds_a_finished_index_and_continues_an_unfinished(tmp_path: Path) -> None:
    records = make_records(9)
    write_index(tmp_path / "i", records)
    with open_writer(tmp_path / "i", overwrite=True) as writer:
        assert not writer.already_complete
        assert writer.resume_after.cursor == 0
        for number in range(5):
            writer.append_record(records[number], cursor=number + 1)
    with open_writer(tmp_path / "i", overwrite=True) as writer:
        assert writer.resume_after.cursor == 5


def test_links_in_the_place_of_our_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/00007.parquet").write_text("mine")
    open_writer(tmp_path / "i").close()
    (tmp_path / "i/records").rmdir()
    (tmp_path / "i/records").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IndexStoreError, match="in the way"):
        open_writer(tmp_path / "i", overwrite=True)
    assert (tmp_path / "elsewhere/00007.parquet").read_text() == "mine"


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.store_samples import open_writer; from pathlib import Path\n"
        "writer = open_writer(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "i")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        for overwrite in (False, True):
            with pytest.raises(IndexStoreError, match="right now"):
                open_writer(tmp_path / "i", overwrite=overwrite)
        child.kill()
    open_writer(tmp_path / "i").close()  # released by the kill


def test_lock_in_one_process(tmp_path: Path) -> None:
    with open_writer(tmp_path / "i") as writer:
        with pytest.raises(IndexStoreError, match="right now"):
            open_writer(tmp_path / "i")
        writer.close()
        writer.close()
        open_writer(tmp_path / "i").close()
