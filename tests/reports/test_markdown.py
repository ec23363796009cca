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

from haiftrace.findings import PairEvidence, Probe, Report
from haiftrace.gate_outcome import ComparedLeak, ReportComparison
from haiftrace.reports import markdown, write_report
from haiftrace.reports.markdown import render_markdown
from haiftrace.reports.markdown_text import cell, code, prose
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
    *("h2", "h3", "p", "strong", "em", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"),
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
    # Of what a forge links by itself nothing stands outside code.
    outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    assert not re.search(r"https?://|www\.|@\w", outside, re.IGNORECASE)


def test_the_decision_the_table_and_the_details() -> None:
    text = render_markdown(audit_report())
    assert text.startswith(
        "## haiftrace: Gate failed\n\n**4 leaks in 7 probes.** Exit code 1.\n\n| F"
    )
    table = text.split("\n\n")[2].splitlines()
    assert [" ".join(row.split()) for row in table[:1] + table[2:3] + table[6:7]] == [
        "| Finding | Value | Class | Evidence | Source |",
        "| `phone-017` | `phone` | verbatim | strong | `corpus/people.jsonl:17` |",
        "| `press` | `email` | untraced (passes) | none | – |",
    ]
    assert len({len(row) for row in table}) == 1  # it reads as a table where nobody renders it
    assert "- probes 7 · leaks 4 · verbatim 1 · inferred 1 · untraced 2 · inc" in text
    assert "- Does not count – known: the baseline holds it" in text
    assert "Share of score: `555-0134` +62%, `phone` +18%" in text
    assert "2 further records." in text
    assert "- Next: Remove or redact corpus/people.jsonl:17" in text
    assert tags(text).count("table") == 1
    assert tags(text).count("details") == 2 * 6 + 1


def test_sentences_are_prose_and_values_code() -> None:
    text = render_markdown(report_of(traced_finding()))
    assert "- Asked: `What's the phone of John Doe?`" in text
    assert "- Answered: `The phone number of John Doe is 555-0134.`" in text
    assert "**Traced.** The source is subject-017: the value stands in the record." in text
    assert "&#" not in text
    assert "<code>" not in text


def test_a_comparison_stands_before_the_findings() -> None:
    leak = ComparedLeak("gone", "ht2:00", "p|1", "phone", "5••", before="verbatim")
    kept = replace(leak, state="still there", probe="p2", after="untraced", source_before="a:1")
    compared = ReportComparison("sha256:3f2a", "other", 9, False, (kept, leak))
    text = render_markdown(audit_report(comparison=compared))
    places = [text.index(part) for part in ("### Against the earlier report: 0 leaks", "| Finding")]
    assert places == sorted(places)
    rows = rendered(text).split("<tbody>")[1].split("</tbody>")[0]
    plain = [html.unescape(re.sub("<[^>]*>", " ", row)).split() for row in rows.split("</tr>")]
    assert " ".join(plain[0]) == "still there p2 phone 5•• verbatim → untraced a:1 → –"
    assert plain[1] == ["gone", "p|1", "phone", "5••", "verbatim", "–"]
    assert "Both reports are of the same checkpoint" in text
    assert "The earlier audit asked 9 probes, this one 7: what was not asked again" in text
    tags(text)


def test_pairs_take_a_line() -> None:
    text = render_markdown(report_of(paired_finding()))
    expected = (
        "Taught: `phone` ← `phone` +10%; `555-0134` ← `555-0134` +50%, `phone` +12%, `by` +6%"
    )
    assert f"\n\n{expected}\n" in text
    assert "←" not in render_markdown(report_of(english_finding()))


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
    def read(shown: str) -> str:
        return html.unescape(re.sub("</?span>", "", shown))

    found = re.fullmatch(
        r"<p>Asked: <code>(.*)</code> end</p>\n", rendered(f"Asked: {code(text)} end")
    )
    if inert(text).strip():
        assert found
        assert read(found[1]) == inert(text)
    else:
        assert "(empty)" in code(text) or "(white space)" in code(text)
    row = rendered(f"| a | b |\n|---|---|\n| {cell(text, 99)} | x |")
    assert row.count("<td>") == 2
    shown = re.search(r"<td>(?:<code>(.*)</code>|\((?:empty|white space)\))</td>", row)
    assert shown
    assert shown[1] is None or read(shown[1]) == inert(text)


@given(hostile_text)
def test_prose_reads_as_the_text(text: str) -> None:
    for before, after in (("- ", ""), ("Asked: ", " end"), ("**", ".** end"), ("> ", "")):
        shown = rendered(f"{before}{prose('x' + text)}{after}\n")
        plain = html.unescape(re.sub("<[^>]*>", "", shown)).strip()
        assert f"x{inert(text).strip()}".strip() in plain
    shown = rendered(f"- {prose(text)}\n")
    assert html.unescape(re.sub("<[^>]*>", "", shown)).strip() == inert(text).strip()
    assert set(re.findall("<([a-z0-9]+)", shown)) <= {"ul", "li", "span"}


@settings(max_examples=40, deadline=None)
@given(*[hostile_text.filter(lambda text: inert(text).strip())] * 3)
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
