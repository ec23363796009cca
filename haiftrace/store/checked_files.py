"""Checksums of an index's files, compared before their content counts, and remembered.

What was compared is kept in the index directory, so that the next run need not read every file
twice. An entry counts only for a file of the same size, modification and change time and inode:
whoever writes to a file changes its change time, which no program can set. A file that changed
just before it was read is not remembered, since a second change within the clock's step would
leave the same times. The file holds no more than that, and what is damaged in it is ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from haiftrace.atomic_write import write_atomically
from haiftrace.errors import DamagedIndexError
from haiftrace.store.durable import sha256_of_open
from haiftrace.store.manifest import DIGEST, FileEntry, digest_of
from haiftrace.store.manifest_reading import damaged_file

MEMORY_NAME = ".verified.json"
SETTLED_NS = 2_000_000_000
"""A file must have been left alone for so long before it was read."""


class CheckedFiles:
    """The files of one index as far as they were compared with the manifest.

    Args:
        root: directory of the index.
        remembered: whether earlier runs' comparisons count; without, every file is read.
    """

    def __init__(self, root: Path, *, remembered: bool = True) -> None:
        self._root = root
        self._checked: set[FileEntry] = set()
        self._memory: dict[str, Any] | None = None if remembered else {}

    def path(self, entry: FileEntry) -> Path:
        """Where a file is, once it is known to be what was written.

        Raises:
            DamagedIndexError: it is not.
        """
        self.check([entry])
        return self._root / entry.file

    def check(self, entries: Sequence[FileEntry]) -> None:
        """Compare files with their entries; each is read once at most.

        Raises:
            DamagedIndexError: naming the first that differs.
        """
        damages = self.damages(entries)
        if damages:
            raise damages[0]

    def damages(
        self,
        entries: Sequence[FileEntry],
        passed: Callable[[FileEntry], object] = lambda entry: None,
    ) -> list[DamagedIndexError]:
        """As `check`, with an error for every file that differs.

        Args:
            passed: is told of each file that was looked at.
        """
        fresh = [entry for entry in entries if entry not in self._checked]
        if not fresh:
            return []
        if self._memory is None:
            self._memory = _read_memory(self._root)
        errors: list[DamagedIndexError] = []
        settled: dict[str, Any] = {}
        for entry in fresh:
            try:
                state = self._compare(entry, self._memory)
            except DamagedIndexError as error:
                errors.append(error)
            else:
                self._checked.add(entry)
                if state is not None:
                    settled[entry.file] = state
            passed(entry)
        if any(self._memory.get(name) != state for name, state in settled.items()):
            self._memory = {**self._memory, **settled}
            _write_memory(self._root, self._memory)
        return errors

    def _compare(self, entry: FileEntry, memory: dict[str, Any]) -> dict[str, Any] | None:
        path = self._root / entry.file
        try:
            with path.open("rb") as handle:
                before = os.fstat(handle.fileno())
                if before.st_size != entry.bytes:
                    raise damaged_file(
                        self._root, entry, f"has {before.st_size} bytes instead of {entry.bytes}"
                    )
                state = _state(before, entry.sha256)
                if memory.get(entry.file) == state:
                    return state
                now = time.time_ns()
                if sha256_of_open(handle) != entry.sha256:
                    raise damaged_file(
                        self._root, entry, "does not match its checksum in the manifest"
                    )
                settled = max(before.st_mtime_ns, before.st_ctime_ns) < now - SETTLED_NS
                unchanged = _state(os.fstat(handle.fileno()), entry.sha256) == state
        except FileNotFoundError:
            raise damaged_file(self._root, entry, "is missing") from None
        except OSError as error:
            raise damaged_file(self._root, entry, f"cannot be read ({error.strerror})") from error
        return state if settled and unchanged else None


def _state(status: os.stat_result, sha256: str) -> dict[str, Any]:
    return {
        "sha256": sha256,
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
        "device": status.st_dev,
    }


def _read_memory(root: Path) -> dict[str, Any]:
    try:
        content = json.loads((root / MEMORY_NAME).read_bytes())
        files = content["files"]
        intact = content[DIGEST] == digest_of(files) and isinstance(files, dict)
        return dict(files) if intact else {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _write_memory(root: Path, files: dict[str, Any]) -> None:
    text = json.dumps({"files": files, DIGEST: digest_of(files)}, indent=1, sort_keys=True)
    with contextlib.suppress(OSError):  # an index that may only be read is read in full each time
        write_atomically(root / MEMORY_NAME, text.encode())
