"""A directory of a store that pyarrow opens: s3://, gs://, abfs://, hdfs:// and others.

Files are small in number and whole: each is written once and read once, with its checksum. What
goes wrong in a store is said by its name in one place, here.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from haiftrace.errors import DamagedIndexError, IndexStoreError, UsageError
from haiftrace.store.durable import HashingSink, replace_durably, storage_errors
from haiftrace.store.manifest import FileEntry

_BLOCK = 4 << 20
_ATOMIC = ("s3", "gcs", "abfs")
"""In these a file is there whole or not at all; elsewhere it is written aside and renamed."""
_TRIES = 3
_PAUSE = 1.0
"""Seconds before a file is tried again; a store's own client has repeated its request before."""

_REASONS = (
    (
        r"no_such_bucket|nosuchbucket|bucket does not exist|container.*not ?found",
        "there is no such bucket",
        "Make the bucket, or correct the URI.",
    ),
    (
        r"no credentials|unable to (load|locate).*credentials|could not load.*credentials"
        r"|signature_?does_?not|invalid_?access_?key|invalid_?client_?token|invalid_?signature"
        r"|unrecognized_?client|expired_?token|authentication ?failed|unauthenticated"
        r"|access key id .* does not exist",
        "the credentials are missing or not accepted",
        "Set them where the store's clients look, such as AWS_ACCESS_KEY_ID and"
        " AWS_SECRET_ACCESS_KEY.",
    ),
    (
        r"access_?denied|forbidden|http status code: 403|http response code: 403|permission"
        r"|read-?only",
        "access is denied",
        "Check the credentials, such as AWS_ACCESS_KEY_ID, and that they may read and write there.",
    ),
    (
        r"network_connection|couldn't connect|could not connect|couldn't resolve|connection"
        r"|timed? ?out|timeout|unreachable|ssl|endpoint|curlcode",
        "the store cannot be reached",
        "Check the network and the URI (?endpoint_override=HOST:PORT&scheme=http names another"
        " endpoint).",
    ),
)


class RemoteDirectory:
    """One directory of a store. It need not exist.

    Attributes:
        uri: as it was given.
        shown: the same for people, without the URI's query.
    """

    def __init__(self, uri: str) -> None:
        """Open the store; no file is read.

        Raises:
            UsageError: pyarrow opens no such store.
        """
        self.uri = uri
        self.shown = shown_uri(uri)
        self._filesystem, self._root = _opened(uri)
        self._atomic = self._filesystem.type_name in _ATOMIC

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where it is not there.

        Raises:
            IndexStoreError: the store refuses.
        """
        with self._errors("read"):
            try:
                with self._filesystem.open_input_stream(self._path(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError as error:
                if _reason(error) is not None:  # no bucket, say
                    raise
                return None

    def names(self) -> list[str]:
        """Relative names of all files below.

        Raises:
            IndexStoreError: the store refuses.
        """
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._root, allow_not_found=True, recursive=True)
        with self._errors("read"):
            infos = self._filesystem.get_file_info(selector)
        cut = len(self._root.rstrip("/")) + 1
        return sorted(info.path[cut:] for info in infos if info.type == FileType.File)

    def write(self, name: str, content: bytes) -> None:
        """Create or replace a small file, in one step where the store can.

        Raises:
            IndexStoreError: the store refuses.
        """

        def fill(stream: Any) -> None:
            stream.write(content)

        self._write(name, fill)

    def copy_in(self, entry: FileEntry, root: Path, name: str | None = None) -> None:
        """Copy a file of the local directory `root` into the store.

        Args:
            name: of the copy, and of the file in `root`; the entry's own when None.

        Raises:
            DamagedIndexError: the local file is not what was written.
            IndexStoreError: the store refuses.
        """
        source = root / (name or entry.file)

        def fill(stream: Any) -> None:
            sink = HashingSink(stream)
            for block in _blocks(source, root):
                sink.write(block)
            written = sink.result()
            if (written.sha256, written.bytes) != (entry.sha256, entry.bytes):
                raise DamagedIndexError(
                    f"The index is damaged: {source} does not match its checksum in the manifest.",
                    "Run the same `haiftrace index` command again, which makes it anew.",
                )

        self._write(name or entry.file, fill)

    def copy_out(self, entry: FileEntry, root: Path, name: str | None = None) -> None:
        """Copy a file of the store into the local directory `root`, whole or not at all.

        Args:
            name: of the file in the store, and of the copy; the entry's own when None.

        Raises:
            DamagedIndexError: it is not what was written, or missing.
            IndexStoreError: the store, or the disk, refuses.
        """
        name = name or entry.file
        target = root / name
        missing = False

        def fill(sink: HashingSink) -> None:
            nonlocal missing
            with self._errors("read"):
                try:
                    stream = self._filesystem.open_input_stream(self._path(name))
                except FileNotFoundError as error:
                    missing = _reason(error) is None
                    raise
            with stream:
                while True:
                    with self._errors("read"):
                        block = stream.read(_BLOCK)
                    if not block:
                        return
                    sink.write(block)

        def copied() -> None:
            with storage_errors(root):
                written = replace_durably(target, fill)
            if (written.sha256, written.bytes) != (entry.sha256, entry.bytes):
                target.unlink()
                raise self._damaged(name, "does not match its checksum in the manifest")

        try:
            self._repeated(copied)
        except IndexStoreError as error:
            if missing:
                raise self._damaged(name, "is missing") from None
            raise error

    def remove(self, name: str) -> None:
        """Remove a file; nothing where it is not there.

        Raises:
            IndexStoreError: the store refuses.
        """
        with self._errors("written"), contextlib.suppress(FileNotFoundError):
            self._filesystem.delete_file(self._path(name))

    def matching(self) -> list[str]:
        """URIs of the directories that this one's last component, a pattern, matches.

        Raises:
            IndexStoreError: the store refuses.
        """
        from pyarrow.fs import FileSelector, FileType

        parent, _, pattern = self._root.rstrip("/").rpartition("/")
        with self._errors("read"):
            infos = self._filesystem.get_file_info(FileSelector(parent, allow_not_found=True))
        names = [info.base_name for info in infos if info.type == FileType.Directory]
        before, query, after = self.uri.partition("?")
        stem = before.rstrip("/").rpartition("/")[0]
        return [
            f"{stem}/{name}{query}{after}" for name in sorted(names) if fnmatchcase(name, pattern)
        ]

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _write(self, name: str, fill: Any) -> None:
        def written() -> None:
            path = self._path(name)
            folder, _, file = path.rpartition("/")
            target = path if self._atomic else f"{folder}/.{file}.tmp"
            with self._errors("written"):
                if not self._atomic:
                    self._filesystem.create_dir(folder, recursive=True)
                with self._filesystem.open_output_stream(target) as stream:
                    fill(stream)
                if not self._atomic:
                    self._filesystem.move(target, path)

        self._repeated(written)

    def _repeated(self, step: Any) -> None:
        """Once more after a failure that may pass."""
        for left in reversed(range(_TRIES)):
            try:
                return step()
            except _PassingError:
                if not left:
                    raise
                time.sleep(_PAUSE)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's are of these
            reason = _reason(error)
            kind = IndexStoreError if reason is not None else _PassingError
            why, hint = reason or (
                _first_line(error),
                "Run the same command again: it goes on from what is complete.",
            )
            raise kind(f"{self.shown} could not be {what}: {why}.", hint) from error

    def _damaged(self, name: str, damage: str) -> DamagedIndexError:
        return DamagedIndexError(
            f"The index is damaged: {self.shown}/{name} {damage}.",
            "Run the same `haiftrace index` command with --overwrite to build it again.",
        )


def _blocks(path: Path, root: Path) -> Iterator[bytes]:
    with storage_errors(root):
        handle = path.open("rb")
    with handle:
        while True:
            with storage_errors(root):
                block = handle.read(_BLOCK)
            if not block:
                return
            yield block


class _PassingError(IndexStoreError):
    """What a store refused without a reason that is known, so that it may be asked again."""


def shown_uri(uri: str) -> str:
    """A URI without its query, and without what may be a password."""
    scheme, _, rest = uri.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}".rstrip("/")


def _opened(uri: str) -> tuple[Any, str]:
    """A filesystem of pyarrow, and the path in it.

    Raises:
        UsageError: there is none for this URI.
    """
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    try:
        filesystem, path = FileSystem.from_uri(uri)
        return filesystem, path
    except (ArrowException, OSError, ValueError, NotImplementedError) as error:
        raise UsageError(
            f"{shown_uri(uri)} cannot be opened: {_first_line(error)}.",
            "Give a directory, or a URI of a store that pyarrow opens, such as s3://BUCKET/DIR.",
        ) from None


def _reason(error: Exception) -> tuple[str, str] | None:
    text = re.sub(r"'[^']*'", "", str(error)).lower()  # without names, which may say anything
    for pattern, why, hint in _REASONS:
        if re.search(pattern, text):
            return why, hint
    return None


def _first_line(error: Exception) -> str:
    """What an error says, without a URI's query."""
    line = str(error).partition("\n")[0][:200]
    return re.sub(r"\?\S*", "", line).rstrip(". ")
