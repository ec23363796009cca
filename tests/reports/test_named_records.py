"""Which of the ranked records a report names beside the first."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from haiftrace.findings import Holder, Source, Verdict
from haiftrace.reports.html_report import render_html
from haiftrace.reports.named_sources import named_record, named_source
from haiftrace.reports.narrative import clears, holders_text, next_step, split_at_alpha, traced_to
from haiftrace.reports.sarif import render_sarif
from tests.reports.finding_samples import english_finding
from tests.reports.report_samples import report_of
from tests.reports.test_html import Document


def ranked(holds: list[bool], p_values: list[float], holders: int, basis: str = "influence"):
    finding = english_finding()
    records = tuple(
        replace(finding.records[0], rank=n, id=f"r{n}", holds=held, p_value=p)
        for n, (held, p) in enumerate(zip(holds, p_values, strict=True), 1)
    )
    places = tuple(Holder(f"h{n}", Source("data.jsonl", n)) for n in range(1, holders + 1))
    verdict = Verdict("traced", 0.01, p_value=p_values[0], basis=basis)
    return replace(finding, records=records, holders=places, verdict=verdict)


@pytest.mark.parametrize(
    ("holds", "p_values", "holders", "named"),
    [
        # Others like the source clear alpha too: only the holder among them is named.
        ([True, False, True], [0.004, 0.004, 0.3], 2, [1, 3]),
        # Where no record holds the value, what clears alpha is named.
        ([False, False, False], [0.004, 0.004, 0.3], 0, [1, 2]),
    ],
)
def test_a_further_record_is_named_for_what_it_holds(holds, p_values, holders, named):
    finding = ranked(holds, p_values, holders)
    assert [r.rank for r in finding.records if clears(r, finding)] == named
    above, _ = split_at_alpha(finding)
    assert len(above) == max(named)


def test_by_text_the_first_holder_is_the_source():
    finding = ranked([False, True], [0.2, 0.3], 1, basis="text")
    assert traced_to(finding).rank == 2
    assert traced_to(ranked([False, False], [0.2, 0.3], 1, basis="text")) is None


def test_all_holders_are_named_and_to_be_removed():
    finding = ranked([True, True], [0.004, 0.3], 2, basis="influence and text")
    assert holders_text(finding) == "It stands in 2 records: h1 and h2."
    assert "data.jsonl:1 and data.jsonl:2, train again without them" in next_step(finding)
    many = ranked([True], [0.004], 12)
    assert holders_text(many).endswith("h8 and 4 more.")


def test_a_holder_that_is_not_ranked_is_named_in_every_report():
    ranked_one = ranked([False, True], [0.2, 0.3], 2, basis="text")
    assert named_record(ranked_one).id == "r2"
    unranked = ranked([False, False], [0.2, 0.3], 2, basis="text")
    assert named_record(unranked).id == "h1"
    assert named_source(unranked) == Source("data.jsonl", 1)
    open_one = replace(unranked, verdict=Verdict("inconclusive", 0.01, p_value=0.2))
    assert named_record(open_one) is named_source(open_one) is None

    leak = replace(unranked, kind="verbatim")
    (result,) = json.loads(render_sarif(report_of(leak)))["runs"][0]["results"]
    location = result["locations"][0]["physicalLocation"]
    assert location["artifactLocation"]["uri"] == "data.jsonl"
    assert location["region"]["startLine"] == 1
    rows = Document(render_html(report_of(leak, leak))).values("data-record")
    assert rows[0].startswith("data.jsonl:1")
