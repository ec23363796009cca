"""The records to remove or redact, as a file that `haiftrace redact` reads.

A line of JSON a record: `{"id", "path", "line", "why", "findings", "spans": [[start, end], ...]}`;
`spans` are the characters of the record's text that hold a value, null where they are not known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from haiftrace.atomic_write import write_atomically
from haiftrace.errors import OutputError, UsageError
from haiftrace.findings import Finding, Report, Source
from haiftrace.privacy import Masker, ValueIndex, private_values
from haiftrace.reports.named_sources import named_sources
from haiftrace.store import Index, StoredWindow


@dataclass
class NamedRecord:
    """A record that findings name as a source.

    Attributes:
        why: "holds the value", "taught it", or both.
        findings: fingerprints of the leaks, or the traced prompts' numbers where these have none.
        spans: characters of its text that hold a value; None where they are not known.
    """

    id: str
    source: Source
    why: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] | None = field(default_factory=list)


def named_records(report: Report, index: Index) -> list[NamedRecord]:
    """What the traced findings of a report name, in the order of the corpus: all that hold a value,
    and the records that taught it.
    """
    named: dict[tuple[str, str, int | None], NamedRecord] = {}
    values: dict[tuple[str, str, int | None], set[str]] = {}
    for number, finding in enumerate(report.findings, 1):
        for id, source, why in named_sources(finding):
            key = (id, source.path, source.line)
            record = named.setdefault(key, NamedRecord(id, source))
            values.setdefault(key, set()).update(_values(finding))
            if why not in record.why:
                record.why.append(why)
            about = finding.fingerprint or str(number)
            if about not in record.findings:
                record.findings.append(about)
    ordered: list[NamedRecord] = []
    for window in index.iter_windows() if named else ():
        key = (window.id, window.path, window.line)
        if key not in named:
            continue
        record = named[key]
        record.spans = _spans(window, values[key])
        if not ordered or ordered[-1] is not record:
            ordered.append(record)
    return ordered


def check_sources(path: str | None) -> None:
    """Refuses a file that cannot be written, before any work is done.

    Raises:
        OutputError: its directory does not exist, or it is a directory itself.
    """
    if path is None:
        return
    target = Path(path)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise OutputError(
            f"The sources cannot be written to '{path}'.",
            "Give --sources a file in a directory that exists.",
        )


def write_sources(
    report: Report, index: Index, path: str, values: Sequence[str], reveal: bool
) -> int:
    """Writes the named records of a report; ids and paths masked unless revealed.

    Args:
        values: of probes, masked too.

    Returns:
        How many records there are.

    Raises:
        OutputError: the file cannot be written.
    """
    records = named_records(report, index)
    masker = None if reveal else Masker(private_values(report, values))
    lines = [json.dumps(_line(record, masker), ensure_ascii=False) + "\n" for record in records]
    try:
        write_atomically(Path(path), "".join(lines).encode())
    except OSError as error:
        raise OutputError(
            f"The sources cannot be written to '{path}': {error.strerror or error}.",
            "Give another path with --sources.",
        ) from error
    return len(records)


def read_sources(path: str) -> list[NamedRecord]:
    """The records of a file that `write_sources` wrote.

    Raises:
        UsageError: it cannot be read, or a line is no such record.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise UsageError(
            f"The sources in '{path}' cannot be read: {error.strerror}.",
            "Give the file that `haiftrace trace --sources FILE` wrote.",
        ) from None
    return [_read(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]


def _values(finding: Finding) -> Iterable[str]:
    traced = finding.response if finding.span is None else finding.span
    return {traced.strip(), *(value.value for value in finding.leaked)}


def _spans(window: StoredWindow, values: set[str]) -> list[tuple[int, int]] | None:
    if window.windows != 1:
        return None
    matches = ValueIndex(values).find(window.text, words=True)
    return sorted({(match.start, match.end) for match in matches})


def _line(record: NamedRecord, masker: Masker | None) -> dict[str, Any]:
    def shown(text: str) -> str:
        return text if masker is None else masker.text(text)

    return {
        "id": shown(record.id),
        "path": shown(record.source.path),
        "line": record.source.line,
        "why": record.why,
        "findings": record.findings,
        "spans": record.spans,
    }


def _read(line: bytes, path: str, number: int) -> NamedRecord:
    try:
        content = json.loads(line)
        source = Source(str(content["path"]), content["line"])
        spans = content["spans"]
        pairs = None if spans is None else [(int(start), int(end)) for start, end in spans]
        return NamedRecord(str(content["id"]), source, content["why"], content["findings"], pairs)
    except (ValueError, TypeError, KeyError):
        raise UsageError(
            f"{path}:{number} is no record of a sources file.",
            "Give the file that `haiftrace trace --sources FILE` wrote.",
        ) from None
