"""JSON and JSONL reports, read again: of this schema version, and of version 1 by a conversion."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from haiftrace.errors import UsageError
from haiftrace.findings import SCHEMA_VERSION, Finding, RecordEvidence, Report, Verdict
from haiftrace.reports.typed_json import MisshapenError, read_as

STDIN = "-"
_HINT = (
    "Give a file that haiftrace wrote with -o report.json or -o report.jsonl; other formats hold"
    " too little to be read again."
)
_OF_LINE = {"type", "model_fingerprint", "corpus_fingerprint"}
"""Of a finding's line in JSONL: what says which run it is of."""


def read_reports(path: str) -> list[Report]:
    """The reports in a file: one of JSON, one for each run of JSONL.

    Args:
        path: `-` for stdin.

    Raises:
        UsageError: it cannot be read, is no report, is damaged, or of an unknown version.
    """
    documents = list(_documents(path, _text(path)))
    if not documents:
        raise UsageError(f"The report '{path}' is empty.", _HINT)
    return [report_of_json(document, path) for document in documents]


def report_of_json(document: Any, name: str) -> Report:
    """A report from JSON's own types.

    Args:
        name: of the file, for messages.

    Raises:
        UsageError: it is no report, damaged, or of an unknown version.
    """
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is not int or "findings" not in document:
        raise UsageError(f"'{name}' is no report of haiftrace.", _HINT)
    if not 1 <= version <= SCHEMA_VERSION:
        raise UsageError(
            f"The report '{name}' has schema version {str(version)[:20]}; this version of haiftrace"
            f" reads 1 to {SCHEMA_VERSION}.",
            "Read it with the version of haiftrace that wrote it, or a later one.",
        )
    try:
        report = read_as(Report, document, lenient=version < SCHEMA_VERSION)
        for number, finding in enumerate(report.findings):
            _check_finding(finding, f"findings[{number}]")
    except MisshapenError as error:
        what = "is missing" if error.wanted == "there" else f"is no {error.wanted}"
        what = what.replace("no one of", "none of").replace("no true or false", "not true or false")
        raise UsageError(
            f"The report '{name}' is damaged: {error.place or 'it'} {what}.", _HINT
        ) from None
    return replace(report, schema_version=SCHEMA_VERSION)


def _text(path: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UsageError(f"The report '{path}' cannot be read: {why}.", _HINT) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"The report '{path}' is not valid UTF-8.", _HINT) from None


def _documents(path: str, text: str) -> Iterator[dict[str, Any]]:
    """A document of JSON, or the runs of JSONL put together."""
    first = text.lstrip().partition("\n")[0]
    is_lines = _is_run(first)
    if not is_lines:
        if text.strip():
            yield _parsed(text, path)
        return
    run: dict[str, Any] | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        content = _parsed(line, f"{path}:{number}")
        kind = content.get("type") if isinstance(content, dict) else None
        if kind == "run":
            if run is not None:
                yield run
            run = {**content, "findings": []}
        elif kind == "finding" and run is not None and _is_of(content, run):
            run["findings"].append({k: v for k, v in content.items() if k not in _OF_LINE})
        else:
            raise UsageError(f"{path}:{number} is no line of the run before it.", _HINT)
    if run is not None:
        yield run


def _is_run(line: str) -> bool:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("type") == "run"


def _is_of(finding: dict[str, Any], run: dict[str, Any]) -> bool:
    """Whether a finding's line names the run's version, checkpoint and corpus."""
    model, index = run.get("model"), run.get("index")
    return (
        isinstance(model, dict)
        and isinstance(index, dict)
        and finding.get("schema_version") == run.get("schema_version")
        and finding.get("model_fingerprint") == model.get("fingerprint")
        and finding.get("corpus_fingerprint") == index.get("corpus_fingerprint")
    )


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"The report '{name}' is no JSON: see {where}.", _HINT) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or nesting without end
        raise UsageError(f"'{name}' is no report of haiftrace.", _HINT) from None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _check_finding(finding: Finding, place: str) -> None:
    """Raises MisshapenError for what types do not say: ranks, places in texts, probabilities."""
    if finding.verdict is not None:
        _check_verdict(finding.verdict, f"{place}.verdict")
    for number, record in enumerate(finding.records):
        _check_record(record, f"{place}.records[{number}]")


def _check_verdict(verdict: Verdict, place: str) -> None:
    if not 0 < verdict.alpha < 1:
        raise MisshapenError(f"{place}.alpha", "rate between 0 and 1")
    for name in ("p_value", "q_value", "power"):
        value = getattr(verdict, name)
        if value is not None and not 0 <= value <= 1:
            raise MisshapenError(f"{place}.{name}", "probability")
    if verdict.null is not None and len(verdict.null.edges) != len(verdict.null.counts) + 1:
        raise MisshapenError(f"{place}.null.edges", "list of one more than there are counts")


def _check_record(record: RecordEvidence, place: str) -> None:
    if record.rank < 1:
        raise MisshapenError(f"{place}.rank", "rank")
    if record.p_value is not None and not 0 <= record.p_value <= 1:
        raise MisshapenError(f"{place}.p_value", "probability")
    places = {
        "tokens": [(token.start, token.end) for token in record.tokens],
        "pairs": [(pair.start, pair.end) for pair in record.pairs],
    }
    for name, spans in places.items():
        for number, (start, end) in enumerate(spans):
            if not start <= end <= len(record.text):
                raise MisshapenError(f"{place}.{name}[{number}]", "part of the record's text")
