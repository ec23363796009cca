"""What the store needs of a disk: durable files with their checksums, directories, one writer.

Everything here is private (files 0600, directories 0700), since an index holds training text.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from haiftrace.atomic_write import replace_atomically, sync_directory
from haiftrace.errors import IndexStoreError

LOCK_NAME = ".lock"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class WrittenFile:
    """What was written: its SHA-256 in hexadecimal and its size in bytes."""

    sha256: str
    bytes: int


class HashingSink:
    """A write-only stream that hashes what passes, so that the checksum is of what was written."""

    closed = False

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> int:
        """Write all of `data`; returns its length in bytes."""
        self._handle.write(data)
        self._sha256.update(data)
        self._bytes += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._bytes

    def flush(self) -> None:
        """Do nothing: `replace_atomically` flushes and syncs."""

    def close(self) -> None:
        """Do nothing: `replace_atomically` owns the file."""

    def result(self) -> WrittenFile:
        """Checksum and size of all that was written."""
        return WrittenFile(self._sha256.hexdigest(), self._bytes)


def temporary_name(target: Path) -> Path:
    """The name under which `target` is written before it is renamed (one writer at a time)."""
    return target.with_name(f".{target.name}.tmp")


def staged_name(target: Path, attempt: str) -> Path:
    """The name of a file that is whole and not `target` yet: one for each attempt to make it."""
    return target.with_name(f".{target.name}.{attempt}.tmp")


def new_attempt() -> str:
    """A name for an attempt that no other has."""
    return secrets.token_hex(8)


def replace_durably(target: Path, fill: Callable[[HashingSink], object]) -> WrittenFile:
    """Create or replace `target` by what `fill` writes, in one step that survives a crash.

    One writer of `target` at a time.

    Raises:
        OSError: the disk is full or refuses; `target` is then the old file or, where only the
            last step failed, the new one, and never a mixture.
    """
    written = WrittenFile("", 0)

    def fill_hashing(file: BinaryIO) -> None:
        nonlocal written
        sink = HashingSink(file)
        fill(sink)
        written = sink.result()

    replace_atomically(target, fill_hashing, temporary=temporary_name(target))
    return written


def make_private_directory(directory: Path) -> None:
    """Create `directory` with its parents if need be, durably, each with mode 0700.

    Raises:
        OSError: something else has that name, or it cannot be made.
    """
    existed = directory.is_dir()
    if not existed and not directory.parent.is_dir() and directory.parent != directory:
        make_private_directory(directory.parent)  # mkdir would give parents the usual mode
    directory.mkdir(mode=0o700, exist_ok=True)
    os.chmod(directory, 0o700)
    if not existed:
        sync_directory(directory.parent)


def is_real_directory(directory: Path) -> bool:
    """True for a directory that is not reached through a symbolic link of that name."""
    try:
        return stat.S_ISDIR(directory.lstat().st_mode)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def storage_errors(root: Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into an error for the user."""
    try:
        yield
    except OSError as error:
        first = "Free some space" if error.errno in _NO_SPACE else "Check the disk and permissions"
        raise IndexStoreError(
            f"The index {root} could not be written: {error.strerror or error}.",
            f"{first}, then run the same `haiftrace index` command again: it goes on from its "
            "last complete shard.",
        ) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return sha256_of_open(handle)


def sha256_of_open(handle: BinaryIO) -> str:
    """SHA-256 of what an open file holds from where it stands, in hexadecimal."""
    return hashlib.file_digest(handle, "sha256").hexdigest()  # type: ignore[arg-type]


class DirectoryLock:
    """An advisory lock on a directory; the system releases it when the process ends."""

    def __init__(self, directory: Path) -> None:
        """Take the lock at once.

        Raises:
            IndexStoreError: another process holds it, or the file system has no locks.
        """
        import fcntl

        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(directory / LOCK_NAME, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise IndexStoreError(
                    f"Another haiftrace process is writing the index {directory} right now; two "
                    "at once would spoil it.",
                    "Wait until it has ended, or write to another directory with -o.",
                ) from None
            raise IndexStoreError(
                f"The file system of {directory} has no file locks ({error.strerror}), so it "
                "cannot be kept safe from a second writer.",
                "Write to a directory on a local disk with -o.",
            ) from error
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Give the lock back; harmless when it is given back already."""
        import fcntl

        if self._descriptor is not None:
            # Explicit, because a forked child may still hold the open file.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None
