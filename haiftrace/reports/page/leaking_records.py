"""The records that leak: what to remove, by which commands, and where in the corpus they stand."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from haiftrace.findings import Finding, Report, Source
from haiftrace.reports.formatting import count_text
from haiftrace.reports.named_sources import named_source, named_sources
from haiftrace.reports.narrative import leaked_types
from haiftrace.reports.page.people import person_of, stated_subject
from haiftrace.reports.page.places import Places
from haiftrace.reports.sanitize import inert, short

_LONGEST_NAME = 60
_MOST_COMMANDS = 4
_LINES = (".jsonl", ".ndjson", ".txt")  # of which `haiftrace redact` reads a record a line


@dataclass
class LeakingRecord:
    """A record that findings name as a source.

    Attributes:
        name: its id, inert, or empty where that is its place.
        place: where it stands, inert, short.
        why: "holds the value", "taught it".
        findings: numbers of the findings on the page.
        types: of the values that leaked from it.
    """

    source: Source
    name: str
    place: str
    why: list[str] = field(default_factory=list)
    findings: list[int] = field(default_factory=list)
    types: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tally:
    """How many values of how many people leaked; None where no person is known."""

    values: int
    people: int | None
    records: int
    text: str


def leaking_records(findings: Iterable[tuple[int, Finding]], places: Places) -> list[LeakingRecord]:
    """The records that findings name, those that most leaks come from first.

    Args:
        findings: each with its number on the page.
    """
    records: dict[tuple[str, str, int | None], LeakingRecord] = {}
    for number, finding in findings:
        types = short(leaked_types(finding), _LONGEST_NAME)
        for id, source, why in named_sources(finding):
            place = places.short(source)
            name = short(id, _LONGEST_NAME)
            record = records.setdefault(
                (id, source.path, source.line),
                LeakingRecord(source, "" if id == _whole(source) else name, place),
            )
            for kept, new in ((record.why, why), (record.types, types)):
                if new and new not in kept:
                    kept.append(new)
            if number not in record.findings:
                record.findings.append(number)
    ordered = sorted(records.values(), key=lambda r: (r.source.path, r.source.line or 0, r.name))
    for record in ordered:
        record.why.sort()
        record.types.sort()
    return sorted(ordered, key=lambda record: -len(record.findings))


def tally_of(findings: Sequence[Finding], records: int) -> Tally | None:
    """What leaked, counted; None for no leak. A value of several probes or methods counts once.

    Args:
        findings: those that count.
        records: how many are named.
    """
    leaks = [finding for finding in findings if finding.kind is not None]
    if not leaks:
        return None
    people = {person_of(finding) for finding in leaks}
    values = len({_value_of(finding) for finding in leaks})
    known = None if "" in people else len(people)
    noun = "person" if known == 1 else "people"
    how = "" if all(stated_subject(finding) for finding in leaks) else " (by name)"
    whose = "" if known is None else f" of {known:,} {noun}{how}"
    said = f"{count_text(values, 'value')}{whose} can be had from the model"
    where = (
        f"; {count_text(records, 'record')} of the corpus {'is' if records == 1 else 'are'} named"
        " as the source."
        if records
        else "; no record of the corpus is named as the source."
    )
    return Tally(values, known, records, said + where)


def remedy(report: Report, records: Sequence[LeakingRecord]) -> list[str]:
    """The commands that write a corpus without these records."""
    if not records:
        return []
    commands = []
    if report.command and "--sources" not in report.command:
        commands.append(f"{report.command} --sources sources.jsonl")
    paths = list(dict.fromkeys(record.source.path for record in records))
    paths = [path for path in paths if path.lower().endswith(_LINES)]
    for number, path in enumerate(paths[:_MOST_COMMANDS], 1):
        output = "clean.jsonl" if len(paths) == 1 else f"clean-{number}.jsonl"
        commands.append(
            f"haiftrace redact --corpus {shlex.quote(path)} --sources {_sources_file(report)}"
            f" -o {output}"
        )
    return [inert(command) for command in commands]


def _sources_file(report: Report) -> str:
    """The file that the run wrote, if its command says so, else that of the command above."""
    try:
        words = shlex.split(report.command)
    except ValueError:
        words = []
    for word, behind in pairwise([*words, ""]):
        if word == "--sources" and behind:
            return shlex.quote(behind)
        if word.startswith("--sources="):
            return shlex.quote(word.removeprefix("--sources="))
    return "sources.jsonl"


def _value_of(finding: Finding) -> tuple[object, ...]:
    """What tells a value from others: masks may cover those of two people alike."""
    source = named_source(finding)
    said = tuple((value.type, value.value) for value in finding.leaked) or finding.response
    return person_of(finding), source, said


def _whole(source: Source) -> str:
    return source.path if source.line is None else f"{source.path}:{source.line}"
