"""Writing an index: shards that are durable before the manifest names them.

At every instant the manifest on disk names only whole files, so an interruption of any kind
leaves the state before or after the current shard, never one between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from haiftrace import __version__
from haiftrace.errors import HaiftraceError, IndexStoreError
from haiftrace.store.claim import Claim, claim
from haiftrace.store.durable import replace_durably, storage_errors
from haiftrace.store.manifest import (
    FAISS_NAME,
    TOKEN_FAISS_NAME,
    FileEntry,
    Manifest,
    ShardEntry,
    Totals,
    plain,
    shard_file,
)
from haiftrace.store.parquet import open_parquet, read_columns, vectors_of, write_table
from haiftrace.store.rows import (
    TOKEN_ROW_GROUP,
    WindowRow,
    check_row,
    record_batch,
    record_schema,
    token_batch,
)
from haiftrace.store.shortlist import write_flat_index
from haiftrace.store.token_codes import read_token_vectors
from haiftrace.store.token_search import write_token_index

if TYPE_CHECKING:
    import pyarrow as pa

SHARD_ROWS = 512
SHARD_BYTES = 64 << 20


@dataclass(frozen=True)
class ResumePoint:
    """What is durable already: windows, records with a window, and the last shard's cursor."""

    windows: int
    records: int
    cursor: int


@dataclass(frozen=True)
class _Buffered:
    records: pa.RecordBatch
    tokens: pa.RecordBatch
    nbytes: int
    cursor: int


@dataclass(frozen=True)
class _State:
    # Replaced as a whole, so that an interrupt cannot leave manifest and buffer disagreeing.
    manifest: Manifest
    buffer: list[_Buffered] = field(default_factory=list)


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
            settings: JSON values; `projection_dim`, `vector_dtype`, `token_vectors` and
                `extra_columns` shape the rows (see `Layout`).
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
        wanted = Manifest(
            tool_version=__version__,
            created=_now(),
            settings=plain(settings),
            fingerprints=plain(fingerprints),
            model=plain(model or {}),
        )
        record_schema(wanted.layout)  # raises for settings that give no valid columns
        root = Path(path)
        with storage_errors(root):
            return cls(root, claim(root, wanted, overwrite=overwrite), shard_rows, shard_bytes)

    @property
    def resume_after(self) -> ResumePoint:
        """How far the durable part of the index reaches."""
        manifest = self._state.manifest
        cursor = manifest.shards[-1].cursor if manifest.shards else 0
        return ResumePoint(manifest.totals.windows, manifest.totals.records, cursor)

    @property
    def totals(self) -> Totals:
        """Sizes of the durable part of the index."""
        return self._state.manifest.totals

    def append_record(self, rows: Sequence[WindowRow], cursor: int) -> None:
        """Take all windows of one corpus record; closes the shard when it is full.

        Args:
            rows: at least one window.
            cursor: how many corpus records are read to their end with this one.

        Raises:
            IndexStoreError: a value that must not be stored, or the disk refuses.
            ValueError: rows that do not fit the settings, or a cursor that does not advance.
        """
        self._check_open()
        if not rows:
            raise ValueError("a record must have at least one window")
        if cursor <= self._cursor():
            raise ValueError("the cursor must advance with every record")
        for row in rows:
            check_row(row, self._layout)
        buffer, totals = self._state.buffer, self._state.manifest.totals
        first_row = totals.windows + sum(item.records.num_rows for item in buffer)
        records = record_batch(rows, totals.records + len(buffer), self._layout)
        tokens = token_batch(rows, first_row, self._layout)
        buffer.append(_Buffered(records, tokens, records.nbytes + tokens.nbytes, cursor))
        rows_held = sum(item.records.num_rows for item in buffer)
        bytes_held = sum(item.nbytes for item in buffer)
        if rows_held >= self._shard_rows or bytes_held >= self._shard_bytes:
            self.flush()

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
        number = len(manifest.shards)
        # Stays set after any failure: the manifest on disk may then already name this shard,
        # and writing another under its number would break it.
        self._uncertain = True
        with storage_errors(self._root):
            shard = ShardEntry(
                records=self._write_table(
                    shard_file("records", number), [item.records for item in buffer], 1 << 20
                ),
                tokens=self._write_table(
                    shard_file("tokens", number), [item.tokens for item in buffer], TOKEN_ROW_GROUP
                ),
                record_count=len(buffer),
                cursor=cursor,
            )
            manifest = replace(manifest, shards=(*manifest.shards, shard))
            manifest.write(self._root)
        self._state = _State(manifest)
        self._uncertain = False

    def finish(self, extra_manifest: Mapping[str, Any] | None = None) -> Totals:
        """Flush, build the search indexes, and mark the index complete.

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
        dim = self._layout.projection_dim
        self._uncertain = True
        with storage_errors(self._root):
            written = replace_durably(
                self._root / FAISS_NAME,
                lambda sink: write_flat_index(sink, dim, totals.windows, self._vector_blocks()),
            )
            tokens = self._token_index(totals.label_tokens)
            manifest = replace(
                manifest,
                complete=True,
                finished=_now(),
                faiss=FileEntry(FAISS_NAME, written.sha256, written.bytes, totals.windows),
                token_faiss=tokens,
                extra=extra,
            )
            manifest.write(self._root)
        self._state = _State(manifest)
        self._uncertain = False
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

    def _write_table(
        self, name: str, batches: Sequence[pa.RecordBatch], row_group_size: int
    ) -> FileEntry:
        rows = sum(batch.num_rows for batch in batches)
        written = replace_durably(
            self._root / name, lambda sink: write_table(batches, row_group_size, sink)
        )
        return FileEntry(name, written.sha256, written.bytes, rows)

    def _token_index(self, count: int) -> FileEntry | None:
        dim = self._layout.token_vectors
        if not dim or not count:
            return None
        written = replace_durably(
            self._root / TOKEN_FAISS_NAME,
            lambda sink: write_token_index(sink, dim, count, self._token_blocks),
        )
        return FileEntry(TOKEN_FAISS_NAME, written.sha256, written.bytes, count)

    def _token_blocks(self) -> Iterator[np.ndarray]:
        for shard in self._state.manifest.shards:
            path = self._root / shard.tokens.file
            with open_parquet(path, shard.tokens.rows) as file:
                for group in range(file.metadata.num_row_groups):
                    yield read_token_vectors(path, file, group)

    def _vector_blocks(self) -> Iterator[np.ndarray]:
        for shard in self._state.manifest.shards:
            path = self._root / shard.records.file
            with open_parquet(path, shard.records.rows) as file:
                table = read_columns(path, file, ["vector"])
            yield vectors_of(table.column("vector")).astype(np.float32)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
