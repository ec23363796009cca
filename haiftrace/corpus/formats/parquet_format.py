"""Parquet: the requested columns, in small batches."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import IO, Any

from haiftrace.corpus.corpus_file import CorpusFile, plain, unreadable
from haiftrace.corpus.formats.rows import BAD_ENCODING, BLOCK, Row, open_corpus_file

PARQUET_BATCH_ROWS = 64


def parquet_rows(file: CorpusFile, columns: Collection[str]) -> Iterator[Row]:
    """The rows of a Parquet file, of which only `columns` are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with seekable(file) as stream:
        try:
            # Without pre-buffering, memory is bounded by the batch and not by the row group.
            table = pq.ParquetFile(stream, pre_buffer=False, buffer_size=BLOCK)
            names = tuple(table.schema_arrow.names)
            chosen = [name for name in names if name in columns]
            number = 0
            for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=chosen):
                for i in range(batch.num_rows):
                    number += 1
                    yield table_row(batch, i, number, names)
        except pa.ArrowException as error:
            raise unreadable(file.shown, error) from error


def table_row(batch: Any, i: int, number: int, names: tuple[str, ...]) -> Row:
    """One row of a batch of Arrow's.

    Args:
        batch: the requested columns.
        i: of the row in it, from 0; number: of the row in the file, from 1.
        names: of all columns.
    """
    value = {}
    for column, name in enumerate(batch.schema.names):
        try:
            value[name] = batch.column(column)[i].as_py()
        except UnicodeDecodeError:
            problem = f"{BAD_ENCODING} in column '{plain(name)}'"
            return Row(number, problem=problem, columns=names)
    return Row(number, value, columns=names)


@contextmanager
def seekable(file: CorpusFile) -> Iterator[IO[bytes]]:
    """`file` decompressed and seekable, as Parquet needs; by way of an unnamed temporary file."""
    with open_corpus_file(file) as stream:
        if file.codec is None:
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            while block := stream.read(BLOCK):
                copy.write(block)
            copy.seek(0)
            yield copy
