"""Reading an index: random access, columns, and the shortlist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from haiftrace.errors import IndexStoreError
from haiftrace.store import Index, WindowRow, faiss_file
from haiftrace.store import shortlist as shortlist_module
from tests.store_samples import (
    assert_same,
    contents,
    make_records,
    make_row,
    quick_fsync,  # noqa: F401 (autouse)
    settings,
    write_index,
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[WindowRow]]:
    """40 windows of 8 shards; token rows in several row groups."""
    config = settings(projection_dim=16, vector_dtype="float32", extra_columns=["norm"])
    records = make_records(30, config)
    length = 700
    rng = np.random.default_rng(0)
    for number in (4, 5, 20):
        records[number] = [
            make_row(
                number,
                config,
                token_ids=list(range(length)),
                offsets=[(i, i + 1) for i in range(length)],
                labels=[i % 7 != 0 for i in range(length)],
                token_loss=rng.random(length).astype(np.float32),
                token_grad_norm=rng.random(length),
                token_vectors=rng.standard_normal((length, 4)).astype(np.float16),
            )
        ]
    path = tmp_path_factory.mktemp("wide") / "i"
    write_index(path, records, config, shard_rows=5)
    return path, [row for record in records for row in record]


def test_random_access_in_any_order(wide: tuple[Path, list[WindowRow]]) -> None:
    path, rows = wide
    config = settings(vector_dtype="float32")
    with Index.open(path) as index:
        order = np.random.default_rng(1).permutation(len(rows))
        wanted = [*order, order[0], order[0]]
        windows = list(index.iter_windows(wanted, vectors=True, token_vectors=True))
        assert [w.row for w in windows] == wanted
        for stored in windows:
            assert_same(stored, rows[stored.row], config)
        light = next(index.iter_windows([3]))
        assert light.vector is None
        assert light.token_vectors is None
        assert list(index.iter_windows([])) == []
        for bad in (-1, len(rows)):
            with pytest.raises(IndexError):
                list(index.iter_windows([bad]))


def test_token_vectors_are_read_only_where_asked(
    wide: tuple[Path, list[WindowRow]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = wide
    read: list[tuple[str, tuple[str, ...], int | None]] = []
    whole, group = pq.ParquetFile.read, pq.ParquetFile.read_row_group
    opened = pq.ParquetFile.__init__

    def spy_open(self: Any, source: Any, **options: Any) -> None:
        opened(self, source, **options)
        self.spied = str(Path(source).relative_to(path))

    def spy_read(self: Any, columns: list[str], **options: Any) -> Any:
        read.append((self.spied, tuple(columns), None))
        return whole(self, columns=columns, **options)

    def spy_group(self: Any, number: int, columns: list[str], **options: Any) -> Any:
        read.append((self.spied, tuple(columns), number))
        return group(self, number, columns=columns, **options)

    index = Index.open(path, verify=False)
    monkeypatch.setattr(pq.ParquetFile, "__init__", spy_open)
    monkeypatch.setattr(pq.ParquetFile, "read", spy_read)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy_group)
    list(index.iter_windows())
    assert not [item for item in read if "vector" in item[1]]
    assert len({item[0] for item in read}) == len(read)  # each file once
    read.clear()
    list(index.iter_windows([7, 8], token_vectors=True))
    vectors = [item for item in read if "vector" in item[1]]
    assert vectors
    assert all(name == "tokens/00001.parquet" and n is not None for name, _, n in vectors)


def test_shortlist_and_products_agree_with_numpy(wide: tuple[Path, list[WindowRow]]) -> None:
    path, rows = wide
    query = np.random.default_rng(2).standard_normal(16).astype(np.float32)
    expected = np.stack([row.vector for row in rows]) @ query
    with Index.open(path) as index:
        products = index.vectors_inner_products(query)
        assert products.dtype == np.float32
        np.testing.assert_allclose(products, expected, rtol=1e-5, atol=1e-6)
        found, values = index.shortlist(query, 7)
        assert found.dtype == np.int64
        assert values.dtype == np.float32
        np.testing.assert_array_equal(found, np.argsort(-expected)[:7])
        np.testing.assert_allclose(values, expected[found], rtol=1e-5, atol=1e-6)
        everything, _ = index.shortlist(query, 10_000)
        assert sorted(everything) == list(range(len(rows)))
        for bad in (query[:3], np.full(16, np.nan)):
            with pytest.raises(ValueError, match="finite"):
                index.shortlist(bad, 3)
        with pytest.raises(ValueError, match="k must"):
            index.shortlist(query, 0)


def test_equal_products_are_in_row_order(tmp_path: Path) -> None:
    same = make_row(0).vector
    write_index(tmp_path / "i", [[make_row(n, vector=same)] for n in range(7)])
    rows, _ = Index.open(tmp_path / "i").shortlist(same, 7)
    assert rows.tolist() == list(range(7))


def test_search_index_is_the_same_where_faiss_must_build_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_index(tmp_path / "a", make_records(6))
    monkeypatch.setattr(faiss_file, "_header", lambda empty, a_row, count: None)
    write_index(tmp_path / "b", make_records(6))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_products_in_several_blocks(
    wide: tuple[Path, list[WindowRow]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rows = wide
    monkeypatch.setattr(shortlist_module, "_BLOCK_BYTES", 4 * 16 * 7)
    products = Index.open(path).vectors_inner_products(rows[11].vector)
    assert products.shape == (len(rows),)
    assert products.argmax() == 11


def test_columns(wide: tuple[Path, list[WindowRow]]) -> None:
    path, rows = wide
    index = Index.open(path)
    for name in ("loss", "grad_norm", "haif_norm", "start", "window", "windows"):
        np.testing.assert_array_equal(index.column(name), [getattr(r, name) for r in rows])
    np.testing.assert_array_equal(index.column("length"), [len(r.token_ids) for r in rows])
    np.testing.assert_array_equal(index.column("label_count"), [sum(r.labels) for r in rows])
    np.testing.assert_array_equal(index.column("norm"), [r.extra["norm"] for r in rows])
    assert index.column("record").max() == 29
    for name in ("text", "vector", "nothing"):
        with pytest.raises(KeyError):
            index.column(name)


def test_token_vectors_that_are_not_there(tmp_path: Path) -> None:
    config = settings(token_vectors=0)
    write_index(tmp_path / "i", make_records(1, config), config)
    with pytest.raises(IndexStoreError, match="no token vectors") as caught:
        list(Index.open(tmp_path / "i").iter_windows(token_vectors=True))
    assert "--token-vectors" in caught.value.hint


def test_opening_what_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexStoreError, match="There is no index") as caught:
        Index.open(tmp_path / "nothing")
    assert "haiftrace index" in caught.value.hint
    with pytest.raises(IndexStoreError, match="is not an index"):
        Index.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(IndexStoreError, match="is not an index"):
        Index.open(tmp_path / "file")
