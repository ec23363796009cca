"""Taking a directory for an index: new, resumed, finished already, or in the way.

Nothing that is not ours is ever written over or removed, with or without --overwrite.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from haiftrace.errors import IndexStoreError
from haiftrace.store.checked_files import MEMORY_NAME
from haiftrace.store.durable import (
    LOCK_NAME,
    DirectoryLock,
    is_real_directory,
    make_private_directory,
    temporary_name,
)
from haiftrace.store.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_NAME,
    PENDING,
    REBUILD_HINT,
    SUPPLEMENT_NAME,
    TOKEN_FAISS_FILE,
    FileEntry,
    Manifest,
)
from haiftrace.store.manifest_reading import check_files, read_manifest
from haiftrace.store.staged_tokens import FOLDER as TOKENS
from haiftrace.store.staged_tokens import SHARD_NAME, remove_staged

CORPUS_BASE = "corpus.base"
"""The setting that says which directory the paths of records are relative to."""
FOLDERS = ("records", TOKENS)
SUPPLEMENTS = "supplements"
_FORMER = ("records.faiss",)
"""Files of former formats, which an index that takes their place leaves behind."""
_SUPPLEMENT_FILE = re.compile(r"\d{5,}\.(parquet|safetensors)|\.\d{5,}\.(parquet|safetensors)\.tmp")


@dataclass(frozen=True)
class Claim:
    """A directory that is ours to write.

    Attributes:
        lock: held until released.
        manifest: as it stands on the disk.
        discarded: how many shards were given up because a file of theirs was damaged.
    """

    lock: DirectoryLock
    manifest: Manifest
    discarded: int


def claim(root: Path, new_manifest: Manifest, *, overwrite: bool) -> Claim:
    """Lock `root` and bring it to the state from which the index of `new_manifest` can be made.

    Raises:
        IndexStoreError: it holds something else, or another process is writing it.
        OSError: the disk refuses.
    """
    _manifest_to_continue(root, new_manifest, overwrite=overwrite)  # refuse before any writing
    make_private_directory(root)
    lock = DirectoryLock(root)
    try:
        # Once more under the lock: from here on, nobody else changes it.
        old_manifest = _manifest_to_continue(root, new_manifest, overwrite=overwrite)
        discarded = 0
        if old_manifest is None:
            # Replacing the manifest turns another index into leftovers in one step.
            manifest = new_manifest
            manifest.write(root)
            if is_real_directory(root / PENDING):
                shutil.rmtree(root / PENDING)
        elif old_manifest.complete:
            manifest = old_manifest
        else:
            manifest = replace(old_manifest, model=new_manifest.model)
            manifest, discarded = _without_damaged_shards(root, manifest)
        if not manifest.complete:
            _make_folders(root)
        remove_leftovers(root, manifest)
    except BaseException:
        lock.release()
        raise
    return Claim(lock, manifest, discarded)


def _make_folders(root: Path) -> None:
    for folder in FOLDERS:
        path = root / folder
        if os.path.lexists(path) and not is_real_directory(path):
            raise IndexStoreError(
                f"{path} is in the way: it is not a directory of the index.",
                "Move it away, or give another directory with -o.",
            )
        make_private_directory(path)


def _manifest_to_continue(
    root: Path, new_manifest: Manifest, *, overwrite: bool
) -> Manifest | None:
    # Of the index at `root` to go on with (or that is complete), None to begin a new one.
    if not os.path.lexists(root):
        return None
    if not root.is_dir():
        raise IndexStoreError(
            f"{root} is not a directory.", "Give another output directory with -o."
        )
    try:
        old_manifest = read_manifest(root)
    except IndexStoreError:
        if overwrite and _is_ours(root):
            return None
        raise
    if old_manifest is None:
        ours = {LOCK_NAME, MEMORY_NAME, temporary_name(root / MANIFEST_NAME).name}
        if any(path.name not in ours for path in root.iterdir()):
            raise IndexStoreError(
                f"{root} is not an index and is not empty; nothing in it will be touched.",
                "Give another output directory with -o.",
            )
        return None

    same = not difference(old_manifest, new_manifest)
    if old_manifest.complete and not same:
        # Whether a complete index is this one does not depend on where the command is run.
        same = not difference(old_manifest, new_manifest, but=[CORPUS_BASE])
    same_version = old_manifest.tool_version == new_manifest.tool_version
    if same and not old_manifest.complete and same_version:
        return old_manifest
    if overwrite:
        return None
    if same and old_manifest.complete:
        check_files(root, old_manifest.files(), checksums=False)
        return old_manifest
    if same:
        raise IndexStoreError(
            f"The index {root} was begun by haiftrace {old_manifest.tool_version} and "
            f"cannot be continued by {new_manifest.tool_version}.",
            REBUILD_HINT,
        )
    raise IndexStoreError(
        f"{root} holds another index: {difference(old_manifest, new_manifest)}.",
        "Replace it with --overwrite, or give another output directory with -o.",
    )


def _is_ours(root: Path) -> bool:
    try:
        content = json.loads((root / MANIFEST_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return False
    version = content.get("format_version")
    # A newer format may have files that this version does not know.
    return not (isinstance(version, int) and version > FORMAT_VERSION)


def difference(old: Manifest, new: Manifest, but: Collection[str] = ()) -> str:
    """What two indexes were made from, or how, that is not the same, in words; "" for nothing.

    Args:
        but: settings that do not count; those of the corpus as "corpus.NAME".
    """

    def changed_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))

    differences = [f"other {name}" for name in changed_keys(old.fingerprints, new.fingerprints)]
    before, now = _flat(old.settings), _flat(new.settings)
    for name in changed_keys(before, now):
        if name in but:
            continue
        old_value, new_value = json.dumps(before.get(name)), json.dumps(now.get(name))
        if name == CORPUS_BASE:
            name = "the directory that records' paths begin at (where the command was run)"
        differences.append(f"{name} {old_value} there and {new_value} now")
    return "; ".join(differences)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings, with those of the corpus among the others."""
    corpus = settings.get("corpus")
    if not isinstance(corpus, dict):
        return settings
    others = {name: value for name, value in settings.items() if name != "corpus"}
    return {**others, **{f"corpus.{name}": value for name, value in corpus.items()}}


def _without_damaged_shards(root: Path, manifest: Manifest) -> tuple[Manifest, int]:
    # Each shard is by itself; supplements of all shards must be intact.
    if not _is_intact(root, manifest.supplement_files()):
        shortened = replace(manifest, shards=(), supplements={})
    else:
        intact = tuple(shard for shard in manifest.shards if _is_intact(root, shard.files))
        shortened = replace(manifest, shards=intact)
    if shortened != manifest:
        shortened.write(root)
    return shortened, len(manifest.shards) - len(shortened.shards)


def _is_intact(root: Path, files: list[FileEntry]) -> bool:
    try:
        check_files(root, files, checksums=True)
    except IndexStoreError:
        return False
    return True


def remove_leftovers(root: Path, manifest: Manifest) -> None:
    """Remove files of ours that the manifest does not name.

    Raises:
        OSError: the disk refuses.
    """
    if manifest.complete:
        remove_staged(root)
    named = {root / entry.file for entry in (*manifest.files(), *manifest.supplement_files())}
    leftovers = [
        path
        for folder in FOLDERS
        if is_real_directory(root / folder)
        for path in (root / folder).iterdir()
        if SHARD_NAME.fullmatch(path.name)
    ]
    leftovers += [path for path in root.iterdir() if TOKEN_FAISS_FILE.fullmatch(path.name)]
    former = [root / name for name in _FORMER]
    leftovers += former
    leftovers += [temporary_name(path) for path in (*former, root / MANIFEST_NAME)]
    leftovers += [
        path
        for folder in _supplement_folders(root)
        for path in folder.iterdir()
        if _SUPPLEMENT_FILE.fullmatch(path.name)
    ]
    for path in leftovers:
        if path not in named:
            path.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Whether a relative name is one that a file of an index has, or had before it was whole."""
    folder, _, file = name.rpartition("/")
    if folder in FOLDERS:
        return SHARD_NAME.fullmatch(file) is not None
    if not folder:
        temporary = temporary_name(Path(MANIFEST_NAME)).name
        return file == temporary or TOKEN_FAISS_FILE.fullmatch(file) is not None
    home, _, supplement = folder.partition("/")
    return (
        home == SUPPLEMENTS
        and SUPPLEMENT_NAME.fullmatch(supplement) is not None
        and _SUPPLEMENT_FILE.fullmatch(file) is not None
    )


def _supplement_folders(root: Path) -> list[Path]:
    home = root / SUPPLEMENTS
    if not is_real_directory(home):
        return []
    return [
        path
        for path in home.iterdir()
        if SUPPLEMENT_NAME.fullmatch(path.name) and is_real_directory(path)
    ]
