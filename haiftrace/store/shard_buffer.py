"""Records that wait in memory to be written together, as one shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from haiftrace.store.durable import new_attempt, replace_durably, staged_name, storage_errors
from haiftrace.store.manifest import FileEntry, Layout, ShardEntry, shard_file
from haiftrace.store.parquet import write_table
from haiftrace.store.rows import WindowRow, check_row, record_batch, record_schema
from haiftrace.store.token_codes import TOKEN_ROW_GROUP, code_batch

if TYPE_CHECKING:
    import pyarrow as pa

_RECORD_ROW_GROUP = 1 << 20


@dataclass(frozen=True)
class _BufferedRecord:
    """All windows of one corpus record.

    Attributes:
        rows: without their token codes.
        tokens: the codes of all their label tokens; None where the index keeps none.
        label_tokens: how many label tokens the windows have.
    """

    rows: list[WindowRow]
    tokens: pa.RecordBatch | None
    label_tokens: int

    @classmethod
    def of(cls, rows: Sequence[WindowRow]) -> Self:
        """The windows of a record, as they are appended."""
        labels = [np.asarray(row.labels, dtype=bool) for row in rows]
        codes = [
            row.token_codes[mask]
            for row, mask in zip(rows, labels, strict=True)
            if row.token_codes is not None
        ]
        tokens = code_batch(np.concatenate(codes)) if codes else None
        return cls(
            rows=[replace(row, token_codes=None) for row in rows],
            tokens=tokens,
            label_tokens=sum(int(mask.sum()) for mask in labels),
        )


@dataclass(frozen=True)
class StagedShard:
    """A shard whose files are durable under names of this attempt alone.

    Attributes:
        entry: its files by the names that they will have.
        attempt: of writing it; nobody else writes files of that name.
    """

    entry: ShardEntry
    attempt: str

    @property
    def moves(self) -> list[tuple[str, str]]:
        """Relative names of its files: as they are, and as they will be."""
        names = [entry.file for entry in self.entry.files]
        return [(str(staged_name(Path(name), self.attempt)), name) for name in names]


class ShardBuffer:
    """The records of one shard: gathered in memory, and then written, without any lock.

    What is written depends on the records alone, so it does not matter who does it, or how often.

    Args:
        root: directory of the index.
        layout: the shape of its rows.
    """

    def __init__(self, root: Path, layout: Layout) -> None:
        self._root = root
        self._layout = layout
        self._records: list[_BufferedRecord] = []

    @property
    def size(self) -> tuple[int, int, int]:
        """How many records, windows and label tokens it holds."""
        records = self._records
        windows = sum(len(item.rows) for item in records)
        return len(records), windows, sum(item.label_tokens for item in records)

    def append(self, rows: Sequence[WindowRow]) -> None:
        """Take one corpus record: all its windows, at least one.

        Raises:
            IndexStoreError: a value that must not be stored.
            ValueError: rows that do not fit the settings.
        """
        if not rows:
            raise ValueError("a record must have at least one window")
        for row in rows:
            check_row(row, self._layout)
        self._records.append(_BufferedRecord.of(rows))

    def write(self, number: int, first_record: int, cursor: int) -> StagedShard:
        """Write the shard's files aside; `IndexWriter.add_shard` makes them part of the index.

        Args:
            number: of the shard, from 0.
            first_record: number of its first record in the index.
            cursor: as in `ShardEntry`.

        Raises:
            IndexStoreError: the disk refuses.
        """
        attempt, buffer = new_attempt(), self._records
        records = record_batch((first_record + n, item.rows) for n, item in enumerate(buffer))
        batches = [item.tokens for item in buffer if item.tokens is not None]

        def written(folder: str, batches: list[pa.RecordBatch], group: int) -> FileEntry:
            name = shard_file(folder, number)
            staged = str(staged_name(Path(name), attempt))
            return replace(_write_file(self._root, staged, batches, group), file=name)

        with storage_errors(self._root), ExitStack() as undone:
            for folder in ("records", "tokens"):
                file = staged_name(self._root / shard_file(folder, number), attempt)
                undone.callback(file.unlink, missing_ok=True)
            entry = ShardEntry(
                records=written("records", [records], _RECORD_ROW_GROUP),
                tokens=written("tokens", batches, TOKEN_ROW_GROUP) if batches else None,
                label_tokens=sum(item.label_tokens for item in buffer),
                record_count=len(buffer),
                cursor=cursor,
            )
            undone.pop_all()
        return StagedShard(entry, attempt)


def write_record_file(root: Path, name: str, columns: Mapping[str, object]) -> FileEntry:
    """Write a file of records/ from its columns, by name; no manifest names it yet.

    Raises:
        OSError: the disk refuses.
    """
    import pyarrow as pa

    schema = record_schema()
    table = pa.table([pa.chunked_array(_chunks(columns[f.name], f.type)) for f in schema], schema)
    batches = table.combine_chunks().to_batches()
    return _write_file(root, name, batches, _RECORD_ROW_GROUP)


def _chunks(column: Any, kind: Any) -> list[Any]:
    import pyarrow as pa

    return [pa.array(column, kind)] if isinstance(column, np.ndarray | list) else column.chunks


def _write_file(
    root: Path, name: str, batches: Sequence[pa.RecordBatch], row_group_size: int
) -> FileEntry:
    rows = sum(batch.num_rows for batch in batches)
    written = replace_durably(root / name, lambda sink: write_table(batches, row_group_size, sink))
    return FileEntry(name, written.sha256, written.bytes, rows)
