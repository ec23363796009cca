"""Plain text: a record a line."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from haiftrace.corpus.corpus_file import CorpusFile
from haiftrace.corpus.formats.rows import Row, read_lines


def text_rows(file: CorpusFile, columns: Collection[str]) -> Iterator[Row]:
    """A string a line, without its end."""
    yield from read_lines(file, lambda line: line.rstrip("\n").removesuffix("\r"))
