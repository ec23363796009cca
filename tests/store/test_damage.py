"""The store under damage: broken files are found, named, and never read as if they were intact."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haiftrace.errors import IndexStoreError
from haiftrace.store import Index
from haiftrace.store.durable import new_attempt, staged_name, temporary_name
from haiftrace.store.manifest import digest_of
from tests.store.store_samples import (
    contents,
    make_records,
    open_writer,
    quick_fsync,  # noqa: F401 (autouse)
    settings,
    write_index,
)

RECORDS = make_records(8)  # 10 windows in 3 shards
FILES = ("records/00001.parquet", "tokens.faiss")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an index that was made without interruption."""
    path = tmp_path_factory.mktemp("whole") / "i"
    write_index(path, RECORDS)
    assert len(Index.open(path).manifest.shards) == 3
    return contents(path)


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    else:
        path.write_bytes({"truncated": data[:-9], "longer": data + b"x", "empty": b""}[how])


@pytest.mark.parametrize("how", ["missing", "flipped", "truncated", "longer", "empty"])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_and_named(tmp_path: Path, name: str, how: str) -> None:
    write_index(tmp_path / "i", RECORDS)
    damage(tmp_path / "i" / name, how)
    with pytest.raises(IndexStoreError, match=name) as caught:
        Index.open(tmp_path / "i")
    assert "--overwrite" in caught.value.hint
    if how != "flipped":  # found without reading the file
        with pytest.raises(IndexStoreError, match=name):
            Index.open(tmp_path / "i", verify=False)
        with pytest.raises(IndexStoreError, match=name):
            open_writer(tmp_path / "i")
    write_index(tmp_path / "i", RECORDS, overwrite=True)
    Index.open(tmp_path / "i")


def use_all(index: Index) -> None:
    list(index.iter_windows())
    assert index.token_search is not None
    list(index.token_search.products(np.ones((1, 4))))


def test_unverified_damage_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    for name in FILES:
        path = tmp_path / name.replace("/", "-")
        write_index(path, RECORDS)
        (path / name).write_bytes(bytes((path / name).stat().st_size))
        index = Index.open(path, verify=False)
        with pytest.raises(IndexStoreError, match=name):
            use_all(index)


@pytest.mark.parametrize("name", ["records/00001.parquet", "tokens/00001.parquet"])
@pytest.mark.parametrize("how", ["missing", "flipped", "truncated"])
def test_a_damaged_shard_is_made_again_on_resuming(
    tmp_path: Path, expected: dict[str, bytes], name: str, how: str
) -> None:
    path = tmp_path / "i"
    with open_writer(path) as opened:
        for number in range(8):
            opened.append_record(RECORDS[number])
    damage(path / name, how)
    with open_writer(path) as opened:
        assert opened.discarded_shards == 1
        assert opened.shard_numbers == {0, 2}
        assert opened.totals.windows == 6
    write_index(path, RECORDS)
    assert contents(path) == expected


def test_leftovers_are_removed_and_other_files_are_not(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    path = tmp_path / "i"
    with open_writer(path) as opened:
        opened.append_record(RECORDS[0])
        opened.append_record(RECORDS[1])
        opened.append_record(RECORDS[2])
    ours = ["records/00001.parquet", "tokens/.00001.parquet.tmp", "records.faiss"]
    staged = staged_name(Path("records/00002.parquet"), new_attempt())
    ours += [str(staged), str(temporary_name(staged))]
    ours += [".manifest.json.tmp", "tokens/123456.parquet"]
    ours += ["tokens.faiss", ".tokens.faiss.tmp"]
    for name in [*ours, "records/mine.parquet", "todo.tmp"]:
        (path / name).write_text("x")
    open_writer(path).close()
    left = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert left == {
        *("records/00000.parquet", "tokens/00000.parquet", "manifest.json", ".lock"),
        *("records/mine.parquet", "todo.tmp"),
    }


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit a manifest as if it had been written so: with a digest that fits."""
    content = json.loads((path / "manifest.json").read_text())
    del content["digest"]
    change(content)
    content["digest"] = digest_of(content)
    (path / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"format": "haift', "\x00", "null", "7"])
def test_a_manifest_that_is_not_json(tmp_path: Path, text: str) -> None:
    write_index(tmp_path / "i", RECORDS)
    (tmp_path / "i/manifest.json").write_text(text)
    with pytest.raises(IndexStoreError, match=r"manifest\.json"):
        Index.open(tmp_path / "i")
    before = contents(tmp_path / "i")
    with pytest.raises(IndexStoreError, match=r"manifest\.json"):
        open_writer(tmp_path / "i", overwrite=True)
    assert contents(tmp_path / "i") == before


def test_a_newer_format_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    write_index(tmp_path / "i", RECORDS)
    edited(tmp_path / "i", lambda c: c.update(format_version=5, tool_version="7.0"))
    with pytest.raises(IndexStoreError, match=r"format 5, made by haiftrace 7\.0") as caught:
        Index.open(tmp_path / "i")
    assert "Upgrade" in caught.value.hint
    with pytest.raises(IndexStoreError, match="format 5"):
        open_writer(tmp_path / "i", overwrite=True)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_earlier_format_is_not_read_and_can_be_replaced(tmp_path: Path, version: int) -> None:
    write_index(tmp_path / "i", RECORDS)
    edited(tmp_path / "i", lambda c: c.update(format_version=version, tool_version="0.0"))
    (tmp_path / "i/records.faiss").write_text("of format 2")
    for opened in (Index.open, open_writer):
        with pytest.raises(IndexStoreError, match=rf"format {version}, made by an ear") as caught:
            opened(tmp_path / "i")
        assert "--overwrite" in caught.value.hint
    write_index(tmp_path / "i", RECORDS, overwrite=True)
    assert not (tmp_path / "i/records.faiss").exists()
    with Index.open(tmp_path / "i") as index:
        assert len(index)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("shards"),
        lambda c: c.update(shards=7),
        lambda c: c.update(shards=[None]),
        lambda c: c.update(format_version="1"),
        lambda c: c.update(format_version=0),
        lambda c: c.update(settings={}),
        lambda c: c.update(settings=None),
        lambda c: c.update(token_faiss=None),
        lambda c: c["shards"][0].update(tokens=c["shards"][0]["records"]),
        lambda c: c["shards"][0].pop("tokens"),
        lambda c: c["shards"][0].update(label_tokens=-1),
        lambda c: c.pop("supplements"),
        lambda c: c["totals"].update(windows=11),
        lambda c: c["shards"].pop(),
        lambda c: c["shards"].reverse(),
        lambda c: c["shards"][0]["records"].update(file="../../etc/passwd"),
        lambda c: c["shards"][0]["records"].update(bytes=-1),
        lambda c: c["shards"][0].pop("cursor"),
        lambda c: c["token_faiss"].update(rows=9),
        lambda c: c["token_faiss"].update(file="records/00000.parquet"),
        lambda c: c.update(token_faiss=7),
        lambda c: c.update(complete="yes"),
    ],
)
def test_a_damaged_manifest(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    write_index(tmp_path / "i", RECORDS)
    edited(tmp_path / "i", change)
    with pytest.raises(IndexStoreError, match=r"manifest\.json is damaged") as caught:
        Index.open(tmp_path / "i")
    assert "--overwrite" in caught.value.hint
    with pytest.raises(IndexStoreError, match="damaged"):
        open_writer(tmp_path / "i")
    write_index(tmp_path / "i", RECORDS, overwrite=True)
    assert len(Index.open(tmp_path / "i")) == 10


def test_wrong_row_counts_are_found(tmp_path: Path) -> None:
    def windows(content: dict[str, Any]) -> None:
        content["shards"][1]["records"]["rows"] += 1
        content["totals"]["windows"] += 1

    def tokens(content: dict[str, Any]) -> None:
        content["shards"][1]["label_tokens"] += 1
        content["totals"]["label_tokens"] += 1
        content["token_faiss"]["rows"] += 1

    write_index(tmp_path / "i", RECORDS)
    edited(tmp_path / "i", windows)
    with pytest.raises(IndexStoreError, match=r"records/00001\.parquet has \d+ rows instead of"):
        Index.open(tmp_path / "i")
    index = Index.open(tmp_path / "i", verify=False)
    with pytest.raises(IndexStoreError, match="rows instead of"):
        list(index.iter_windows())
    write_index(tmp_path / "j", RECORDS)
    edited(tmp_path / "j", tokens)
    index = Index.open(tmp_path / "j", verify=False)
    with pytest.raises(IndexStoreError, match=r"records/00001\.parquet has \d+ label tokens inst"):
        list(index.iter_windows())


def test_staged_vectors_of_an_unfinished_index_have_to_be_those_of_its_rows(
    tmp_path: Path,
) -> None:
    with open_writer(tmp_path / "i") as opened:
        opened.append_record(RECORDS[0])

    def change(content: dict[str, Any]) -> None:
        content["shards"][0]["tokens"]["rows"] += 1

    edited(tmp_path / "i", change)
    with pytest.raises(IndexStoreError, match=r"manifest\.json is damaged: a shard's files"):
        open_writer(tmp_path / "i")


def test_a_search_index_of_other_tokens_is_found(tmp_path: Path) -> None:
    write_index(tmp_path / "a", RECORDS)
    for name, records, config in [
        ("wider", RECORDS, settings(token_vectors=16)),
        ("fewer", RECORDS[:7], settings()),
    ]:
        write_index(tmp_path / name, make_records(len(records), config), config)
        data = (tmp_path / name / "tokens.faiss").read_bytes()
        (tmp_path / "a/tokens.faiss").write_bytes(data)
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        edited(tmp_path / "a", lambda c, entry=entry: c["token_faiss"].update(entry))
        with pytest.raises(IndexStoreError, match=r"tokens\.faiss holds .* instead of \d+ of 8"):
            use_all(Index.open(tmp_path / "a", verify=False))


def test_an_unwritable_place_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(IndexStoreError, match="Permission denied") as caught:
        open_writer(tmp_path / "i")
    assert "permissions" in caught.value.hint
