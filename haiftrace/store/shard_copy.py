"""Shards of one index that are copied into another."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from haiftrace.errors import DamagedIndexError
from haiftrace.store.durable import (
    HashingSink,
    new_attempt,
    replace_durably,
    staged_name,
    storage_errors,
)
from haiftrace.store.manifest import FileEntry, ShardEntry
from haiftrace.store.shard_buffer import StagedShard

_BLOCK = 1 << 20


def copied_shard(entry: ShardEntry, source: Path, target: Path) -> StagedShard:
    """Copy the files of a shard aside; `IndexWriter.add_shard` makes them part of the index.

    Args:
        source, target: directories of the two indexes.

    Raises:
        DamagedIndexError: a file is not what was written.
        IndexStoreError: the disk refuses.
    """
    attempt = new_attempt()
    with ExitStack() as undone:
        for file in entry.files:
            copy = staged_name(target / file.file, attempt)
            undone.callback(copy.unlink, missing_ok=True)
            _copy(file, source, target, copy)
        undone.pop_all()
    return StagedShard(entry, attempt)


def _copy(file: FileEntry, source: Path, target: Path, copy: Path) -> None:
    try:
        handle = (source / file.file).open("rb")
    except OSError as error:
        raise _damaged(source, file, f"cannot be read ({error.strerror})") from error

    def fill(sink: HashingSink) -> None:
        while block := handle.read(_BLOCK):
            sink.write(block)

    with handle, storage_errors(target):
        written = replace_durably(copy, fill)
    if (written.sha256, written.bytes) != (file.sha256, file.bytes):
        raise _damaged(source, file, "does not match its checksum in the manifest")


def _damaged(source: Path, file: FileEntry, damage: str) -> DamagedIndexError:
    return DamagedIndexError(
        f"The part is damaged: {source / file.file} {damage}.",
        "Run the command of that part again, which makes what is damaged anew, and then this one.",
    )
