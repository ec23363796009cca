"""What detectors and masks cost an audit of ten thousand probes."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from random import Random

import pytest

from haiftrace.findings import RecordEvidence, Report, Source, TokenEvidence
from haiftrace.privacy import detect, mask_report
from tests.privacy.measure import read_lines
from tests.reports.finding_samples import english_finding
from tests.reports.report_samples import report_of

PROBES = 10_000
MOST_SECONDS = 60


def _record(number: int, lines: list[str], random: Random) -> RecordEvidence:
    """A record of some 120 tokens with values of its own."""
    text = " ".join(
        re.sub(r"\d", lambda _: str(random.randrange(10)), random.choice(lines)) for _ in range(5)
    )
    pieces = re.finditer(r"\s?\w{1,4}|\W", text)
    tokens = tuple(
        TokenEvidence(i, 5, piece[0], piece.start(), piece.end(), 0.5, 1.0, 0.1)
        for i, piece in enumerate(pieces)
    )
    return RecordEvidence(1, f"r{number}", Source("data.jsonl", number), 9.0, None, text, tokens)


def _report() -> Report:
    """A leak with five records for every tenth probe."""
    random = Random(0)
    base = english_finding()
    texts = [line.text for line in read_lines()]
    records = [_record(number, texts, random) for number in range(2000)]
    findings = [
        replace(
            base,
            prompt=f"{texts[i % 480]} {i}?",
            response=f"{texts[-i % 480]} ({i})",
            span=None,
            records=tuple(random.sample(records, 5)),
            response_tokens=(),
        )
        for i in range(0, PROBES, 10)
    ]
    return report_of(*findings)


@pytest.mark.slow
def test_ten_thousand_probes_take_less_than_a_minute():
    texts = [line.text for line in read_lines()]
    began = time.process_time()
    for number in range(PROBES):
        detect(f"{texts[number % len(texts)]} ({number})", f"{texts[-number % len(texts)]}?")
    mask_report(_report())
    assert time.process_time() - began < MOST_SECONDS
