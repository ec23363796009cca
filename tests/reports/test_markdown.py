"""The Markdown report: what it shows, its size, and that no text breaks out of its place."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from haiftrace.findings import Finding, PairEvidence, Probe, Report
from haiftrace.reports import markdown, write_report
from haiftrace.reports.markdown import code, literal, render_markdown
from haiftrace.reports.sanitize import inert
from tests.reports.finding_samples import (
    chinese_finding,
    english_finding,
    hostile_finding,
    paired_finding,
)
from tests.reports.leak_samples import markup_finding, traced_finding
from tests.reports.record_samples import HOSTILE, MARKUP
from tests.reports.report_samples import audit_findings, audit_report, gate_of, report_of

TAGS = re.compile(r"<(/?[a-zA-Z][^\s>]*)[^>]*>")
OURS = {
    *("h2", "p", "strong", "em", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"),
    *("details", "summary", "code", "span", "blockquote"),
}
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def rendered(text: str) -> str:
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def tags(text: str) -> list[str]:
    found = TAGS.findall(rendered(text))
    assert {tag.removeprefix("/") for tag in found} <= OURS
    for tag in ("details", "summary", "code", "span", "table", "td", "blockquote"):
        assert found.count(tag) == found.count(f"/{tag}")
    return found


def whole_report() -> Report:
    findings = (*audit_findings(), hostile_finding(), markup_finding(), chinese_finding())
    return report_of(*findings, gate=gate_of(*findings, reasons=(MARKUP,)), masked=True)


@pytest.mark.parametrize(
    "report",
    [
        audit_report(),
        whole_report(),
        report_of(traced_finding()),
        report_of(english_finding()),
        report_of(paired_finding()),
        report_of(),
        report_of(gate=gate_of(exit_code=3, partial=True)),
    ],
)
def test_every_report_is_well_formed_and_inert(report: Report) -> None:
    text = render_markdown(report)
    tags(text)
    assert not STEERING.search(text)
    assert "https://" not in text
    assert not re.search(r"@\w", text)


def test_the_decision_the_table_and_the_details() -> None:
    text = render_markdown(audit_report())
    assert text.startswith("## haiftrace: Gate failed\n\n**4 leaks in 7 probes&#46;** Exit code 1.")
    plain = html.unescape(re.sub("<[^>]*>", "", text))
    assert "| 7 | 4 | 1 | 1 | 0 | 2 | 0 | 1 | 1 | 1 |" in plain
    assert "| phone-017 | phone | verbatim | strong | corpus/people.jsonl:17 |" in plain
    assert "| press | email | untraced (passes) | none | – |" in plain
    assert "Does not count – known: the baseline holds it" in plain
    assert "Share of score: 555-0134 +62%, phone +18%" in plain
    assert "2 further records." in plain
    assert "Next: Remove or redact corpus/people.jsonl:17" in plain
    assert tags(text).count("table") == 2
    assert tags(text).count("details") == 2 * 6 + 1


def test_pairs_take_a_line() -> None:
    def plain(*findings: Finding) -> str:
        return html.unescape(re.sub("<[^>]*>", "", render_markdown(report_of(*findings))))

    text = plain(paired_finding())
    assert "\n\nTaught: phone ← phone +10%; 555-0134 ← 555-0134 +50%, phone +12%, by +6%\n" in text
    assert "←" not in plain(english_finding())


def test_a_long_report_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [replace(traced_finding(), probe=Probe(f"p{n}")) for n in range(60)]
    report = report_of(*findings, gate=gate_of(*findings), masked=True)
    monkeypatch.setattr(markdown, "MOST_BYTES", 20_000)
    text = render_markdown(report)
    assert 15_000 < len(text.encode()) <= 20_000
    assert re.search(r"_\d+ further rows left out for size", text)
    assert re.search(r"_\d+ further findings left out for size", text)
    tags(text)


def test_the_largest_report_fits_a_summary() -> None:
    long = replace(traced_finding(), prompt=MARKUP * 40, response=MARKUP * 40)
    report = report_of(*[long] * 400, gate=gate_of(*[long] * 400), masked=True)
    assert len(render_markdown(report).encode()) <= 1024 * 1024


hostile_text = st.text(st.sampled_from(list(HOSTILE + MARKUP + "张伟👨‍👩 •|`")), max_size=40)


@given(hostile_text)
def test_code_reads_as_the_text(text: str) -> None:
    shown = rendered(f"Asked: {code(text)} end")
    found = re.fullmatch(r"<p>Asked: <code>(.*)</code> end</p>\n", shown)
    assert found
    assert html.unescape(re.sub("</?span>", "", found[1])) == inert(text)
    cell = rendered(f"| a | b |\n|---|---|\n| {code(text)} | {literal(text)} |")
    assert cell.count("<td>") == 2


@settings(max_examples=40, deadline=None)
@given(hostile_text, hostile_text, hostile_text)
def test_no_text_breaks_out_of_its_place(a: str, b: str, c: str) -> None:
    def structure(x: str, y: str, z: str) -> list[str]:
        pairs = (
            PairEvidence(f"w{z}", (1,), f"w{x}", (0,), 0, 1, 0.5),
            PairEvidence(x, (2,), y, (0,), 0, 0, 0.25),
        )
        record = replace(
            traced_finding().records[0], id=f"i{x}", text=f"t{y}", tokens=(), pairs=pairs
        )
        finding = replace(
            traced_finding(),
            prompt=x,
            response=y,
            notes=(z,),
            method=x,
            suppressed=f"s{z}",
            records=(record,),
            probe=Probe(x, y, 1),
        )
        gate = gate_of(finding, reasons=(x, y))
        found = tags(render_markdown(replace(report_of(finding, gate=gate), command=f"c{z}")))
        return [tag for tag in found if tag.removeprefix("/") != "span"]

    assert structure(a, b, c) == structure("x", "x", "x")


def test_the_suffix_writes_it(tmp_path: Path) -> None:
    write_report(audit_report(), tmp_path / "audit.md")
    assert (tmp_path / "audit.md").read_text(encoding="utf-8") == render_markdown(audit_report())
