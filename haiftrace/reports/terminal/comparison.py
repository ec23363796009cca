"""Several methods beside each other: where each ranks the records that any of them puts first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.cells import cell_len, set_cell_size

from haiftrace.findings import Finding, RecordEvidence

_SHOWN = 3  # of each method's first records
_GAP = "  "


def by_leak(findings: Sequence[Finding]) -> Iterator[list[Finding]]:
    """Findings that follow each other on the same traced response: one a method."""
    for _, same in groupby(findings, lambda f: (f.prompt, f.response, f.span)):
        yield list(same)


def rank_table(findings: Sequence[Finding], width: int) -> list[str]:
    """Lines of a table: a row a record, a column a method, in it the record's rank there.

    A dash is for a record that is not among those the finding shows.

    Args:
        findings: of one leak.
        width: cells of a line; a table that is wider has its records' names cut.
    """
    rows: dict[tuple[str, str, int | None], list[str]] = {}
    for record in _first_records(findings):
        rows[record] = []
        for finding in findings:
            ranks = [r.rank for r in finding.records if _key(r) == record]
            rows[record].append(str(ranks[0]) if ranks else "-")
    columns = [finding.method for finding in findings]
    cells = [max(len(name), 2) for name in columns]
    room = max(8, width - sum(cells) - len(_GAP) * len(cells))
    name_cells = min(room, max((cell_len(key[0]) for key in rows), default=0))

    def line(name: str, values: Sequence[str]) -> str:
        padded = (value.rjust(size) for value, size in zip(values, cells, strict=True))
        return _GAP.join([set_cell_size(name, name_cells), *padded])

    body = [line(name, values) for (name, _, _), values in rows.items()]
    return [line("", columns), *body] if body else []


def _key(record: RecordEvidence) -> tuple[str, str, int | None]:
    return record.id, record.source.path, record.source.line


def _first_records(findings: Sequence[Finding]) -> list[tuple[str, str, int | None]]:
    """Each method's first records, by the highest rank that any method gives them."""
    best_rank: dict[tuple[str, str, int | None], int] = {}
    for finding in findings:
        for record in finding.records[:_SHOWN]:
            key = _key(record)
            best_rank[key] = min(best_rank.get(key, record.rank), record.rank)
    return sorted(best_rank, key=lambda key: best_rank[key])
