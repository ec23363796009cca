"""An index in a store without locks and renames: a working copy on this machine, kept equal.

All work is done in the copy, an index as any other. Whenever its manifest is replaced, the files
that it newly names go to the store, then the manifest, then what it names no more is removed: the
store goes through the states of the copy, one after the other, and an interruption leaves one of
them. The manifest that both last had in common tells which side went on since.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from haiftrace.atomic_write import write_atomically
from haiftrace.errors import DamagedIndexError, IndexStoreError
from haiftrace.progress import Progress, size
from haiftrace.store.checked_files import CheckedFiles
from haiftrace.store.claim import is_leftover, remove_leftovers
from haiftrace.store.durable import (
    DirectoryLock,
    make_private_directory,
    storage_errors,
    temporary_name,
)
from haiftrace.store.manifest import MANIFEST_NAME, FileEntry, Manifest, followed
from haiftrace.store.manifest_reading import parse_manifest
from haiftrace.store.remote_directory import RemoteDirectory

_COMMON = "common.json"
"""Beside the copy: the manifest that it and the store last had in common."""


def working_copy(uri: str) -> Path:
    """Where the copy of an index is: in HAIFTRACE_CACHE, by default a cache of the user's."""
    home = os.environ.get("HAIFTRACE_CACHE")
    if not home:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        home = str(Path(cache) / "haiftrace")
    name = hashlib.sha256(uri.encode(errors="surrogateescape")).hexdigest()[:32]
    return Path(home).absolute() / name / "index"


class Mirror:
    """An index in a store, and its working copy.

    Attributes:
        root: directory of the copy.
        remote: the directory of the store.
    """

    def __init__(self, uri: str) -> None:
        """Open the store; nothing is read.

        Raises:
            UsageError: pyarrow opens no such store.
        """
        self.remote = RemoteDirectory(uri)
        self.root = working_copy(uri)
        self._home = self.root.parent

    def fetch(self, progress: Progress, *, afresh: bool = False) -> None:
        """Bring the copy to what the store has, or leave it where it went on from there.

        Args:
            afresh: copy all files, also those that the copy has.

        Raises:
            DamagedIndexError: a file of the store is not what was written.
            IndexStoreError: the store or the disk refuses, or the copy is being written.
        """
        content = self.remote.read(MANIFEST_NAME)
        if content == self._content() and not afresh:
            return
        if content != self._content() and content == self._common() and self._content() is not None:
            progress.say(
                f"Note: {self.remote.shown} lacks what a command on this machine, which was"
                " interrupted or still runs, has made; it is used from the working copy."
            )
            return
        with self._one_at_a_time(), self._lock():
            content = self.remote.read(MANIFEST_NAME)
            if content == self._content() and not afresh:  # by who had the lock before
                return
            if content is None:
                self._forget()
            else:
                self._replace(content, progress, afresh)

    @contextmanager
    def written(self) -> Iterator[None]:
        """Whatever becomes of the copy inside the block becomes of the store.

        Raises:
            IndexStoreError: the store refuses, or another machine wrote there meanwhile.
        """
        with self._lock():
            content = self._content()
            if content is not None and self.remote.read(MANIFEST_NAME) == content:
                self._keep_common(content)
            if self._common() is None:
                self._refuse_foreign()
                self._try_to_write()
            with followed(self.root, self._follow):
                yield
            content = self._content()
            if content is not None:  # what an interrupted command had not brought there
                manifest = parse_manifest(content, self.root)
                self._follow(manifest, content)
                self._remove_leftovers(manifest)

    def _follow(self, manifest: Manifest, content: bytes) -> None:
        """Bring the store from the state in common to this one."""
        common = self._common()
        if content == common:
            return
        if self.remote.read(MANIFEST_NAME) != common:
            raise IndexStoreError(
                f"Another machine wrote {self.remote.shown} meanwhile; two at once would spoil it.",
                "Let one of them end, and run the same command again, or give another URI.",
            )
        before = [] if common is None else _entries(parse_manifest(common, self.root))
        held, named = set(before), _entries(manifest)
        for entry in named:
            if entry not in held:
                self.remote.copy_in(entry, self.root)
        self.remote.write(MANIFEST_NAME, content)
        self._keep_common(content)
        names = {entry.file for entry in named}
        for entry in before:
            if entry.file not in names:
                self.remote.remove(entry.file)

    def _replace(self, content: bytes, progress: Progress, afresh: bool) -> None:
        manifest = parse_manifest(content, self.root)
        with storage_errors(self.root):
            make_private_directory(self.root)
        lock = DirectoryLock(self.root)
        try:
            files = CheckedFiles(self.root)
            entries = _entries(manifest)
            wanted = [entry for entry in entries if afresh or not _is_held(files, entry)]
            total = sum(entry.bytes for entry in wanted)
            progress.say(
                f"Copying {size(total)} of {self.remote.shown} to a private working copy in"
                f" {self._home.parent}."
            )
            progress.start("copying the index", float(total))
            for entry in wanted:
                with storage_errors(self.root):
                    make_private_directory((self.root / entry.file).parent)
                self.remote.copy_out(entry, self.root)
                progress.advance(float(entry.bytes))
            with storage_errors(self.root):
                write_atomically(self.root / MANIFEST_NAME, content)
                remove_leftovers(self.root, manifest)
            self._keep_common(content)
        finally:
            lock.release()

    def _forget(self) -> None:
        """The index is gone from the store, and goes from here; only files of ours are here."""
        with storage_errors(self.root):
            if self.root.is_dir():
                shutil.rmtree(self.root)
            (self._home / _COMMON).unlink(missing_ok=True)

    def _refuse_foreign(self) -> None:
        if any(not is_leftover(name) for name in self.remote.names()):
            raise IndexStoreError(
                f"{self.remote.shown} is not an index and is not empty; nothing in it will be"
                " touched.",
                "Give another URI with -o.",
            )

    def _try_to_write(self) -> None:
        """Before hours of work: a bucket may be missing, or be for reading only."""
        name = temporary_name(Path(MANIFEST_NAME)).name
        self.remote.write(name, b"")
        self.remote.remove(name)

    def _remove_leftovers(self, manifest: Manifest) -> None:
        named = {entry.file for entry in _entries(manifest)}
        for name in self.remote.names():
            if name not in named and is_leftover(name):
                self.remote.remove(name)

    def _content(self) -> bytes | None:
        return _read(self.root / MANIFEST_NAME)

    def _common(self) -> bytes | None:
        return _read(self._home / _COMMON)

    def _keep_common(self, content: bytes) -> None:
        with storage_errors(self.root):
            write_atomically(self._home / _COMMON, content)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One command of this machine at a time writes the copy, or replaces it."""
        with storage_errors(self.root):
            make_private_directory(self._home)
            lock = DirectoryLock(self._home)
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Waits for another command of this machine that copies the same index."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with storage_errors(self.root):
            make_private_directory(self._home)
            descriptor = os.open(self._home / ".copying", flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _entries(manifest: Manifest) -> list[FileEntry]:
    return [*manifest.files(), *manifest.supplement_files()]


def _is_held(files: CheckedFiles, entry: FileEntry) -> bool:
    try:
        files.check([entry])
    except DamagedIndexError:
        return False
    return True


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
