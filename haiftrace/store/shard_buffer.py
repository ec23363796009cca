"""Records that wait in memory to be written together, as one shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from haiftrace.store.durable import replace_durably
from haiftrace.store.manifest import FileEntry, ShardEntry, shard_file
from haiftrace.store.parquet import write_table
from haiftrace.store.rows import WindowRow, record_batch, record_schema, row_bytes
from haiftrace.store.token_codes import TOKEN_ROW_GROUP, code_batch

if TYPE_CHECKING:
    import pyarrow as pa

_RECORD_ROW_GROUP = 1 << 20


@dataclass(frozen=True)
class BufferedRecord:
    """All windows of one corpus record.

    Attributes:
        rows: without their token codes.
        tokens: the codes of all their label tokens; None where the index keeps none.
        label_tokens: how many label tokens the windows have.
        nbytes: what this takes in memory, approximately.
        cursor: how many corpus records are read to their end with this one.
    """

    rows: list[WindowRow]
    tokens: pa.RecordBatch | None
    label_tokens: int
    nbytes: int
    cursor: int

    @classmethod
    def of(cls, rows: Sequence[WindowRow], cursor: int) -> Self:
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
            nbytes=sum(map(row_bytes, rows)) + (tokens.nbytes if tokens is not None else 0),
            cursor=cursor,
        )


def write_shard(
    root: Path, number: int, buffer: Sequence[BufferedRecord], first_record: int, cursor: int
) -> ShardEntry:
    """Write the files of a shard; no manifest names them yet.

    Args:
        root: directory of the index.
        number: of the shard, from 0.
        buffer: its records, at least one.
        first_record: number of the first one in the index.
        cursor: as in `ShardEntry`.

    Raises:
        OSError: the disk refuses.
    """
    records = record_batch((first_record + n, item.rows) for n, item in enumerate(buffer))
    batches = [item.tokens for item in buffer if item.tokens is not None]
    return ShardEntry(
        records=_write_file(root, shard_file("records", number), [records], _RECORD_ROW_GROUP),
        tokens=_write_file(root, shard_file("tokens", number), batches, TOKEN_ROW_GROUP)
        if batches
        else None,
        label_tokens=sum(item.label_tokens for item in buffer),
        record_count=len(buffer),
        cursor=cursor,
    )


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
