"""What was run: model, corpus, settings, and how well a source would be noticed."""

from __future__ import annotations

from haiftrace.findings import Report
from haiftrace.reports.formatting import count_text, listed, size_text
from haiftrace.reports.sanitize import inert


def made_rows(report: Report) -> list[tuple[str, str]]:
    """What the report was made from and with, for a table."""
    model, index = report.model, report.index
    parameters = f"{size_text(model.parameters)} parameters"
    traced = f"{size_text(model.traced_parameters)} traced ({model.scope})"
    rows = [
        ("Checkpoint", model.path),
        ("Model", f"{model.architecture}, {parameters}, {traced}, {model.dtype}"),
        ("Weights", model.fingerprint),
        ("Index", index.path),
        (
            "Corpus",
            f"{count_text(index.records, 'record')}, {count_text(index.windows, 'window')},"
            f" {count_text(index.tokens, 'label token')}",
        ),
        ("Corpus fingerprint", index.corpus_fingerprint),
        *_power_rows(report),
        ("Made by", f"haiftrace {report.tool_version} in {report.seconds:.1f} s"),
    ]
    return [(name, inert(value)) for name, value in rows]


def _power_rows(report: Report) -> list[tuple[str, str]]:
    """Controls and sensitivity over all findings; none where nothing was calibrated."""
    verdicts = [finding.verdict for finding in report.findings if finding.verdict is not None]
    powers = sorted(v.power for v in verdicts if v.power is not None)
    samples = sorted({v.null.samples for v in verdicts if v.null is not None})
    methods = list(dict.fromkeys(finding.method for finding in report.findings))
    rows = [("Traced by", listed(methods))] if methods else []
    if samples:
        rows.append(("Controls", f"{_range([f'{n:,}' for n in samples])} without their source"))
    if powers:
        percents = list(dict.fromkeys(f"{power:.0%}" for power in powers))
        rows.append(
            ("Power", f"{_range(percents)} of the controls whose source is there are traced to it")
        )
    return rows


def _range(ascending: list[str]) -> str:
    return ascending[0] if len(ascending) == 1 else f"{ascending[0]} to {ascending[-1]}"
