"""Parquet files of the index: written the same for the same rows, read in parts, checked.

Shape letters: n rows, w width of a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.errors import IndexStoreError
from haiftrace.store.manifest import REBUILD_HINT

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_DICTIONARY_COLUMNS = ["path"]


def write_table(batches: Sequence[pa.RecordBatch], row_group_size: int, sink: Any) -> int:
    """Write batches as one Parquet file, the same bytes for the same rows; returns the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_batches(list(batches)).combine_chunks()
    pq.write_table(
        table,
        sink,
        row_group_size=row_group_size,
        compression="zstd",
        use_dictionary=[name for name in _DICTIONARY_COLUMNS if name in table.column_names],
        # Statistics would repeat texts in the footer, and cost more than writing the vectors.
        write_statistics=False,
    )
    return int(table.num_rows)


def open_parquet(path: Path, rows: int) -> pq.ParquetFile:
    """Open one Parquet file of the index, which must have `rows` rows.

    Raises:
        IndexStoreError: it cannot be read, or has another number of rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # No read-ahead: it would start threads, and the files are small.
        file = pq.ParquetFile(path, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, "cannot be read") from error
    if file.metadata.num_rows != rows:
        found = file.metadata.num_rows
        file.close()
        raise _damaged(path, f"has {found} rows instead of {rows}")
    return file


def read_columns(
    path: Path, file: pq.ParquetFile, columns: Sequence[str], group: int | None = None
) -> pa.Table:
    """Read columns of an open file, all of it or one row group.

    Raises:
        IndexStoreError: the file is damaged, or lacks a column.
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


def vectors_of(column: pa.ChunkedArray) -> np.ndarray:
    """A fixed-size list column [n] of width w as an array [n, w] in its stored type."""
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    kind = column.type.value_type.to_pandas_dtype()
    flat = np.concatenate(parts) if parts else np.zeros(0, dtype=kind)
    return flat.reshape(-1, width)


def list_of(value_type: Any, size: int = -1) -> Any:
    """The type of lists without nulls, of any length or all of `size` members."""
    import pyarrow as pa

    # Parquet calls the member "element"; the same name here, so that nothing changes on reading.
    return pa.list_(pa.field("element", value_type, nullable=False), size)


def fixed_size_lists(vectors: np.ndarray, kind: Any) -> Any:
    """An array [n, w] as a column of a `list_of` type of that width."""
    import pyarrow as pa

    values = np.ascontiguousarray(vectors, dtype=kind.value_type.to_pandas_dtype())
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind)


def _damaged(path: Path, what: str) -> IndexStoreError:
    return IndexStoreError(f"The index is damaged: {path} {what}.", REBUILD_HINT)
