"""CSV and TSV: a row of cells under the names of the first one, by the standard library's reader.

Cells in quotes may hold line feeds. Memory stays at one row, of at most `MAX_ROW_BYTES`.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from functools import partial
from typing import IO

from haiftrace.corpus.corpus_file import CorpusFile, plain
from haiftrace.corpus.formats.rows import (
    BAD_ENCODING,
    BOM,
    MAX_ROW_BYTES,
    Row,
    open_corpus_file,
)
from haiftrace.errors import CorpusError


def csv_rows(file: CorpusFile, columns: Collection[str]) -> Iterator[Row]:
    """The rows of a file with commas between cells; blank lines are none."""
    return _rows(file, ",")


def tsv_rows(file: CorpusFile, columns: Collection[str]) -> Iterator[Row]:
    """The rows of a file with tabs between cells; blank lines are none."""
    return _rows(file, "\t")


def _rows(file: CorpusFile, delimiter: str) -> Iterator[Row]:
    # The reader's own limit is one for the process; a row's, below, is smaller than it.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES + 1))
    with open_corpus_file(file) as stream:
        lines = _Lines(file, stream)
        cells_of = partial(next, csv.reader(lines, delimiter=delimiter), None)
        names: list[str] | None = None
        while True:
            lines.begin_row()
            try:
                cells = cells_of()
            except csv.Error:
                yield Row(lines.first, problem="malformed CSV")
                continue
            if cells is None:
                return
            if not cells:
                continue
            problem = lines.problem
            if lines.ended:
                problem = problem or "a quote that is never closed"
            if names is None:
                names = _header(file, cells, lines.first, problem)
                continue
            if not problem and len(cells) != len(names):
                problem = f"{len(cells)} cells under a header of {len(names)}"
            value = None if problem else dict(zip(names, cells, strict=True))
            yield Row(lines.first, value, problem, columns=tuple(names))


class _Lines:
    """The decoded lines of a file, and what the row that they are read for has met."""

    def __init__(self, file: CorpusFile, stream: IO[bytes]) -> None:
        self._file, self._stream = file, stream
        self._number = self._bytes = 0
        self.first, self.problem, self.ended = 1, "", False

    def begin_row(self) -> None:
        """A new row begins with the next line."""
        self.first, self.problem, self._bytes = self._number + 1, "", 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        raw = self._stream.readline(MAX_ROW_BYTES + 1)
        if not raw:
            self.ended = True
            raise StopIteration
        self._number += 1
        if self._number == 1:
            raw = raw.removeprefix(BOM)
        self._bytes += len(raw)
        if self._bytes > MAX_ROW_BYTES:
            raise CorpusError(
                f"{plain(self._file.shown, 300)}:{self.first}: a row of more than {MAX_ROW_BYTES} "
                "bytes.",
                "Look for a quote that is not closed in that row or before it.",
            )
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            self.problem = f"{BAD_ENCODING} (byte {error.start + 1} of line {self._number})"
            return raw.decode("utf-8", "replace")


def _header(file: CorpusFile, cells: list[str], line: int, problem: str) -> list[str]:
    """The names of the columns. A file without a header has a record there: nothing is quoted."""
    if not problem:
        twice = next((i for i, name in enumerate(cells) if name in cells[:i]), None)
        if twice is None:
            return cells
        earlier = cells.index(cells[twice])
        problem = f"columns {earlier + 1} and {twice + 1} of the header have the same name"
    raise CorpusError(
        f"{plain(file.shown, 300)}:{line}: {problem}.",
        "The first line of a CSV or TSV file names its columns, in UTF-8; add or correct it.",
    )
