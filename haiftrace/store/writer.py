"""Writing an index: shards that are durable before the manifest names them.

At every instant the manifest on disk names only complete files, so an interruption of any kind
leaves the state before or after the current shard, never one between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from haiftrace import __version__
from haiftrace.errors import HaiftraceError, IndexStoreError
from haiftrace.store.basis import basis_of
from haiftrace.store.checked_files import CheckedFiles
from haiftrace.store.claim import Claim, claim
from haiftrace.store.durable import storage_errors
from haiftrace.store.inverted_recall import keep_inverted_file
from haiftrace.store.manifest import InvertedEntry, Layout, Manifest, Totals, plain
from haiftrace.store.rows import WindowRow, check_path, check_row
from haiftrace.store.shard_buffer import BufferedRecord, write_shard
from haiftrace.store.staged_tokens import remove_staged, write_token_file
from haiftrace.store.supplements import read_tensors, write_tensor_supplement

if TYPE_CHECKING:
    from torch import Tensor

SHARD_ROWS = 512
SHARD_BYTES = 64 << 20


@dataclass(frozen=True)
class ResumePoint:
    """What is durable already: windows, records with a window, and the last shard's cursor."""

    windows: int
    records: int
    cursor: int


@dataclass(frozen=True)
class _State:
    # Replaced in one assignment, so that an interrupt cannot leave the two disagreeing.
    manifest: Manifest
    buffer: list[BufferedRecord] = field(default_factory=list)


class IndexWriter:
    """Writes one index; holds the directory's lock until it is closed.

    Use it as a context manager: leaving the block, by Ctrl-C or an error too, makes durable
    what was appended, and releases the lock.

    Attributes:
        already_complete: True where the directory holds this very index, finished.
        discarded_shards: shards given up on resuming because their files were damaged.
    """

    def __init__(self, root: Path, claimed: Claim, shard_rows: int, shard_bytes: int) -> None:
        """Not for callers; see `create_or_resume`."""
        self._root = root
        self._lock = claimed.lock
        self._state = _State(claimed.manifest)
        self._layout = claimed.manifest.layout
        self._shard_rows = shard_rows
        self._shard_bytes = shard_bytes
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
        shard_rows: int = SHARD_ROWS,
        shard_bytes: int = SHARD_BYTES,
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
            shard_rows, shard_bytes: a shard is closed when it has so many windows or bytes.

        Raises:
            IndexStoreError: the directory holds something else, is being written by another
                process, or cannot be written.
            ValueError: settings or fingerprints are not JSON or miss what shapes the rows.
        """
        if shard_rows < 1 or shard_bytes < 1:
            raise ValueError("shard_rows and shard_bytes must be positive")
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
            return cls(root, claim(root, manifest, overwrite=overwrite), shard_rows, shard_bytes)

    @property
    def resume_after(self) -> ResumePoint:
        """How far the index is durable."""
        manifest = self._state.manifest
        cursor = manifest.shards[-1].cursor if manifest.shards else 0
        return ResumePoint(manifest.totals.windows, manifest.totals.records, cursor)

    @property
    def totals(self) -> Totals:
        """Sizes of the index as far as it is durable."""
        return self._state.manifest.totals

    @property
    def inverted(self) -> InvertedEntry | None:
        """The inverted file over the tokens of a finished index; None where all are scanned."""
        return self._state.manifest.token_ivf

    def append_record(self, rows: Sequence[WindowRow], cursor: int) -> None:
        """As `append_records`, of one record: its windows, at least one, and its cursor."""
        self.append_records([(rows, cursor)])

    def append_records(self, records: Sequence[tuple[Sequence[WindowRow], int]]) -> None:
        """Take corpus records that were computed together; closes the shard when it is full.

        They stay together in one shard, whatever interrupts it: a run that is resumed computes
        the next ones together, as this one would have.

        Args:
            records: all windows of each record, at least one, and its cursor: how many corpus
                records are read to their end with it.

        Raises:
            IndexStoreError: a value that must not be stored, or the disk refuses.
            ValueError: rows that do not fit the settings, or a cursor that does not advance.
        """
        self._check_open()
        last = self._cursor()
        for rows, cursor in records:
            if not rows:
                raise ValueError("a record must have at least one window")
            if cursor <= last:
                raise ValueError("the cursor must advance with every record")
            last = cursor
            for row in rows:
                check_row(row, self._layout)
        buffer = self._state.buffer
        # In one step, so that an interrupt leaves all of them in the buffer, or none.
        buffer.extend([BufferedRecord.of(rows, cursor) for rows, cursor in records])
        rows_held = sum(len(item.rows) for item in buffer)
        bytes_held = sum(item.nbytes for item in buffer)
        if rows_held >= self._shard_rows or bytes_held >= self._shard_bytes:
            self.flush()

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
        state = self._state
        self._uncertain = True
        with storage_errors(self._root):
            basis = basis_of(state.manifest, rows=False)
            entry = write_tensor_supplement(self._root, name, settings, tensors, basis)
            supplements = {**state.manifest.supplements, name: entry}
            manifest = replace(state.manifest, supplements=supplements)
            manifest.write(self._root)
        self._state = _State(manifest, state.buffer)
        self._uncertain = False

    def stored_tensors(self, name: str) -> dict[str, Tensor] | None:
        """What `keep_tensors` kept under that name, of an interrupted run too; None for nothing.

        Raises:
            IndexStoreError: it cannot be read.
        """
        entry = self._state.manifest.supplements.get(name)
        if entry is None or not entry.complete:
            return None
        CheckedFiles(self._root).check(entry.files)
        tensors, _ = read_tensors(self._root, entry.files[0])
        return tensors

    def flush(self, cursor: int | None = None) -> None:
        """Make durable what was appended, as one shard; nothing to do where there is nothing.

        Args:
            cursor: as in `append_record`, where records without any window came after.

        Raises:
            IndexStoreError: the disk refuses. The index is as before, or has the shard.
        """
        self._check_open()
        cursor = self._cursor() if cursor is None else cursor
        if cursor < self._cursor():
            raise ValueError("the cursor must not go back")
        manifest, buffer = self._state.manifest, self._state.buffer
        if not buffer:
            return
        # Stays set after any failure: the manifest on disk may then already name this shard,
        # and writing another under its number would break it.
        self._uncertain = True
        with storage_errors(self._root):
            shard = write_shard(
                self._root, len(manifest.shards), buffer, manifest.totals.records, cursor
            )
            manifest = replace(manifest, shards=(*manifest.shards, shard))
            manifest.write(self._root)
        self._state = _State(manifest)
        self._uncertain = False

    def finish(self, extra_manifest: Mapping[str, Any] | None = None) -> Totals:
        """Flush, build the search index over tokens, and mark the index complete.

        Args:
            extra_manifest: JSON values kept as the manifest's `extra`.

        Raises:
            IndexStoreError: there is no window, a shard is damaged, or the disk refuses; the
                index is then unfinished as before.
        """
        extra = plain(extra_manifest or {})
        self.flush()
        manifest = self._state.manifest
        totals = manifest.totals
        if totals.windows == 0:
            raise IndexStoreError(
                "The corpus gave no record that can be indexed, so there is no index to finish.",
                "Check the corpus: every record needs at least two tokens.",
            )
        self._uncertain = True
        with storage_errors(self._root):
            searched = write_token_file(self._root, manifest)
            manifest = replace(
                manifest,
                # The search index takes the place of the shards' vectors.
                token_faiss=searched,
                token_ivf=keep_inverted_file(self._root, manifest, manifest.generation, searched),
                shards=tuple(replace(shard, tokens=None) for shard in manifest.shards),
                complete=True,
                finished=_now(),
                extra=extra,
            )
            manifest.write(self._root)
        self._state = _State(manifest)
        self._uncertain = False
        remove_staged(self._root)
        return totals

    def close(self) -> None:
        """Release the lock; what was appended and not flushed is dropped."""
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
        """Flush, unless an earlier write failed, and close."""
        try:
            if self._state.buffer and not self._uncertain and not self._closed:
                # A failure to save must not hide the error that ended the block.
                with contextlib.suppress(*([HaiftraceError] if error is not None else [])):
                    self.flush()
        finally:
            self.close()

    def _cursor(self) -> int:
        buffer = self._state.buffer
        return buffer[-1].cursor if buffer else self.resume_after.cursor

    def _check_open(self) -> None:
        if self._uncertain:
            raise IndexStoreError(
                f"The index {self._root} takes nothing more after a failed or interrupted write.",
                "Run the same `haiftrace index` command again: it goes on from its last complete "
                "shard.",
            )
        if self._closed or self._state.manifest.complete:
            raise ValueError("the index is complete or its writer is closed")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
