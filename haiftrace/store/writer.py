"""Writing an index: shards that are durable before the manifest names them.

At every instant the manifest on disk names only complete files, so an interruption of any kind
leaves the state before or after a shard, never one between. Shards come in any order, written by
whoever has the time (see `ShardBuffer`); one process, which holds the lock, makes them part of the
index.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from haiftrace import __version__
from haiftrace.atomic_write import sync_directory
from haiftrace.errors import IndexStoreError
from haiftrace.store.basis import basis_of
from haiftrace.store.checked_files import CheckedFiles
from haiftrace.store.claim import Claim, claim
from haiftrace.store.durable import storage_errors
from haiftrace.store.inverted_recall import keep_inverted_file
from haiftrace.store.manifest import Layout, Manifest, Totals, plain
from haiftrace.store.rows import check_path
from haiftrace.store.shard_buffer import StagedShard
from haiftrace.store.staged_tokens import remove_staged, write_token_file
from haiftrace.store.supplements import read_tensors, write_tensor_supplement

if TYPE_CHECKING:
    from torch import Tensor


class IndexWriter:
    """Writes one index; holds the directory's lock until it is closed (a context manager).

    Attributes:
        root: the directory.
        manifest: of the index as far as it is durable.
        already_complete: True where the directory holds this very index, finished.
        discarded_shards: shards given up on resuming because their files were damaged.
    """

    def __init__(self, root: Path, claimed: Claim) -> None:
        """Not for callers; see `create_or_resume`."""
        self.root = root
        self._lock = claimed.lock
        self.manifest = claimed.manifest
        self._uncertain = False
        self._closed = False
        self.already_complete = claimed.manifest.complete
        self.discarded_shards = claimed.discarded

    @classmethod
    def create_or_resume(
        cls,
        path: str | Path,
        settings: Mapping[str, Any],
        fingerprints: Mapping[str, Any],
        overwrite: bool = False,
        *,
        model: Mapping[str, Any] | None = None,
    ) -> IndexWriter:
        """Open `path` for writing.

        An unfinished index with the same settings and fingerprints is continued, with
        `overwrite` too; a finished one is left as it is, and made anew with `overwrite`.

        Args:
            path: the directory; made if need be.
            settings: JSON values; `token_vectors` shapes the rows (see `Layout`).
            fingerprints: JSON values, for example of weights, tokenizer and corpus.
            overwrite: replace another index. Only files of our own are ever removed.
            model: about the checkpoint, for the manifest; not compared.

        Raises:
            IndexStoreError: the directory holds something else, is being written by another
                process, or cannot be written.
            ValueError: settings or fingerprints are not JSON or miss what shapes the rows.
        """
        manifest = Manifest(
            tool_version=__version__,
            created=_now(),
            settings=plain(settings),
            fingerprints=plain(fingerprints),
            model=plain(model or {}),
        )
        Layout.from_settings(manifest.settings)  # raises for settings that shape no rows
        root = Path(path)
        check_path(root)
        with storage_errors(root):
            return cls(root, claim(root, manifest, overwrite=overwrite))

    @property
    def totals(self) -> Totals:
        """Sizes of the index as far as it is durable."""
        return self.manifest.totals

    @property
    def shard_numbers(self) -> set[int]:
        """The shards that are durable."""
        return {shard.number for shard in self.manifest.shards}

    def add_shard(self, staged: StagedShard) -> None:
        """Make a shard part of the index, durably.

        Raises:
            IndexStoreError: the disk refuses. The index is as before, or has the shard.
            ValueError: it has that shard already.
        """
        self._check_open()
        number = staged.entry.number
        if number in self.shard_numbers:
            raise ValueError(f"the index has shard {number} already")
        shards = sorted([*self.manifest.shards, staged.entry], key=lambda shard: shard.number)
        # Until the manifest names them, files of these names belong to nothing.
        self._uncertain = True
        with storage_errors(self.root), ExitStack() as undone:
            for now, _ in staged.moves:
                undone.callback((self.root / now).unlink, missing_ok=True)
            for now, then in staged.moves:
                os.replace(self.root / now, self.root / then)
                sync_directory((self.root / then).parent)
            undone.pop_all()
        self._replace(replace(self.manifest, shards=tuple(shards)))

    def discard_shards(self, numbers: Collection[int]) -> None:
        """Give up shards; their files are written over.

        Raises:
            IndexStoreError: the disk refuses.
        """
        self._check_open()
        kept = tuple(shard for shard in self.manifest.shards if shard.number not in numbers)
        self._replace(replace(self.manifest, shards=kept))

    def keep_tensors(
        self, name: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        """Keep a supplement of tensors (see `supplements`) that belongs to all shards to come.

        Args:
            name: of the supplement; one that is there is replaced.
            settings: JSON values, what it depends on beside the index itself.

        Raises:
            IndexStoreError: the disk refuses.
        """
        self._check_open()
        self._uncertain = True
        with storage_errors(self.root):
            basis = basis_of(self.manifest, rows=False)
            entry = write_tensor_supplement(self.root, name, settings, tensors, basis)
        supplements = {**self.manifest.supplements, name: entry}
        self._replace(replace(self.manifest, supplements=supplements))

    def stored_tensors(self, name: str) -> dict[str, Tensor] | None:
        """What `keep_tensors` kept under that name, of an interrupted run too; None for nothing.

        Raises:
            IndexStoreError: it cannot be read.
        """
        return kept_tensors(self.root, self.manifest, name)

    def keep_extra(self, extra: Mapping[str, Any]) -> None:
        """Keep JSON values as the manifest's `extra`, of an index that others will finish.

        Raises:
            IndexStoreError: the disk refuses.
        """
        self._check_open()
        if self.manifest.extra != plain(extra):
            self._replace(replace(self.manifest, extra=plain(extra)))

    def finish(self, extra_manifest: Mapping[str, Any] | None = None) -> Totals:
        """Build the search index over tokens, and mark the index complete.

        Args:
            extra_manifest: JSON values kept as the manifest's `extra`.

        Raises:
            IndexStoreError: there is no window, a shard is damaged, or the disk refuses; the
                index is then unfinished as before.
            ValueError: a shard is missing.
        """
        self._check_open()
        extra = plain(extra_manifest or {})
        manifest = self.manifest
        totals = manifest.totals
        if totals.windows == 0:
            raise IndexStoreError(
                "The corpus gave no record that can be indexed, so there is no index to finish.",
                "Check the corpus: every record needs at least two tokens.",
            )
        if self.shard_numbers != set(range(len(manifest.shards))):
            raise ValueError("a shard is missing")
        self._uncertain = True
        with storage_errors(self.root):
            searched = write_token_file(self.root, manifest)
            manifest = replace(
                manifest,
                # The search index takes the place of the shards' vectors.
                token_faiss=searched,
                token_ivf=keep_inverted_file(self.root, manifest, manifest.generation, searched),
                shards=tuple(replace(shard, tokens=None) for shard in manifest.shards),
                complete=True,
                finished=_now(),
                extra=extra,
            )
        self._replace(manifest)
        remove_staged(self.root)
        return totals

    def close(self) -> None:
        """Release the lock."""
        self._closed = True
        self._lock.release()

    def __enter__(self) -> Self:
        """Nothing but the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _replace(self, manifest: Manifest) -> None:
        # Stays set after any failure: the manifest on disk may then be the new one already, and
        # writing files under its names would break it.
        self._uncertain = True
        with storage_errors(self.root):
            manifest.write(self.root)
        self.manifest = manifest
        self._uncertain = False

    def _check_open(self) -> None:
        if self._uncertain:
            raise IndexStoreError(
                f"The index {self.root} takes nothing more after a failed or interrupted write.",
                "Run the same `haiftrace index` command again: it goes on from its last complete "
                "shard.",
            )
        if self._closed or self.manifest.complete:
            raise ValueError("the index is complete or its writer is closed")


def kept_tensors(root: Path, manifest: Manifest, name: str) -> dict[str, Tensor] | None:
    """The tensors of an unfinished index's supplement; None where it has none.

    Raises:
        IndexStoreError: they cannot be read.
    """
    entry = manifest.supplements.get(name)
    if entry is None or not entry.complete:
        return None
    CheckedFiles(root).check(entry.files)
    tensors, _ = read_tensors(root, entry.files[0])
    return tensors


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
