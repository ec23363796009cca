"""The training corpus as a stream of records, with what was left out of it counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from haiftrace.corpus.corpus_file import CorpusFile
from haiftrace.corpus.files import find_files
from haiftrace.corpus.formats import read_rows
from haiftrace.corpus.formats.rows import Row
from haiftrace.corpus.layouts import RecordLayout, layouts_of
from haiftrace.corpus.record_fields import BadRowError, Record, columns_of, place, record_of
from haiftrace.corpus.settings import CorpusSettings
from haiftrace.errors import CorpusError

_PLACES_KEPT = 5

_ROWS_AHEAD = 100
"""So many rows after a bad first one are looked at, to see whether it is the only bad one."""


@dataclass
class ReadReport:
    """What a pass through the corpus met; filled while `read_records` runs.

    Attributes:
        records: records given out.
        empty: records without any text, left out.
        bad: rows that were left out because they could not be read (`skip_bad_lines`).
        bad_places: where the first few of these are and what is wrong: "path:line: reason".
        layouts: how many records are read in which way, in the words for the user; lines of a text
            file do not count.
        notes: what is to be said of the files.
    """

    records: int = 0
    empty: int = 0
    bad: int = 0
    bad_places: list[str] = field(default_factory=list)
    layouts: Counter[str] = field(default_factory=Counter, compare=False)
    notes: list[str] = field(default_factory=list, compare=False)


def read_records(settings: CorpusSettings, report: ReadReport | None = None) -> Iterator[Record]:
    """Every record of the corpus, in order, one at a time.

    Memory does not grow with the corpus, but for one hash for each id that a record brings along
    (ids must be unique), and for the records of a sample.

    Args:
        settings: what to read; of a `limit` the first records alone are read at all.
        report: counts of what was met, filled as the iterator advances.

    Raises:
        CorpusError: files that are missing or cannot be read, a row that is no record (unless
            `skip_bad_lines`), an id that comes twice, plain text with the loss on the response, or
            a corpus without a record. Names file and line, never the text.
    """
    report = ReadReport() if report is None else report
    records: Iterator[Record] = islice(_unique(settings, report), settings.limit)
    if settings.sample_records is not None:
        records = _sample(records, settings.sample_records, settings.seed)
    for record in records:
        report.records += 1
        yield record
    if not report.records:
        raise _nothing_read(report)


def _sample(records: Iterator[Record], size: int, seed: int) -> Iterator[Record]:
    """So many of the records, drawn uniformly, in their order (Vitter's algorithm R)."""
    draws = random.Random(seed)
    kept: list[tuple[int, Record]] = []
    for number, record in enumerate(records):
        if len(kept) < size:
            kept.append((number, record))
        elif (place := draws.randrange(number + 1)) < size:
            kept[place] = (number, record)
    for _, record in sorted(kept, key=lambda pair: pair[0]):
        yield record


def _unique(settings: CorpusSettings, report: ReadReport) -> Iterator[Record]:
    """Every record, each with an id of its own."""
    id_hashes: set[int] = set()
    unnamed: set[str] = set()  # files with a record whose id is its place
    for count, (record, own_id) in enumerate(_records(settings, report)):
        key = hash(record.id)
        # Hashes may collide, and a record's own id may read like another record's place. Both are
        # settled by a second look at what came before.
        if key in id_hashes or (own_id and record.id.rpartition(":")[0] in unnamed):
            _refuse_duplicate(settings, record, count)
        if own_id:
            id_hashes.add(key)
        else:
            unnamed.add(record.path)
        yield record


def _refuse_duplicate(settings: CorpusSettings, record: Record, before: int) -> None:
    for number, (earlier, _) in enumerate(_records(settings, ReadReport())):
        if number == before:
            return
        if earlier.id == record.id:
            raise CorpusError(
                f"{earlier.place} and {record.place} "
                "have the same id, so a finding could not say which of them it means.",
                "Make the ids unique, name another field with --id-field, or pass "
                '--id-field "" to name records by file and line.',
            )


def _nothing_read(report: ReadReport) -> CorpusError:
    if report.bad:
        return CorpusError(
            f"The corpus has no usable record: {report.bad} bad lines were skipped and "
            f"{report.empty} records are empty. The first bad line is {report.bad_places[0]}.",
            "Correct the corpus, or name the right field with --text-field.",
        )
    if report.empty:
        return CorpusError(
            f"The corpus has no usable record: all {report.empty} are empty.",
            "Name the field that holds the text with --text-field.",
        )
    return CorpusError("The corpus is empty: its files hold no record.", "Check --corpus.")


def _records(settings: CorpusSettings, report: ReadReport) -> Iterator[tuple[Record, bool]]:
    """Records and whether their ids are their own; empty and bad ones are counted."""
    layouts = layouts_of(settings)
    columns = columns_of(settings, layouts)
    usable = False
    for file in find_files(settings.paths, report.notes, settings.base):
        rows = read_rows(file, columns)
        for row in rows:
            try:
                record, own_id, layout = record_of(row, file, settings, layouts)
            except BadRowError as bad:
                problem = f"{place(file.shown, row.line)}: {bad.problem}"
                if not settings.skip_bad_lines:
                    hint = bad.hint or "Correct it."
                    if usable or _any_usable(islice(rows, _ROWS_AHEAD), file, settings, layouts):
                        hint += " Or leave such lines out with --skip-bad-lines."
                    raise CorpusError(f"{problem}.", hint) from None
                report.bad += 1
                if len(report.bad_places) < _PLACES_KEPT:
                    report.bad_places.append(problem)
                continue
            usable = True
            if record.empty:
                report.empty += 1
                continue
            if layout is not None:
                report.layouts[layout.shown] += 1
            yield record, own_id


def _any_usable(
    rows: Iterator[Row], file: CorpusFile, settings: CorpusSettings, layouts: Sequence[RecordLayout]
) -> bool:
    """Whether one of the rows is a record: to leave out all of a corpus is no way to read it."""
    try:
        for row in rows:
            try:
                record_of(row, file, settings, layouts)
            except BadRowError:
                continue
            return True
    except CorpusError:
        pass
    return False
