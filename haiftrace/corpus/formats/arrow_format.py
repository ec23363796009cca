"""Arrow: streams, as Hugging Face's `datasets` saves them, and files of random access."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from haiftrace.corpus.corpus_file import CorpusFile, unreadable
from haiftrace.corpus.formats.parquet_format import seekable, table_row
from haiftrace.corpus.formats.rows import Row

_FILE_MAGIC = b"ARROW1"
_ROWS_AT_ONCE = 64


def arrow_rows(file: CorpusFile, columns: Collection[str]) -> Iterator[Row]:
    """The rows of an Arrow file, of which only `columns` are read."""
    import pyarrow as pa

    with seekable(file) as stream:
        try:
            magic = stream.read(len(_FILE_MAGIC))
            stream.seek(0)
            number = 0
            for batch in _batches(stream, magic == _FILE_MAGIC):
                names = tuple(batch.schema.names)
                chosen = batch.select([name for name in names if name in columns])
                for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                    part = chosen.slice(start, _ROWS_AT_ONCE)
                    for i in range(min(_ROWS_AT_ONCE, batch.num_rows - start)):
                        number += 1
                        yield table_row(part, i, number, names)
        except pa.ArrowException as error:
            raise unreadable(file.shown, error) from error


def _batches(stream: Any, with_footer: bool) -> Iterator[Any]:
    import pyarrow as pa

    if not with_footer:
        yield from pa.ipc.open_stream(stream)
        return
    reader = pa.ipc.open_file(stream)
    for i in range(reader.num_record_batches):
        yield reader.get_batch(i)
