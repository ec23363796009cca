"""The report of the Python interface: as a dictionary, a data frame, a file or a page."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from haiftrace.findings import Finding, Report
    from haiftrace.privacy import DetectionSettings


class TraceReport:
    """The findings of a trace or an audit.

    Attributes:
        report: all of it, private values included.
    """

    def __init__(
        self,
        report: Report,
        values: Sequence[str] = (),
        detection: DetectionSettings | None = None,
    ) -> None:
        self.report = report
        self._values = tuple(values)
        self._detection = detection

    @property
    def findings(self) -> tuple[Finding, ...]:
        """A finding for each leak and method, private values included."""
        return self.report.findings

    def to_dict(self, *, reveal: bool = False, full: bool = False) -> dict[str, Any]:
        """The report as `-o report.json` writes it (its JSON Schema ships in the package).

        Args:
            full: with the evidence of records that chance alone may rank, and all digits.
        """
        from haiftrace.reports.json_report import render_json

        document: dict[str, Any] = json.loads(render_json(self._shown(reveal), full=full))
        return document

    def to_pandas(self, *, reveal: bool = False) -> pd.DataFrame:
        """A row for each record of each finding.

        The columns: prompt, response, span, method, decision, rank, record, path, line, score,
        p_value, text.

        Raises:
            ImportError: pandas is not installed (extra `bench`).
        """
        import pandas as pd

        rows = [
            {
                "prompt": finding.prompt,
                "response": finding.response,
                "span": finding.span,
                "method": finding.method,
                "decision": None if finding.verdict is None else finding.verdict.decision,
                "rank": record.rank,
                "record": record.id,
                "path": record.source.path,
                "line": record.source.line,
                "score": record.score,
                "p_value": record.p_value,
                "text": record.text,
            }
            for finding in self._shown(reveal).findings
            for record in finding.records
        ]
        return pd.DataFrame(rows)

    def save(self, path: str | Path, *, reveal: bool = False, full: bool = False) -> None:
        """Writes the report in the format of the suffix: .json, .jsonl, .sarif, .html, .md or
        .svg.

        Args:
            full: where it is JSON, as of `to_dict`.

        Raises:
            OutputError: it cannot be written there.
        """
        from haiftrace.reports import check_outputs, write_report

        check_outputs([path])
        sarif = str(path).lower().endswith(".sarif")
        write_report(self._shown(reveal and not sarif), path, full=full)

    def _repr_html_(self) -> str:
        """The HTML page in a frame, for notebooks."""
        from haiftrace.reports.html_report import render_html

        page = html.escape(render_html(self._shown(reveal=False)), quote=True)
        style = "width: 100%; height: 40em; border: 0"
        return f'<iframe sandbox="allow-scripts" srcdoc="{page}" style="{style}"></iframe>'

    def _shown(self, reveal: bool) -> Report:
        from haiftrace.privacy import mask_report

        return self.report if reveal else mask_report(self.report, self._values, self._detection)
