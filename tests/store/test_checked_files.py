"""Checksums count before a file's content does, and what is remembered vouches for nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from haiftrace.errors import DamagedIndexError
from haiftrace.store import Index, checked_files
from haiftrace.store.checked_files import MEMORY_NAME, CheckedFiles
from tests.store.store_samples import make_records, write_index
from tests.store.store_samples import quick_fsync as quick_fsync

RECORDS = make_records(8)
NAME = "records/00001.parquet"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checked_files, "SETTLED_NS", -1)  # as if it had been written long ago
    write_index(tmp_path / "i", RECORDS)
    return tmp_path / "i"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read."""
    names: list[str] = []
    compute = checked_files.sha256_of_open

    def counted(handle: object) -> str:
        names.append(Path(handle.name).name)  # type: ignore[attr-defined]
        return compute(handle)  # type: ignore[arg-type]

    monkeypatch.setattr(checked_files, "sha256_of_open", counted)
    return names


def use_all(path: Path) -> None:
    with Index.open(path, verify=False) as index:
        list(index.iter_windows())
        assert index.token_search is not None


def flip(file: Path, keep_times: bool = False) -> None:
    status = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    with file.open("r+b") as handle:  # the same inode
        handle.write(data)
    if keep_times:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_second_reading_does_not_pay(path: Path, hashed: list[str]) -> None:
    use_all(path)
    assert sorted(hashed) == ["00000.parquet", "00001.parquet", "00002.parquet", "tokens.faiss"]
    hashed.clear()
    use_all(path)
    assert hashed == []


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_changed_file_is_read_again(path: Path, keep_times: bool) -> None:
    use_all(path)
    flip(path / NAME, keep_times)
    with pytest.raises(DamagedIndexError, match=rf"{NAME} does not match its checksum"):
        use_all(path)


def test_a_file_that_took_its_place_is_read_again(path: Path, hashed: list[str]) -> None:
    use_all(path)
    status = (path / NAME).stat()
    data = bytearray((path / NAME).read_bytes())
    data[50] ^= 8
    (path / "other").write_bytes(data)
    os.utime(path / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(path / "other", path / NAME)
    with pytest.raises(DamagedIndexError, match=NAME):
        use_all(path)


def test_what_was_written_just_now_is_not_remembered(
    path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_files, "SETTLED_NS", 2_000_000_000)
    use_all(path)
    use_all(path)
    assert len(hashed) == 8
    assert not (path / MEMORY_NAME).exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_text("{"),
        lambda file: file.write_text('{"files": 7}'),
        lambda file: file.write_bytes(b"\xff"),
        lambda file: file.write_text(file.read_text().replace(NAME, "records/00009.parquet")),
        lambda file: file.unlink(),
        lambda file: file.unlink() or file.mkdir(),
    ],
)
def test_a_damaged_memory_vouches_for_nothing(
    path: Path, hashed: list[str], spoil: Callable[[Path], object]
) -> None:
    use_all(path)
    spoil(path / MEMORY_NAME)
    hashed.clear()
    use_all(path)
    assert len(hashed) == 4


def test_a_memory_of_other_content_vouches_for_nothing(path: Path) -> None:
    """The manifest's checksum counts: a memory that fits the changed file does not."""
    use_all(path)
    flip(path / NAME)
    content = json.loads((path / MEMORY_NAME).read_text())
    status = (path / NAME).stat()
    entry = content["files"][NAME]
    entry.update(mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns, sha256="0" * 64)
    content["digest"] = checked_files.digest_of(content["files"])
    (path / MEMORY_NAME).write_text(json.dumps(content))
    with pytest.raises(DamagedIndexError, match=NAME):
        use_all(path)


def test_a_directory_that_may_not_be_written_is_read(
    path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checked_files, "write_atomically", refuse)
    use_all(path)
    use_all(path)
    assert len(hashed) == 8


def test_every_damage_is_listed(path: Path) -> None:
    with Index.open(path) as index:
        entries = index.manifest.files()
    flip(path / NAME)
    (path / "tokens.faiss").unlink()
    records, vectors = CheckedFiles(path, remembered=False).damages(entries)
    assert NAME in records.message
    assert "tokens.faiss is missing" in vectors.message
    assert records.exit_code == vectors.exit_code == 3
