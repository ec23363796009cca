"""The store under interruptions: whatever is left, the same command makes the index right."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from haiftrace.errors import IndexStoreError
from haiftrace.store import Index, ShardBuffer, WindowRow, writer
from haiftrace.store.durable import HashingSink
from tests.store.store_samples import (
    contents,
    make_records,
    open_writer,
    quick_fsync,  # noqa: F401 (autouse)
    settings,
    write_index,
)

RECORDS = make_records(8)  # 10 windows in 3 shards


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an index that was made without interruption."""
    path = tmp_path_factory.mktemp("whole") / "i"
    write_index(path, RECORDS)
    assert len(Index.open(path).manifest.shards) == 3
    return contents(path)


def check(path: Path, expected: dict[str, bytes]) -> None:
    """Whatever is at `path`: not mistaken for finished, and completed by the same command."""
    try:
        with Index.open(path) as index:
            assert len(list(index.iter_windows())) == 10
    except IndexStoreError as error:
        expected_words = ("unfinished", "no index", "not an index")
        assert any(words in error.message for words in expected_words), error.message  # noqa: PT017
    write_index(path, RECORDS)
    assert contents(path) == expected
    assert len(Index.open(path)) == 10


class Fault(BaseException):
    """Not an Exception: nothing may swallow it."""


class FaultAt:
    """Lets a function fail at its n-th call, before or after it has done its work."""

    def __init__(self, real: Callable[..., Any], n: int, error: BaseException, after: bool) -> None:
        self.real, self.left, self.error, self.after = real, n, error, after

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            if self.after:
                self.real(*args, **options)
            raise self.error
        return self.real(*args, **options)


def interrupted(path: Path, owner: Any, name: str, fault: FaultAt) -> BaseException | None:
    """Make the index while `owner.name` has the fault; returns what ended it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fault if owner is os else lambda *a, **k: fault(*a, **k))
        try:
            write_index(path, RECORDS)
        except (Fault, IndexStoreError) as error:
            return error
    return None


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["replace", "fsync", "open", "chmod"])
def test_interruption_at_every_step(
    tmp_path: Path,
    expected: dict[str, bytes],
    name: str,
    after: bool,
) -> None:
    # After one call is nearly before the next: half of each, but for the renames.
    for n in range(1, 100, 1 if name == "replace" else 2):
        path = tmp_path / str(n)
        fault = FaultAt(getattr(os, name), n, Fault(), after)
        error = interrupted(path, os, name, fault)
        if error is None:
            assert n > 3
            return
        assert isinstance(error, Fault)
        check(path, expected)
        shutil.rmtree(path)
    raise AssertionError("never ran to the end")


@pytest.mark.parametrize(("name", "code"), [("replace", errno.ENOSPC), ("fsync", errno.EIO)])
def test_disk_faults_are_errors_and_the_next_run_goes_on(
    tmp_path: Path,
    expected: dict[str, bytes],
    name: str,
    code: int,
) -> None:
    for n in range(1, 100, 2):
        path = tmp_path / str(n)
        fault = FaultAt(getattr(os, name), n, OSError(code, os.strerror(code)), True)
        error = interrupted(path, os, name, fault)
        if error is None:
            assert n > 3
            return
        assert isinstance(error, IndexStoreError)
        assert os.strerror(code) in error.message
        assert "same `haiftrace index` command" in error.hint
        assert ("space" in error.hint) == (code == errno.ENOSPC)
        assert not list(path.rglob("*.tmp"))
        check(path, expected)
        shutil.rmtree(path)
    raise AssertionError("never ran to the end")


def test_disk_full_while_writing(tmp_path: Path, expected: dict[str, bytes]) -> None:
    for n in range(1, 400, 9):
        path = tmp_path / str(n)
        full = OSError(errno.ENOSPC, "No space left on device")
        fault = FaultAt(HashingSink.write, n, full, False)
        error = interrupted(path, HashingSink, "write", fault)
        if error is None:
            assert n > 90
            return
        assert isinstance(error, IndexStoreError)
        check(path, expected)
        shutil.rmtree(path)
    raise AssertionError("never ran to the end")


def test_everything_is_synced_before_it_is_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "i"
    synced: set[int] = set()
    unsynced: set[int] = set()  # directories with a rename that is not durable yet
    manifests = 0
    real = os.replace

    def fsync(descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        synced.add(inode)
        unsynced.discard(inode)

    def replace(source: Path, target: Path) -> None:
        nonlocal manifests
        assert source.stat().st_ino in synced
        assert source.parent == target.parent
        if target.name == "manifest.json":
            assert not unsynced
            manifests += 1
        real(source, target)
        unsynced.add(target.parent.stat().st_ino)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "replace", replace)
        write_index(path, RECORDS)
    assert manifests == 5
    assert not unsynced
    assert {f.stat().st_ino for f in [path, tmp_path, path / "records"]} <= synced


def test_sync_of_directories_may_be_unknown_to_the_file_system(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    write_index(tmp_path / "i", RECORDS)
    assert contents(tmp_path / "i") == expected


# One process for all kills: it imports once, and forks a child for each.
KILLER = """
import os, signal, sys
from pathlib import Path
import pyarrow.parquet
from tests.store.store_samples import make_records, write_index
import haiftrace.store.durable as durable

root, name = Path(sys.argv[1]), sys.argv[2]
owner = durable.HashingSink if name == "write" else os
step = 13 if name == "write" else 1
os.fsync = lambda descriptor: None
for n in range(1, 400, step):
    child = os.fork()
    if child == 0:
        real, calls = getattr(owner, name), [0]
        def kill(*args, **options):
            calls[0] += 1
            if calls[0] == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)
        setattr(owner, name, kill)
        write_index(root / str(n), make_records(8))
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
    print(n, flush=True)
"""


@pytest.mark.parametrize("name", ["replace", "write"])
def test_kill_at_every_step(tmp_path: Path, expected: dict[str, bytes], name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), name],
        stdout=subprocess.PIPE,
        check=True,
        timeout=100,
        cwd=Path(__file__).parents[2],
    )
    kills = result.stdout.split()
    assert len(kills) >= 11  # 1 manifest, 3 shards of 3 files, faiss, manifest
    for n in kills:
        check(tmp_path / n.decode(), expected)


def test_kill_while_replacing_another_index(tmp_path: Path, expected: dict[str, bytes]) -> None:
    other = settings(token_vectors=16)
    write_index(tmp_path / "old", make_records(12, other), other)
    for n in range(1, 100):
        path = tmp_path / str(n)
        shutil.copytree(tmp_path / "old", path)
        fault = FaultAt(os.unlink, n, Fault(), True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "unlink", fault)
            try:
                write_index(path, RECORDS, overwrite=True)
            except Fault:
                pass
            else:
                assert n > 5  # four shards' rows and the search index; the others are replaced
                return
        check(path, expected)
        shutil.rmtree(path)
    raise AssertionError("never ran to the end")


# Interruptions that the process survives


def append_and_raise(
    path: Path, records: list[list[WindowRow]], error: type[BaseException]
) -> None:
    with open_writer(path) as opened:
        for rows in records:
            opened.append_record(rows)
        raise error


def test_an_interrupt_leaves_the_shards_before_it(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    for error in (KeyboardInterrupt, RuntimeError):
        path = tmp_path / error.__name__
        with pytest.raises(error):
            append_and_raise(path, RECORDS[:5], error)
        with open_writer(path) as opened:
            assert opened.shard_numbers == {0}
            assert opened.totals.records == 3
        write_index(path, RECORDS)
        assert contents(path) == expected


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0)])
def test_shards_come_in_any_order(
    tmp_path: Path, expected: dict[str, bytes], order: tuple[int, ...]
) -> None:
    path = tmp_path / "i"
    firsts = (0, 3, 6, 8)
    for number in order:  # each in a run of its own
        with open_writer(path) as opened:
            buffer = ShardBuffer(path, opened.manifest.layout)
            for rows in RECORDS[firsts[number] : firsts[number + 1]]:
                buffer.append(rows)
            staged = buffer.write(number, firsts[number], firsts[number + 1])
            again = buffer.write(number, firsts[number], firsts[number + 1])
            opened.add_shard(staged)
            with pytest.raises(ValueError, match="already"):
                opened.add_shard(again)  # what a worker wrote that was thought lost
            if number == order[0]:
                with pytest.raises(ValueError, match="missing"):
                    opened.finish()
    write_index(path, RECORDS)
    assert contents(path) == expected


def test_nothing_is_accepted_after_a_failed_write(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_writer(tmp_path / "i", shard_rows=100)
    opened.append_record(RECORDS[0])
    # The manifest is renamed, and the sync of its directory then fails: new or old?
    calls = FaultAt(os.fsync, 8, OSError(errno.EIO, "Input/output error"), True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", calls)
        with pytest.raises(IndexStoreError, match="Input/output"):
            opened.flush()
    for attempt in (
        opened.flush,
        opened.finish,
        lambda: opened.keep_extra({"left_out": 1}),
    ):
        with pytest.raises(IndexStoreError, match="nothing more"):
            attempt()
    opened.close()
    with open_writer(tmp_path / "i") as again:
        assert again.shard_numbers == {0}


def test_an_unfinished_index_of_another_version_is_not_continued(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_writer(tmp_path / "i") as opened:
        opened.append_record(RECORDS[0])
    monkeypatch.setattr(writer, "__version__", "99.0")
    with pytest.raises(IndexStoreError, match=r"99\.0"):
        open_writer(tmp_path / "i")
    write_index(tmp_path / "i", RECORDS, overwrite=True)
    assert contents(tmp_path / "i") == expected
    monkeypatch.undo()
    with open_writer(tmp_path / "i") as opened:
        assert opened.already_complete
