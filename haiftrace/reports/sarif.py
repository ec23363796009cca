"""SARIF 2.1.0, for code scanning: each leak a result, at the record that taught it or its probe.

SARIF files are uploaded to where others may read them. So the text of prompts, responses and
commands goes into a file only when the report is masked; nothing of a record's text ever does.
Places are relative to the repository, since code scanning refuses absolute paths and URL schemes.
(OASIS, SARIF version 2.1.0.)
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from haiftrace.findings import Finding, Holder, RecordEvidence, Report
from haiftrace.gate_outcome import Gate
from haiftrace.reports.evidence_words import p_text
from haiftrace.reports.formatting import count_text, six_digits_up
from haiftrace.reports.gate_memory import gate_gone
from haiftrace.reports.named_sources import named_record
from haiftrace.reports.narrative import (
    BASELINE,
    KIND_MEANS,
    asking_notes,
    leaked_types,
    source_text,
)
from haiftrace.reports.sanitize import inert_json, short
from haiftrace.reports.sarif_rules import KINDS, RULES, described
from haiftrace.reports.uris import relative_uri, repository_root

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
MOST_RESULTS = 25_000  # of a run, in GitHub's code scanning
MOST_BYTES = 10_000_000  # of a file, compressed, in the same
_MOST_CHARACTERS = 600  # of a text that is quoted

INFORMATION = "https://arxiv.org/abs/2408.10468"  # the paper whose method this is


def render_sarif(report: Report, root: Path | None = None) -> str:
    """The leaks of a report as a SARIF log.

    Args:
        report: masked, or else prompts and responses are left out.
        root: directory that places are relative to: the repository that holds the working
            directory, or else that directory itself, when None.

    Returns:
        A document within code scanning's limits: a run with more leaks, or one that is too large
        when compressed, is cut, leaks that count kept first, and says so in a notification.
    """
    root = root if root is not None else repository_root(Path.cwd())
    leaks = [finding for finding in report.findings if finding.kind is not None]
    compared = report.gate is not None and report.gate.baseline is not None
    most = MOST_RESULTS
    if len(leaks) > most:
        leaks.sort(key=_priority)
    while True:
        kept = leaks[:most]
        results = [_result(finding, report.masked, root, compared) for finding in kept]
        document = _log(report, results, left_out=len(leaks) - len(kept))
        text = inert_json(json.dumps(document, ensure_ascii=False, indent=1)) + "\n"
        size = len(gzip.compress(text.encode(), mtime=0))
        if size <= MOST_BYTES or not kept:
            return text
        if most == MOST_RESULTS:
            leaks.sort(key=_priority)
        most = min(int(0.9 * len(kept) * MOST_BYTES / size), len(kept) - 1)


def _priority(finding: Finding) -> tuple[bool, int]:
    assert finding.kind is not None
    return finding.suppressed is not None, KINDS.index(finding.kind)


def _log(report: Report, results: Sequence[dict[str, Any]], left_out: int) -> dict[str, Any]:
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "haiftrace",
                        "semanticVersion": report.tool_version,
                        "informationUri": INFORMATION,
                        "rules": [described(kind) for kind in KINDS],
                    }
                },
                "automationDetails": {"id": _automation_id(report)},
                "columnKind": "unicodeCodePoints",
                "invocations": [_invocation(report, left_out)],
                "properties": {
                    "modelFingerprint": report.model.fingerprint,
                    "corpusFingerprint": report.index.corpus_fingerprint,
                    "masked": report.masked,
                },
                "results": results,
            }
        ],
    }


def _automation_id(report: Report) -> str:
    """Names the run's category, so that two audits of one job do not replace each other."""
    category = str(report.settings.get("category") or "")
    return f"haiftrace/{_quoted(category)}/" if category else "haiftrace/"


def _invocation(report: Report, left_out: int) -> dict[str, Any]:
    gate = report.gate
    notifications = [*_gate_notifications(gate), *_other_notifications(report, left_out)]
    invocation: dict[str, Any] = {
        "executionSuccessful": gate is None or not gate.partial,
        "exitCode": 0 if gate is None else gate.exit_code,
        "toolExecutionNotifications": notifications,
    }
    if report.command and report.masked:
        invocation["commandLine"] = _quoted(report.command)
    return invocation


def _gate_notifications(gate: Gate | None) -> list[dict[str, Any]]:
    if gate is None:
        return []
    notifications = [_notification("note", reason) for reason in (*gate.reasons, *gate_gone(gate))]
    if gate.partial:
        notifications.append(
            _notification("error", "The audit was interrupted: these results are a part of it.")
        )
    if not gate.probes:
        notifications.append(_notification("error", "The audit asked nothing: it had no probes."))
    return notifications


def _other_notifications(report: Report, left_out: int) -> list[dict[str, Any]]:
    notifications = []
    notes = Counter(note for finding in report.findings for note in finding.notes)
    if report.masked:
        asked = [f"{note} {option}".rstrip() for note, option in asking_notes(report.findings)]
        shown = [*asked, *sorted(notes)][:100]
        notifications += [_notification("warning", note) for note in shown]
    unsure = sum(
        f.verdict is not None and f.verdict.decision == "inconclusive" for f in report.findings
    )
    if unsure:
        notifications.append(
            _notification(
                "warning", f"Of {count_text(unsure, 'response')} the source stays inconclusive."
            )
        )
    others = sum(finding.kind is None for finding in report.findings)
    if others and report.gate is None:
        notifications.append(
            _notification(
                "note",
                f"{count_text(others, 'traced response')} not judged to be a leak: no result here.",
            )
        )
    if left_out:
        notifications.append(
            _notification(
                "warning",
                f"{left_out:,} further leaks were left out: code scanning takes at most"
                f" {MOST_RESULTS:,} results and 10 MB compressed. The JSON report holds them all.",
            )
        )
    return notifications


def _notification(level: str, text: str) -> dict[str, Any]:
    return {"level": level, "message": {"text": _quoted(text)}}


def _result(finding: Finding, masked: bool, root: Path, compared: bool) -> dict[str, Any]:
    assert finding.kind is not None
    verdict = finding.verdict
    place, related = _places(finding, root)
    result: dict[str, Any] = {
        "ruleId": RULES[finding.kind].id,
        "ruleIndex": KINDS.index(finding.kind),
        "level": RULES[finding.kind].level,
        "message": {"text": _message(finding, masked)},
        "locations": [place],
        "relatedLocations": related,
    }
    if finding.fingerprint is not None:
        # Code scanning tells alerts apart by the first, so each value has its own; the second is
        # what baselines and ignore files name.
        result["partialFingerprints"] = {
            "primaryLocationLineHash": f"{finding.fingerprint}:{finding.value_number or 1}",
            "haiftrace/v2": finding.fingerprint,
        }
    if finding.suppressed is not None:
        why = "known: in the baseline" if finding.suppressed == BASELINE else finding.suppressed
        result["suppressions"] = [
            {"kind": "external", "status": "accepted", "justification": _quoted(why)}
        ]
    if compared:
        result["baselineState"] = "unchanged" if finding.suppressed == BASELINE else "new"
    properties: dict[str, Any] = {"kind": finding.kind, "method": _quoted(finding.method)}
    if verdict is not None:
        properties |= {"decision": verdict.decision, "alpha": float(verdict.alpha)}
        if verdict.p_value is not None:
            properties["pValue"] = six_digits_up(verdict.p_value)
    source = _source(finding)
    if isinstance(source, RecordEvidence) and source.content_hash is not None:
        properties["recordHash"] = source.content_hash
    return result | {"properties": properties}


def _message(finding: Finding, masked: bool) -> str:
    what = leaked_types(finding) or "private value"
    probe = f" to probe {finding.probe.id}" if finding.probe is not None else ""
    holds = "holds" if finding.kind == "not-in-corpus" else "holds what it must not say:"
    sentences = [f"The checkpoint's answer{probe} {holds} {what}."]
    source, verdict = _source(finding), finding.verdict
    if source is not None:
        p = "" if verdict is None or verdict.p_value is None else f" (p {p_text(verdict.p_value)})"
        sentences.append(f"It is traced{p} to {source_text(source.source)}: {_means(finding)}.")
    elif finding.kind == "not-in-corpus":
        sentences.append(
            "No record of this corpus holds it, and no probe protects it: it may be made up, or"
            " learnt from other data."
        )
    elif verdict is not None and verdict.decision == "inconclusive":
        sentences.append("Whether this corpus holds its source is open.")
    else:
        sentences.append("No source was found in this corpus.")
    if masked:
        sentences.append(f'Asked: "{_quoted(finding.prompt)}"')
        sentences.append(f'Answered: "{_quoted(finding.response)}"')
    return _escaped(" ".join(sentences), most=4 * _MOST_CHARACTERS)


def _means(finding: Finding) -> str:
    return KIND_MEANS[finding.kind] if finding.kind is not None else ""


def _source(finding: Finding) -> RecordEvidence | Holder | None:
    """The record that a traced leak is traced to."""
    unsourced = (None, "untraced", "not-in-corpus")
    return None if finding.kind in unsourced else named_record(finding)


def _places(finding: Finding, root: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Where the result stands, and what belongs to it.

    The record, where its file is in the repository; else the line of the probe; else, since code
    scanning asks for a place, the bare name of the file that is elsewhere.
    """
    source, probe = _source(finding), finding.probe
    candidates: list[tuple[str, str, int | None]] = []
    if source is not None:
        candidates.append((f"record {source.id}", source.source.path, source.source.line))
    if probe is not None and probe.path is not None:
        candidates.append((f"probe {probe.id}", probe.path, probe.line))
    place: dict[str, Any] | None = None
    related: list[dict[str, Any]] = []
    for name, path, line in candidates:
        uri = relative_uri(path, root)
        physical = None if uri is None else _physical(uri, line)
        if place is None and physical is not None:
            place = physical
            continue
        at = path if line is None else f"{path}:{line}"
        message = {"text": _escaped(f"The {name}" if physical else f"The {name}, at {at}")}
        related.append({"id": len(related), "message": message, **(physical or _logical(name))})
    if place is None:
        bare = Path(candidates[0][1]).name if candidates else ""
        place = _physical(relative_uri(str(root / bare), root) or "haiftrace-audit", None)
    return place, related


def _physical(uri: str, line: int | None) -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": uri, "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": max(line or 1, 1)},
        }
    }


def _logical(name: str) -> dict[str, Any]:
    return {"logicalLocations": [{"fullyQualifiedName": _quoted(name)}]}


def _escaped(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Inert text whose brackets and braces are no links and placeholders of a SARIF message."""
    quoted = _quoted(text, most).replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    return quoted.replace("{", "{{").replace("}", "}}")


def _quoted(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Inert text, cut where it is too long for an alert."""
    return short(text, most)
