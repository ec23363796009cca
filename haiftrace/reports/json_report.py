"""The JSON reports: everything that a report holds, for programs.

`report.schema.json` describes the document, `report-lines.schema.json` the lines of JSONL: first
the run, with all that is not a finding, then one finding a line, which names its model and corpus
itself. Floats are finite, keys stand in a fixed order, text is UTF-8 as it stands save that control
and invisible characters are escaped, so that a terminal may show the file.

Records that chance alone may rank keep their text and no evidence, and measured numbers have six
significant digits: so a report takes less than half of what it would. `full` gives everything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from haiftrace.errors import OutputError
from haiftrace.findings import (
    Finding,
    Holder,
    PairEvidence,
    RecordEvidence,
    Report,
    TokenEvidence,
    Verdict,
)
from haiftrace.reports.formatting import six_digits, six_digits_up
from haiftrace.reports.narrative import split_at_alpha
from haiftrace.reports.sanitize import inert_json

_EXACT = {"settings", "alpha", "temperature"}  # what was asked for, and not measured


def render_json(report: Report, *, full: bool = False) -> str:
    """The report as a JSON document that ends in a line break.

    Args:
        full: with the evidence of records that are not shown too, and all digits.

    Raises:
        OutputError: a number is NaN or infinite; JSON has none of these, and such a score means
            nothing.
    """
    document = _document(report, full)
    return inert_json("".join(_lines(document, ""))) + "\n"


def render_json_lines(report: Report, *, full: bool = False) -> str:
    """The report as JSONL: a line of type "run", then a line of type "finding" for each.

    Every line has the schema version; a finding's also has the fingerprints of the weights and of
    the corpus, so that lines of several runs may stand in a file.

    Args:
        full: as of `render_json`.

    Raises:
        OutputError: as `render_json`.
    """
    run = _document(report, full)
    findings = run.pop("findings")
    about = {
        "type": "finding",
        "schema_version": report.schema_version,
        "model_fingerprint": report.model.fingerprint,
        "corpus_fingerprint": report.index.corpus_fingerprint,
        "masked": report.masked,
    }
    lines = [{"type": "run", **run}, *({**about, **finding} for finding in findings)]
    return "".join(f"{inert_json(json.dumps(line, ensure_ascii=False))}\n" for line in lines)


def _document(report: Report, full: bool) -> dict[str, Any]:
    """The report as JSON's own types, every number in it finite. Raises OutputError."""
    document = _report(report, full)
    for place in _not_finite(document, ""):
        raise OutputError(
            f"The report cannot be written as JSON: {place} is not a finite number, so the scores "
            "beside it mean nothing either.",
            "Check the checkpoint for NaN or infinite weights, then index and trace again.",
        )
    return document if full else _in_six_digits(document)


def _in_six_digits(value: Any, key: str = "") -> Any:
    if key in _EXACT:
        return value
    if isinstance(value, float):
        return six_digits_up(value) if key == "p_value" else six_digits(value)
    if isinstance(value, dict):
        return {name: _in_six_digits(item, name) for name, item in value.items()}
    return [_in_six_digits(item) for item in value] if isinstance(value, list) else value


def _report(report: Report, full: bool) -> dict[str, Any]:
    model, index = report.model, report.index
    return {
        "schema_version": report.schema_version,
        "tool_version": report.tool_version,
        "command": report.command,
        "seconds": float(report.seconds),
        "masked": report.masked,
        "settings": dict(sorted(report.settings.items())),
        "model": {
            "path": model.path,
            "architecture": model.architecture,
            "parameters": model.parameters,
            "traced_parameters": model.traced_parameters,
            "scope": model.scope,
            "dtype": model.dtype,
            "fingerprint": model.fingerprint,
        },
        "index": {
            "path": index.path,
            "records": index.records,
            "windows": index.windows,
            "tokens": index.tokens,
            "scope": index.scope,
            "corpus_fingerprint": index.corpus_fingerprint,
        },
        "gate": None if report.gate is None else _plain(asdict(report.gate)),
        "comparison": None if report.comparison is None else _plain(asdict(report.comparison)),
        "findings": [_finding(finding, full) for finding in report.findings],
    }


def _finding(finding: Finding, full: bool) -> dict[str, Any]:
    shown = len(split_at_alpha(finding)[0])
    return {
        "prompt": finding.prompt,
        "response": finding.response,
        "span": finding.span,
        "generated": finding.generated,
        "method": finding.method,
        "mean_loss": float(finding.mean_loss),
        "exhaustive": finding.exhaustive,
        "scored": finding.scored,
        "notes": list(finding.notes),
        "kind": finding.kind,
        "fingerprint": finding.fingerprint,
        "suppressed": finding.suppressed,
        "probe": None if finding.probe is None else _plain(asdict(finding.probe)),
        "leaked": [asdict(value) for value in finding.leaked],
        "verdict": None if finding.verdict is None else _verdict(finding.verdict),
        "response_tokens": [
            {
                "position": token.position,
                "token_id": token.token_id,
                "text": token.text,
                "loss": float(token.loss),
            }
            for token in finding.response_tokens
        ],
        "records": [
            _record(record, number < shown, full) for number, record in enumerate(finding.records)
        ],
        "holders": None if finding.holders is None else [_holder(h) for h in finding.holders],
        "asked": finding.asked,
        "value_number": finding.value_number,
        "value_digest": finding.value_digest,
        "asking": None if finding.asking is None else asdict(finding.asking),
        "frequency": None if finding.frequency is None else asdict(finding.frequency),
    }


def _holder(holder: Holder) -> dict[str, Any]:
    return {
        "id": holder.id,
        "source": {"path": holder.source.path, "line": holder.source.line},
        "score": holder.score,
        "group": holder.group,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    document = _plain(asdict(verdict))
    for name in ("alpha", "value", "p_value", "q_value", "power"):
        if document[name] is not None:
            document[name] = float(document[name])
    null = verdict.null
    if null is not None:
        document["null"] = {
            "draws": null.samples,
            "edges": [float(edge) for edge in null.edges],
            "counts": list(null.counts),
            "threshold": null.threshold,
        }
    return document


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, all the way down: JSON knows no other, and `_lines` lays out lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return {key: plain(value) for key, value in document.items()}


def _record(record: RecordEvidence, shown: bool, full: bool) -> dict[str, Any]:
    kept = shown or full
    return {
        "rank": record.rank,
        "id": record.id,
        "source": {"path": record.source.path, "line": record.source.line},
        "score": float(record.score),
        "cosine": None if record.cosine is None else float(record.cosine),
        "p_value": None if record.p_value is None else float(record.p_value),
        "content_hash": record.content_hash,
        "text": record.text,
        "windows": record.windows,
        "window_start": record.window_start,
        "shown": shown,
        "tokens": [_token(token) for token in record.tokens] if kept else [],
        "pairs": [_pair(pair) for pair in record.pairs] if kept else [],
        "layers": list(record.layers) if kept else [],
        "holds": record.holds,
        "subject": record.subject,
    }


def _token(token: TokenEvidence) -> dict[str, Any]:
    return {
        "position": token.position,
        "token_id": token.token_id,
        "text": token.text,
        "start": token.start,
        "end": token.end,
        "loss": float(token.loss),
        "grad_norm": float(token.grad_norm),
        "evidence": float(token.evidence),
    }


def _pair(pair: PairEvidence) -> dict[str, Any]:
    return {
        "response_text": pair.response_text,
        "response_positions": list(pair.response_positions),
        "record_text": pair.record_text,
        "record_positions": list(pair.record_positions),
        "start": pair.start,
        "end": pair.end,
        "evidence": float(pair.evidence),
    }


def _not_finite(value: Any, place: str) -> Iterator[str]:
    """Where in the document a float is NaN or infinite: `findings[0].records[2].score`."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _not_finite(item, f"{place}[{number}]")


def _lines(value: Any, indent: str) -> Iterator[str]:
    """Indented JSON in which a flat object or list takes one line: a token a line, for a diff."""
    inner = f"{indent}  "
    if isinstance(value, dict) and _is_nested(value.values()):
        opening, closing = "{}"
        items = [(f"{json.dumps(key, ensure_ascii=False)}: ", item) for key, item in value.items()]
    elif isinstance(value, list) and _is_nested(value):
        opening, closing = "[]"
        items = [("", item) for item in value]
    else:
        yield json.dumps(value, ensure_ascii=False, allow_nan=False)
        return
    separator = opening
    for label, item in items:
        yield f"{separator}\n{inner}{label}"
        yield from _lines(item, inner)
        separator = ","
    yield f"\n{indent}{closing}"


def _is_nested(items: Iterable[Any]) -> bool:
    return any(isinstance(item, dict | list) for item in items)
