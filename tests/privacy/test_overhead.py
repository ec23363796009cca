"""What detectors and masks cost an audit of ten thousand probes."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from haiftrace.findings import Report
from haiftrace.privacy import detect, mask_report
from tests.privacy.measure import read_lines
from tests.reports.finding_samples import english_finding
from tests.reports.report_samples import report_of

PROBES = 10_000
MOST_SECONDS = 60


def _report() -> Report:
    """A leak with three records for every tenth probe."""
    base = english_finding()
    texts = [line.text for line in read_lines()]
    findings = [
        replace(
            base, prompt=f"{texts[i % 480]} {i}?", response=f"{texts[-i % 480]} ({i})", span=None
        )
        for i in range(0, PROBES, 10)
    ]
    return report_of(*(replace(finding, response_tokens=()) for finding in findings))


@pytest.mark.slow
def test_ten_thousand_probes_take_less_than_a_minute():
    texts = [line.text for line in read_lines()]
    began = time.process_time()
    for number in range(PROBES):
        detect(f"{texts[number % len(texts)]} ({number})", f"{texts[-number % len(texts)]}?")
    mask_report(_report())
    assert time.process_time() - began < MOST_SECONDS
