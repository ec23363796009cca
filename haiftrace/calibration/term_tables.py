"""The terms of a corpus's records as numbers, on disk: memory does not hold the corpus.

SQLite keeps them in a temporary database of its own, which goes with the process and has no name
that another could open. Pages beyond its cache are on disk, where TMPDIR or SQLITE_TMPDIR says.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from haiftrace.errors import IndexStoreError

_CACHE_KIB = 32 << 10
_SCHEMA = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -{_CACHE_KIB};
CREATE TABLE term (text TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE record (number INTEGER PRIMARY KEY, terms BLOB NOT NULL);
CREATE TABLE holding (term INTEGER, leader INTEGER, PRIMARY KEY (term, leader)) WITHOUT ROWID;
"""
_KNOWN = 1 << 16
"""Terms whose numbers are remembered: the common ones are soon among them."""


class TermTables:
    """Records' terms, and which groups' leaders are looked for by which.

    Terms are numbered from 0 in the order in which they first come, records likewise.

    Attributes:
        records: how many there are.
    """

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.executescript(_SCHEMA)
        self._base.execute("BEGIN")
        self._known: dict[str, int] = {}
        self._terms = 0
        self.records = 0

    def add(self, terms: Iterable[str]) -> None:
        """One record more, by its terms in order; a repeated one counts once.

        Raises:
            IndexStoreError: the disk refuses.
        """
        with _disk_errors():
            numbers = np.unique(np.fromiter(map(self._number, dict.fromkeys(terms)), np.int64))
            row = (self.records, numbers.tobytes())
            self._base.execute("INSERT INTO record VALUES (?, ?)", row)
        self.records += 1

    def record(self, number: int) -> np.ndarray:
        """[n] int64: the terms of a record, ascending, each once."""
        (row,) = self._base.execute("SELECT terms FROM record WHERE number = ?", (number,))
        return np.frombuffer(row[0], np.int64)

    def counts(self) -> np.ndarray:
        """[terms] int64: how many records have each."""
        counts = np.zeros(self._terms, np.int64)
        for number in range(self.records):
            counts[self.record(number)] += 1
        return counts

    def hold(self, terms: Iterable[int], leader: int) -> None:
        """A leader is to be looked for by these terms.

        Raises:
            IndexStoreError: the disk refuses.
        """
        with _disk_errors():
            rows = ((term, leader) for term in terms)
            self._base.executemany("INSERT INTO holding VALUES (?, ?)", rows)

    def holding(self, term: int) -> Iterator[int]:
        """The leaders that are looked for by a term, ascending."""
        select = "SELECT leader FROM holding WHERE term = ? ORDER BY leader"
        for (leader,) in self._base.execute(select, (term,)):
            yield leader

    def _number(self, text: str) -> int:
        number = self._known.get(text)
        if number is None:
            row = self._base.execute("SELECT number FROM term WHERE text = ?", (text,)).fetchone()
            if row is None:
                number, self._terms = self._terms, self._terms + 1
                self._base.execute("INSERT INTO term VALUES (?, ?)", (text, number))
            else:
                number = int(row[0])
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[text] = number
        return number

    def close(self) -> None:
        """Give the disk's room back."""
        self._base.close()


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise IndexStoreError(
            f"The records' terms could not be kept in a temporary file: {error}.",
            "Free some space there, or name another directory with TMPDIR; then run the same"
            " command again.",
        ) from error
