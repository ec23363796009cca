"""Shards of an index in a store, made on machines that share nothing but the store.

A worker has a directory of its own, with the part of the index that it needs. What it makes goes
to the store under names of its attempt, from where the command takes it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from haiftrace.errors import IndexStoreError
from haiftrace.store.durable import make_private_directory, staged_name, storage_errors
from haiftrace.store.manifest import MANIFEST_NAME, FileEntry
from haiftrace.store.manifest_reading import parse_manifest
from haiftrace.store.remote_directory import RemoteDirectory
from haiftrace.store.shard_buffer import StagedShard


def fetch_begun(uri: str, root: Path) -> None:
    """Copy the manifest and the supplements of an unfinished index into the directory `root`.

    Raises:
        DamagedIndexError: a file is not what was written.
        IndexStoreError: there is none, or the store or the disk refuses.
    """
    remote = RemoteDirectory(uri)
    content = remote.read(MANIFEST_NAME)
    if content is None:
        raise IndexStoreError(
            f"A worker cannot see the index {remote.shown} as the command does.",
            "Let the URI name the same store on all machines.",
        )
    manifest = replace(parse_manifest(content, root), shards=())
    entries = manifest.supplement_files()
    folders = {(root / entry.file).parent for entry in entries}
    with storage_errors(root):
        for folder in (root, root / "records", root / "tokens", *folders):
            make_private_directory(folder)
        manifest.write(root)
    for entry in entries:
        remote.copy_out(entry, root)


def send_staged(uri: str, root: Path, staged: StagedShard) -> None:
    """Move the files of a shard from `root` into the store, under the names of its attempt.

    Raises:
        IndexStoreError: the store refuses; nothing is left in `root`.
    """
    remote = RemoteDirectory(uri)
    try:
        for name, entry in _staged_files(staged):
            remote.copy_in(entry, root, name)
    finally:
        for name, _ in _staged_files(staged):
            (root / name).unlink(missing_ok=True)


def take_staged(uri: str, root: Path, staged: StagedShard) -> None:
    """Move the files of a shard from the store to `root`; `IndexWriter.add_shard` takes them.

    Raises:
        DamagedIndexError: a file is not what was written.
        IndexStoreError: the store or the disk refuses.
    """
    remote = RemoteDirectory(uri)
    for name, entry in _staged_files(staged):
        remote.copy_out(entry, root, name)
        remote.remove(name)


def _staged_files(staged: StagedShard) -> list[tuple[str, FileEntry]]:
    return [
        (str(staged_name(Path(entry.file), staged.attempt)), entry) for entry in staged.entry.files
    ]
