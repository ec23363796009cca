"""Reading an index: random access, each file once, columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from haiftrace.errors import IndexStoreError
from haiftrace.store import Index, WindowRow
from tests.store.store_samples import (
    assert_same,
    label_vectors,
    make_records,
    make_row,
    quick_fsync,  # noqa: F401 (autouse)
    write_index,
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[WindowRow]]:
    """40 windows of 8 shards; vectors of tokens in several row groups."""
    records = make_records(30)
    length = 700
    rng = np.random.default_rng(0)
    for number in (4, 5, 20):
        records[number] = [
            make_row(
                number,
                token_ids=list(range(length)),
                offsets=[(i, i + 1) for i in range(length)],
                labels=[i % 7 != 0 for i in range(length)],
                token_loss=rng.random(length).astype(np.float32),
                token_grad_norm=rng.random(length),
                token_codes=rng.integers(0, 256, (length, 1), np.uint8),
            )
        ]
    path = tmp_path_factory.mktemp("wide") / "i"
    write_index(path, records, shard_rows=5)
    return path, [row for record in records for row in record]


def test_random_access_in_any_order(wide: tuple[Path, list[WindowRow]]) -> None:
    path, rows = wide
    with Index.open(path) as index:
        order = np.random.default_rng(1).permutation(len(rows))
        row_numbers = [*order, order[0], order[0]]
        windows = list(index.iter_windows(row_numbers))
        assert [w.row for w in windows] == row_numbers
        for stored in windows:
            assert_same(stored, rows[stored.row])
        assert list(index.iter_windows([])) == []
        for bad in (-1, len(rows)):
            with pytest.raises(IndexError):
                list(index.iter_windows([bad]))


def test_each_file_is_read_once(
    wide: tuple[Path, list[WindowRow]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = wide
    read: list[str] = []
    opened = pq.ParquetFile.__init__

    def spy_open(self: Any, source: Any, **options: Any) -> None:
        opened(self, source, **options)
        read.append(str(Path(source).relative_to(path)))

    index = Index.open(path, verify=False)
    monkeypatch.setattr(pq.ParquetFile, "__init__", spy_open)
    list(index.iter_windows())
    assert read == [f"records/{number:05d}.parquet" for number in range(8)]


def test_token_vectors_come_in_order_from_every_row_group(
    wide: tuple[Path, list[WindowRow]],
) -> None:
    path, rows = wide
    with Index.open(path) as index:
        blocks = [block for _, _, block in index.token_search.products(np.eye(8))]
        np.testing.assert_array_equal(np.concatenate(blocks), label_vectors(rows))


def test_losses_of_all_labels(wide: tuple[Path, list[WindowRow]]) -> None:
    path, rows = wide
    right = [row.token_loss[np.array(row.labels)] for row in rows]
    with Index.open(path) as index:
        losses = np.concatenate([each for each, _ in index.label_losses()])
        assert losses.dtype == np.float32
        np.testing.assert_array_equal(losses, np.concatenate(right))
        assert len(losses) == index.column("label_count").sum()


def test_columns(wide: tuple[Path, list[WindowRow]]) -> None:
    path, rows = wide
    index = Index.open(path)
    for name in ("loss", "start", "window", "windows"):
        np.testing.assert_array_equal(index.column(name), [getattr(r, name) for r in rows])
    np.testing.assert_array_equal(index.column("length"), [len(r.token_ids) for r in rows])
    np.testing.assert_array_equal(index.column("label_count"), [sum(r.labels) for r in rows])
    assert index.column("record").max() == 29
    for name in ("text", "token_loss", "nothing"):
        with pytest.raises(KeyError):
            index.column(name)


def test_opening_what_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexStoreError, match="There is no index") as caught:
        Index.open(tmp_path / "nothing")
    assert "haiftrace index" in caught.value.hint
    with pytest.raises(IndexStoreError, match="is not an index"):
        Index.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(IndexStoreError, match="is not an index"):
        Index.open(tmp_path / "file")
