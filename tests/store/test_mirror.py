"""An index in a store goes through the states of its working copy, and is never half of one."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest
import torch
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from haiftrace.errors import DamagedIndexError, IndexStoreError
from haiftrace.progress import Silent
from haiftrace.store import Index, IndexWriter, remote_directory
from haiftrace.store.mirror import Mirror, working_copy
from haiftrace.store.remote_directory import RemoteDirectory
from tests.store.store_samples import (
    FINGERPRINTS,
    contents,
    make_records,
    quick_fsync,  # noqa: F401 (autouse)
    settings,
    write_index,
)

URI = "s3://bucket/some/index"


@pytest.fixture(autouse=True)
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that stands for the URI, in a store that is a directory of this machine."""
    home = tmp_path / "store"

    def opened(uri: str) -> tuple[SubTreeFileSystem, str]:
        home.mkdir(exist_ok=True)
        return SubTreeFileSystem(str(home), LocalFileSystem()), uri.partition("://")[2]

    monkeypatch.setattr(remote_directory, "_opened", opened)
    monkeypatch.setattr(remote_directory, "_PAUSE", 0.0)
    monkeypatch.setenv("HAIFTRACE_CACHE", str(tmp_path / "cache"))
    return home / "bucket/some/index"


def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """The same store from another machine."""
    monkeypatch.setenv("HAIFTRACE_CACHE", str(tmp_path / "another"))
    return Mirror(URI)


def make(mirror: Mirror, count: int, **more: object) -> None:
    mirror.fetch(Silent())
    with mirror.written():
        write_index(mirror.root, make_records(count), shard_rows=3, **more)


def test_the_store_has_what_the_copy_has(bucket: Path) -> None:
    make(Mirror(URI), 9)
    assert contents(bucket) == contents(working_copy(URI))
    assert "records/00000.parquet" in contents(bucket)
    for folder in (working_copy(URI), working_copy(URI).parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_every_state_of_the_store_is_one_of_the_copy(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read after each file that is written or removed: what the manifest names is there."""
    states = []

    def read() -> None:
        path = bucket / "manifest.json"
        if path.exists():
            states.append(RemoteDirectory(URI).read("manifest.json"))
            manifest = json.loads(states[-1] or b"")
            for shard in manifest["shards"]:
                for entry in filter(None, (shard["records"], shard["tokens"])):
                    assert (bucket / entry["file"]).stat().st_size == entry["bytes"]
            if manifest["complete"]:
                assert (bucket / manifest["token_faiss"]["file"]).exists()

    for name in ("write", "copy_in", "remove"):
        step = getattr(RemoteDirectory, name)

        def watched(self: RemoteDirectory, *given: object, step=step, **more: object) -> None:  # type: ignore[no-untyped-def]
            step(self, *given, **more)
            read()

        monkeypatch.setattr(RemoteDirectory, name, watched)
    make(Mirror(URI), 9)
    make(Mirror(URI), 4, overwrite=True)
    assert len(set(states)) >= 7
    Index.open(bucket)


def test_what_a_place_is_called_is_no_reason() -> None:
    assert RemoteDirectory("s3://bucket/timeout/access_denied").read("manifest.json") is None
    assert RemoteDirectory("s3://bucket/timeout").names() == []


def test_another_machine_reads_it(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(Mirror(URI), 9)
    mirror = elsewhere(tmp_path, monkeypatch)
    mirror.fetch(Silent())
    assert contents(mirror.root) == contents(bucket)
    reads = []
    monkeypatch.setattr(RemoteDirectory, "copy_out", lambda *given: reads.append(given))
    Mirror(URI).fetch(Silent())
    assert reads == []


def test_what_changed_in_the_store_is_copied_and_no_more(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(Mirror(URI), 9)
    other = elsewhere(tmp_path, monkeypatch)
    make(other, 4, overwrite=True)
    monkeypatch.setenv("HAIFTRACE_CACHE", str(tmp_path / "cache"))
    mirror = Mirror(URI)
    mirror.fetch(Silent())
    assert contents(mirror.root) == contents(bucket) == contents(other.root)


def test_a_damaged_file_of_the_store_is_no_part_of_a_copy(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(Mirror(URI), 9)
    file = bucket / "records/00001.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    mirror = elsewhere(tmp_path, monkeypatch)
    with pytest.raises(DamagedIndexError, match=r"records/00001\.parquet does not match"):
        mirror.fetch(Silent())
    assert not (mirror.root / "manifest.json").exists()
    file.unlink()
    with pytest.raises(DamagedIndexError, match=r"00001\.parquet is missing"):
        mirror.fetch(Silent())
    file.write_bytes(content)
    mirror.fetch(Silent())
    Index.open(mirror.root)


def test_all_files_are_read_again_when_asked(bucket: Path) -> None:
    make(Mirror(URI), 9)
    file = bucket / "records/00001.parquet"
    file.write_bytes(file.read_bytes()[::-1])
    Mirror(URI).fetch(Silent())
    with pytest.raises(DamagedIndexError, match=r"00001\.parquet"):
        Mirror(URI).fetch(Silent(), afresh=True)


@pytest.mark.parametrize("after", range(0, 14, 2))
def test_a_store_that_fails_is_brought_on_by_the_next_command(
    bucket: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    done = 0
    fill = RemoteDirectory._write

    def failing(self: RemoteDirectory, name: str, content: object) -> None:
        nonlocal done
        done += 1
        if done > after:
            raise IndexStoreError("the store cannot be reached", "")
        fill(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteDirectory, "_write", failing)
        with pytest.raises(IndexStoreError, match="cannot be reached"):
            make(Mirror(URI), 9)
    make(Mirror(URI), 9)
    Index.open(bucket)
    assert contents(bucket) == contents(working_copy(URI))


def test_another_machine_goes_on(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(URI)
    mirror.fetch(Silent())
    kept = torch.eye(3)

    def interrupted() -> None:
        with (
            mirror.written(),
            IndexWriter.create_or_resume(mirror.root, settings(), FINGERPRINTS) as writer,
        ):
            writer.keep_tensors("whitening", {}, {"layer": kept})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    other = elsewhere(tmp_path, monkeypatch)
    other.fetch(Silent())
    with IndexWriter.create_or_resume(other.root, settings(), FINGERPRINTS) as writer:
        assert torch.equal((writer.stored_tensors("whitening") or {})["layer"], kept)


def test_two_machines_at_once_are_noticed(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(URI)
    mirror.fetch(Silent())

    def both() -> None:
        with mirror.written():
            with monkeypatch.context() as patch:
                make(elsewhere(tmp_path, patch), 9)
            write_index(mirror.root, make_records(9), shard_rows=3)

    with pytest.raises(IndexStoreError, match="Another machine wrote"):
        both()


def test_two_commands_of_a_machine_are_refused() -> None:
    mirror = Mirror(URI)
    mirror.fetch(Silent())

    def twice() -> None:
        with mirror.written(), Mirror(URI).written():
            pass

    with pytest.raises(IndexStoreError, match="Another haiftrace process"):
        twice()


def test_an_index_that_is_gone_from_the_store_is_gone_from_the_copy(bucket: Path) -> None:
    mirror = Mirror(URI)
    make(mirror, 9)
    shutil.rmtree(bucket)
    mirror.fetch(Silent())
    assert not mirror.root.exists()
    make(mirror, 9)
    Index.open(bucket)


def test_a_foreign_place_is_not_touched(bucket: Path) -> None:
    bucket.mkdir(parents=True)
    (bucket / "thesis.txt").write_text("x")
    with pytest.raises(IndexStoreError, match="is not an index and is not empty"):
        make(Mirror(URI), 9)
    assert contents(bucket) == {"thesis.txt": b"x"}


def test_leftovers_go_and_other_files_stay(bucket: Path) -> None:
    make(Mirror(URI), 4)
    names = [
        "records/.00007.parquet.0123456789abcdef.tmp",
        "records/00007.parquet",
        "supplements/haif/00001.parquet",
    ]
    for name in (*names, "notes.txt"):
        (bucket / name).parent.mkdir(parents=True, exist_ok=True)
        (bucket / name).write_text("x")
    with Mirror(URI).written():
        pass
    assert not any((bucket / name).exists() for name in names)
    assert (bucket / "notes.txt").read_text() == "x"
    Index.open(bucket)
