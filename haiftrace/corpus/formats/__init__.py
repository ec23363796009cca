"""The formats of corpus files by name. A further one is a file here, and an entry."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from haiftrace.corpus.corpus_file import CorpusFile
from haiftrace.corpus.formats.arrow_format import arrow_rows
from haiftrace.corpus.formats.csv_format import csv_rows, tsv_rows
from haiftrace.corpus.formats.json_format import json_line_rows, json_rows
from haiftrace.corpus.formats.parquet_format import parquet_rows
from haiftrace.corpus.formats.rows import Row
from haiftrace.corpus.formats.text_format import text_rows


@dataclass(frozen=True)
class CorpusFormat:
    """How a kind of file is known and read.

    Attributes:
        suffixes: of its names.
        rows: gives a file's rows in order; where rows have columns, those that are named.
        names_may_be_values: what the file gives as names of columns may be a record, in a file
            without a header, and so must not be quoted.
    """

    suffixes: tuple[str, ...]
    rows: Callable[[CorpusFile, Collection[str]], Iterator[Row]]
    names_may_be_values: bool = False


FORMATS: dict[str, CorpusFormat] = {
    "jsonl": CorpusFormat((".jsonl", ".ndjson"), json_line_rows),
    "json": CorpusFormat((".json",), json_rows),
    "parquet": CorpusFormat((".parquet",), parquet_rows),
    "arrow": CorpusFormat((".arrow",), arrow_rows),
    "csv": CorpusFormat((".csv",), csv_rows, names_may_be_values=True),
    "tsv": CorpusFormat((".tsv",), tsv_rows, names_may_be_values=True),
    "text": CorpusFormat((".txt", ".text", ".md"), text_rows),
}


def read_rows(file: CorpusFile, columns: Collection[str]) -> Iterator[Row]:
    """The rows of `file` in order, of tables `columns` alone. Blank lines are no rows.

    Raises:
        CorpusError: the file cannot be opened, is broken, or needs a codec that is not there. What
            is wrong with a single row comes as its `problem` wherever the rest can still be read.
    """
    yield from FORMATS[file.format].rows(file, columns)
