"""Changing a complete index: masking records, removing them from every file, adding others.

Files are written under new names, and count from the moment that the manifest names them; what it
names no more is removed after that. An interruption leaves the index before the change or after
it. Supplements that were computed from the rows belong to other rows then, and go.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from haiftrace.errors import IndexStoreError
from haiftrace.store.basis import rebound
from haiftrace.store.checked_files import MEMORY_NAME, CheckedFiles
from haiftrace.store.claim import remove_leftovers
from haiftrace.store.durable import (
    DirectoryLock,
    is_real_directory,
    replace_durably,
    storage_errors,
)
from haiftrace.store.faiss_file import FlatCodes
from haiftrace.store.inverted_recall import keep_inverted_file
from haiftrace.store.live_rows import LiveRows
from haiftrace.store.manifest import (
    PENDING,
    REBUILD_HINT,
    AppendedCorpus,
    DroppedRecord,
    FileEntry,
    Manifest,
    ShardEntry,
    shard_file,
    token_faiss_file,
)
from haiftrace.store.manifest_reading import read_manifest
from haiftrace.store.parquet import open_parquet, read_columns
from haiftrace.store.rows import check_path, record_schema
from haiftrace.store.shard_buffer import write_record_file
from haiftrace.store.token_search import write_token_index

if TYPE_CHECKING:
    import pyarrow as pa


class Revision:
    """One change of a complete index; holds the directory's lock until it is closed.

    Attributes:
        manifest: of the index as it is on the disk.
        pending: directory in which records to be added are indexed first.
    """

    def __init__(self, root: Path) -> None:
        """Take the lock at once.

        Raises:
            IndexStoreError: there is no complete index, or another process is writing it.
        """
        check_path(root)
        if read_manifest(root) is None:
            raise IndexStoreError(f"There is no index at {root}.", "Name one with -o.")
        self._root = root
        self.pending = root / PENDING
        self._lock = DirectoryLock(root)
        try:
            manifest = read_manifest(root)
            if manifest is None or not manifest.complete:
                raise IndexStoreError(f"The index {root} is not complete.", REBUILD_HINT)
            self.manifest: Manifest = manifest
            self._files = CheckedFiles(root)
        except BaseException:
            self._lock.release()
            raise

    def mask(self, dropped: Sequence[DroppedRecord]) -> None:
        """Give records to nobody from now on; they stay in the files until `compact`.

        Raises:
            IndexStoreError: no record would be left, or the disk refuses.
        """
        masked = sorted({*self.manifest.dropped, *dropped}, key=lambda entry: entry.record)
        manifest = replace(self.manifest, dropped=tuple(masked))
        if manifest.totals.records <= 0:
            raise IndexStoreError(
                f"All records of the index {self._root} would be dropped, and none be left.",
                "Remove the directory instead.",
            )
        self._replace(manifest)

    def compact(self) -> None:
        """Write every file anew without the masked records, and remove the old ones.

        Raises:
            IndexStoreError: a file is damaged, or the disk refuses.
        """
        manifest, live = self.manifest, LiveRows(self.manifest)
        generation = manifest.generation + 1
        if live.mask is None:
            with storage_errors(self._root):
                remove_leftovers(self._root, manifest)
            self.discard_pending()
            return
        shards: list[ShardEntry] = []
        dropped_N = np.array([entry.record for entry in manifest.dropped])
        with storage_errors(self._root):
            for number, shard in enumerate(manifest.shards):
                table = self._table(self._files, shard.records)
                table = table.filter(live.of_shard(number))
                if table.num_rows:
                    records = live.record_numbers(table.column("record").to_numpy())
                    name = shard_file("records", len(shards), generation)
                    shards.append(self._write_shard(table, records, name, shard.cursor))
            blocks = self._live_blocks(live.mask)
            searched = self._write_faiss(generation, manifest.totals.label_tokens, blocks)
            manifest = replace(
                manifest,
                shards=tuple(shards),
                token_faiss=searched,
                token_ivf=keep_inverted_file(self._root, manifest, generation, searched),
                appended=tuple(
                    replace(
                        each,
                        first_record=each.first_record
                        - int(np.searchsorted(dropped_N, each.first_record)),
                    )
                    for each in manifest.appended
                ),
                dropped=(),
                generation=generation,
            )
        self._replace(manifest)

    def append(self, paths: Sequence[str], fingerprint: str) -> None:
        """Add the rows of the complete index in `pending`, which goes.

        Args:
            paths, fingerprint: of the corpus files that it was made from.

        Raises:
            IndexStoreError: a file is damaged, or the disk refuses.
        """
        manifest, pending = self.manifest, read_manifest(self.pending)
        assert pending is not None
        assert pending.complete
        stored = manifest.stored_totals
        generation = manifest.generation + 1
        files = CheckedFiles(self.pending)
        shards = list(manifest.shards)
        with storage_errors(self._root):
            for shard in pending.shards:
                table = self._table(files, shard.records)
                records = table.column("record").to_numpy() + stored.records
                name = shard_file("records", len(shards), generation)
                shards.append(self._write_shard(table, records, name, shard.cursor))
            count = stored.label_tokens + pending.totals.label_tokens

            def blocks() -> Iterator[np.ndarray]:
                yield from self._blocks(self._files, manifest)
                yield from self._blocks(files, pending)

            added = AppendedCorpus(tuple(paths), fingerprint, stored.records)
            searched = self._write_faiss(generation, count, blocks())
            manifest = replace(
                manifest,
                shards=tuple(shards),
                token_faiss=searched,
                token_ivf=keep_inverted_file(self._root, manifest, generation, searched),
                appended=(*manifest.appended, added),
                generation=generation,
            )
        self._replace(manifest)

    def renew_corpus(
        self, fingerprints: Sequence[str], moved: Mapping[str, tuple[str, int | None]]
    ) -> None:
        """Bind the index to its corpus as it is now.

        Args:
            fingerprints: of the first corpus, and of each that was appended.
            moved: path and line of records that stand elsewhere now, by id.

        Raises:
            IndexStoreError: a file is damaged, or the disk refuses.
        """
        first, *others = fingerprints
        shards, generation = self.manifest.shards, self.manifest.generation
        if moved:
            generation += 1
            with storage_errors(self._root):
                shards = tuple(
                    self._moved(shard, shard_file("records", number, generation), moved)
                    for number, shard in enumerate(shards)
                )
        appended = tuple(
            replace(each, fingerprint=other)
            for each, other in zip(self.manifest.appended, others, strict=True)
        )
        manifest = replace(
            self.manifest,
            fingerprints={**self.manifest.fingerprints, "corpus": first},
            appended=appended,
            shards=shards,
            generation=generation,
        )
        self._replace(manifest)

    def _moved(
        self, shard: ShardEntry, name: str, moved: Mapping[str, tuple[str, int | None]]
    ) -> ShardEntry:
        table = self._table(self._files, shard.records)
        ids, paths, lines = (table.column(key).to_pylist() for key in ("id", "path", "line"))
        places = [
            moved.get(*pair) for pair in zip(ids, zip(paths, lines, strict=True), strict=True)
        ]
        columns = {
            **{column: table.column(column) for column in record_schema().names},
            "path": [path for path, _ in places],
            "line": [line for _, line in places],
        }
        return replace(shard, records=write_record_file(self._root, name, columns))

    def discard_pending(self) -> None:
        """Remove what an interrupted appending left.

        Raises:
            IndexStoreError: the disk refuses.
        """
        with storage_errors(self._root):
            if is_real_directory(self.pending):
                shutil.rmtree(self.pending)

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> Self:
        """Nothing but the change itself."""
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
        with storage_errors(self._root):
            manifest = replace(manifest, supplements=rebound(manifest))
            manifest.write(self._root)
            self.manifest = manifest
            (self._root / MEMORY_NAME).unlink(missing_ok=True)
            self._files = CheckedFiles(self._root)
            remove_leftovers(self._root, manifest)
        self.discard_pending()

    def _table(
        self, files: CheckedFiles, entry: FileEntry, names: Sequence[str] | None = None
    ) -> pa.Table:
        path = files.path(entry)
        with open_parquet(path, entry.rows) as file:
            return read_columns(path, file, names or record_schema().names)

    def _write_shard(
        self, table: pa.Table, records: np.ndarray, name: str, cursor: int
    ) -> ShardEntry:
        columns: Mapping[str, object] = {
            column: records if column == "record" else table.column(column)
            for column in record_schema().names
        }
        return ShardEntry(
            records=write_record_file(self._root, name, columns),
            tokens=None,
            label_tokens=int(table.column("label_count").to_numpy().sum()),
            record_count=len(np.unique(records)),
            cursor=cursor,
        )

    def _write_faiss(
        self, generation: int, count: int, blocks: Iterator[np.ndarray]
    ) -> FileEntry | None:
        dim = self.manifest.layout.token_vectors
        if not dim or not count:
            return None
        name = token_faiss_file(generation)
        written = replace_durably(
            self._root / name, lambda sink: write_token_index(sink, dim, count, blocks)
        )
        return FileEntry(name, written.sha256, written.bytes, count)

    def _blocks(self, files: CheckedFiles, manifest: Manifest) -> Iterator[np.ndarray]:
        entry = manifest.token_faiss
        if entry is not None:
            codes = FlatCodes(files.path(entry), manifest.layout.token_vectors, entry.rows)
            try:
                yield from codes.blocks()
            finally:
                codes.close()

    def _live_blocks(self, mask: np.ndarray) -> Iterator[np.ndarray]:
        counts = [
            self._table(self._files, shard.records, ["label_count"])
            .column("label_count")
            .to_numpy()
            for shard in self.manifest.shards
        ]
        live_tokens = np.repeat(mask, np.concatenate(counts))
        first = 0
        for block in self._blocks(self._files, self.manifest):
            yield block[live_tokens[first : first + len(block)]]
            first += len(block)
