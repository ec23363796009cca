"""The training corpus as a stream of records, with what was left out of it counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from haiftrace.corpus.files import find_files
from haiftrace.corpus.formats import read_rows
from haiftrace.corpus.record_fields import BadRowError, Record, columns_of, place, record_of
from haiftrace.corpus.settings import CorpusSettings
from haiftrace.errors import CorpusError

_PLACES_KEPT = 5


@dataclass
class ReadReport:
    """What a pass through the corpus met; filled while `read_records` runs.

    Attributes:
        records: records given out.
        empty: records without any text, left out.
        bad: rows that were left out because they could not be read (`skip_bad_lines`).
        bad_places: where the first few of these are and what is wrong: "path:line: reason".
    """

    records: int = 0
    empty: int = 0
    bad: int = 0
    bad_places: list[str] = field(default_factory=list)


def read_records(settings: CorpusSettings, report: ReadReport | None = None) -> Iterator[Record]:
    """Every record of the corpus, in order, one at a time.

    Memory does not grow with the corpus, but for one hash for each id that a record brings along
    (ids must be unique).

    Args:
        settings: what to read.
        report: counts of what was met, filled as the iterator advances.

    Raises:
        CorpusError: files that are missing or cannot be read, a row that is no record (unless
            `skip_bad_lines`), an id that comes twice, plain text with the loss on the response, or
            a corpus without a record. Names file and line, never the text.
    """
    report = ReadReport() if report is None else report
    count = 0
    id_hashes: set[int] = set()
    unnamed: set[str] = set()  # files with a record whose id is its place
    for record, own_id in _records(settings, report):
        key = hash(record.id)
        # Hashes may collide, and a record's own id may read like another record's place. Both are
        # settled by a second look at what came before.
        if key in id_hashes or (own_id and record.id.rpartition(":")[0] in unnamed):
            _refuse_duplicate(settings, record, count)
        if own_id:
            id_hashes.add(key)
        else:
            unnamed.add(record.path)
        count += 1
        report.records += 1
        yield record
    if not count:
        raise _nothing_read(report)


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
    columns = columns_of(settings)
    for file in find_files(settings.paths):
        for row in read_rows(file, columns):
            try:
                record, own_id = record_of(row, file, settings)
            except BadRowError as bad:
                problem = f"{place(file.shown, row.line)}: {bad.problem}"
                if not settings.skip_bad_lines:
                    skip = "Correct it, or leave such lines out with --skip-bad-lines."
                    raise CorpusError(f"{problem}.", bad.hint or skip) from None
                report.bad += 1
                if len(report.bad_places) < _PLACES_KEPT:
                    report.bad_places.append(problem)
                continue
            if not record.text:
                report.empty += 1
            else:
                yield record, own_id
