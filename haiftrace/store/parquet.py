"""Parquet files of the index: written the same for the same rows, read by columns, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.errors import DamagedIndexError
from haiftrace.store.manifest import REBUILD_HINT

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_REPEATED = ["path"]
"""Columns with few different values."""

_ENCODINGS = {
    "offset_starts.list.element": "DELTA_BINARY_PACKED",
    "offset_ends.list.element": "DELTA_BINARY_PACKED",
    "token_loss.list.element": "BYTE_STREAM_SPLIT",
    "token_norm.list.element": "BYTE_STREAM_SPLIT",
}
"""What takes less room than plain numbers, by a column's name in Parquet."""


def write_table(batches: Sequence[pa.RecordBatch], row_group_size: int, sink: Any) -> int:
    """Write batches as one Parquet file, the same bytes for the same rows; returns the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_batches(list(batches)).combine_chunks()
    names = table.column_names
    pq.write_table(
        table,
        sink,
        row_group_size=row_group_size,
        compression="zstd",
        use_dictionary=[name for name in _REPEATED if name in names],
        column_encoding={
            column: kind for column, kind in _ENCODINGS.items() if column.partition(".")[0] in names
        },
        # A CRC32 a page: what is read is checked even where the file's checksum is remembered.
        write_page_checksum=True,
        # Statistics would repeat texts in the footer, and cost more than writing the numbers.
        write_statistics=False,
    )
    return int(table.num_rows)


def open_parquet(path: Path, rows: int) -> pq.ParquetFile:
    """Open one Parquet file of the index, which must have `rows` rows.

    Raises:
        DamagedIndexError: it cannot be read, or has another number of rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # No read-ahead: it would start threads, and the files are small.
        file = pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, "cannot be read") from error
    if file.metadata.num_rows != rows:
        count = file.metadata.num_rows
        file.close()
        raise _damaged(path, f"has {count} rows instead of {rows}")
    return file


def read_columns(
    path: Path, file: pq.ParquetFile, columns: Sequence[str], group: int | None = None
) -> pa.Table:
    """Read columns of an open file, all of it or one row group.

    Raises:
        DamagedIndexError: the file is damaged, or lacks a column.
    """
    import pyarrow as pa

    try:
        if group is None:
            table = file.read(columns=list(columns), use_threads=False)
        else:
            table = file.read_row_group(group, columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, "cannot be read") from error
    if set(columns) - set(table.column_names):
        raise _damaged(path, "lacks a column")
    return table


def list_of(value_type: Any) -> Any:
    """The type of lists without nulls."""
    import pyarrow as pa

    # Parquet calls the member "element"; the same name here, so that nothing changes on reading.
    return pa.list_(pa.field("element", value_type, nullable=False))


def lists(values: Sequence[Sequence[Any] | np.ndarray], kind: Any) -> Any:
    """Sequences of numbers as a column of a `list_of` type."""
    import pyarrow as pa

    numbers = kind.value_type.to_pandas_dtype()
    arrays = [np.asarray(value, dtype=numbers) for value in values]
    starts = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
    flat = np.concatenate(arrays) if arrays else np.zeros(0, dtype=numbers)
    return pa.ListArray.from_arrays(pa.array(starts), pa.array(flat, kind.value_type), type=kind)


def _damaged(path: Path, what: str) -> DamagedIndexError:
    return DamagedIndexError(f"The index is damaged: {path} {what}.", REBUILD_HINT)
