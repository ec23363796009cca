"""Work in stages that are finished or absent, so that an interrupted bench goes on.

A stage is a name and its settings. Its files are written to a directory aside, which is renamed
when they are complete: a process that is killed between stages loses nothing, and one that is
killed inside a stage loses that stage alone. A stage's settings must name all that it depends on;
for an earlier stage that is its fingerprint.

```
work/
  training-5f0c…/   stage.json (settings, checksums) and the stage's own files
  .scores-91ab….tmp/   what a killed process left; removed by the next one
```
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from haiftrace.atomic_write import sync_directory
from haiftrace.errors import IndexStoreError, OutputError
from haiftrace.progress import Progress
from haiftrace.store.durable import (
    DirectoryLock,
    make_private_directory,
    sha256_of,
)

MARKER = "stage.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_DIGITS = 16


@dataclass(frozen=True)
class Stage:
    """A finished stage.

    Attributes:
        name: what it is.
        path: the directory with its files; never to be changed.
        fingerprint: SHA-256 (hex) of name, settings and versions: what later stages name.
        kept: whether an earlier run had finished it.
    """

    name: str
    path: Path
    fingerprint: str
    kept: bool


class Stages:
    """The work directory of one bench; a context manager that holds the directory's lock.

    Args:
        work: the directory, made where missing, readable by its owner only: it may hold training
            text.
        versions: what the results depend on besides the settings; another version, another stage.
        progress: shows which stages are kept.

    Raises:
        OutputError: the directory cannot be made or written, or another process works in it.
    """

    def __init__(self, work: Path, versions: Mapping[str, str], progress: Progress) -> None:
        self._work = work
        self._versions = dict(versions)
        self._progress = progress
        try:
            with self._disk():
                make_private_directory(work)
                self._lock = DirectoryLock(work)
                for leftover in work.glob(".*.tmp"):
                    shutil.rmtree(leftover)
        except IndexStoreError:
            raise OutputError(
                f"Another haiftrace bench works in {work}, or its file system has no file locks.",
                "Wait until it has ended, or give another directory with --output.",
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def stage(
        self, name: str, settings: Mapping[str, Any], make: Callable[[Path], object]
    ) -> Stage:
        """The finished stage: an earlier run's where it is complete, else made now.

        Args:
            name: lower-case letters, digits and hyphens.
            settings: all that the stage's files depend on, as plain JSON.
            make: writes the stage's files into the directory that it is given; it may leave
                directories there too, but no links.

        Raises:
            OutputError: the disk refuses.

        Whatever `make` raises passes through, and the stage is then absent.
        """
        assert _NAME.fullmatch(name), name
        description, fingerprint, final = self._described(name, settings)
        if _is_complete(final, description):
            self._progress.say(f"Kept from an earlier run: {name}.")
            return Stage(name, final, fingerprint, kept=True)
        unfinished = self._work / f".{final.name}.tmp"
        with self._disk():
            for stale in (unfinished, final):
                if stale.exists():
                    shutil.rmtree(stale)
            unfinished.mkdir(mode=0o700)
        try:
            make(unfinished)
            with self._disk():
                _seal(unfinished, description)
                os.replace(unfinished, final)
                sync_directory(self._work)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return Stage(name, final, fingerprint, kept=False)

    def kept(self, name: str, settings: Mapping[str, Any]) -> Stage | None:
        """The stage, where it is finished."""
        description, fingerprint, final = self._described(name, settings)
        complete = _is_complete(final, description)
        return Stage(name, final, fingerprint, kept=True) if complete else None

    def _described(
        self, name: str, settings: Mapping[str, Any]
    ) -> tuple[dict[str, Any], str, Path]:
        """A stage's description, fingerprint and directory."""
        description = {"name": name, "settings": dict(settings), "versions": self._versions}
        fingerprint = fingerprint_of(description)
        return description, fingerprint, self._work / f"{name}-{fingerprint[:_DIGITS]}"

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unwritable(self._work, error) from error


def fingerprint_of(settings: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of plain JSON settings, whatever the order of their keys."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _seal(directory: Path, description: Mapping[str, Any]) -> None:
    """Make the files durable and write down what they are."""
    files = {}
    for path in _files(directory):
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
        files[path.relative_to(directory).as_posix()] = sha256_of(path)
    with (directory / MARKER).open("w", encoding="utf-8") as handle:
        json.dump({**description, "files": files}, handle, indent=1, sort_keys=True)
        handle.flush()
        os.fsync(handle.fileno())
    for folder in [directory, *(path for path in directory.rglob("*") if path.is_dir())]:
        sync_directory(folder)


def _is_complete(directory: Path, description: Mapping[str, Any]) -> bool:
    """Whether a directory is the stage, every file as it was written."""
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        files = marker.pop("files")
        # Through JSON, as the marker went: tuples are lists there.
        if marker != json.loads(json.dumps(description)):
            return False
        checksums = {p.relative_to(directory).as_posix(): sha256_of(p) for p in _files(directory)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(checksums == files)


def _files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / MARKER)


def _unwritable(work: Path, error: OSError) -> OutputError:
    return OutputError(
        f"The work directory {work} cannot be written: {error.strerror or type(error).__name__}.",
        "Free some space or give another directory with --output; finished stages are kept.",
    )
