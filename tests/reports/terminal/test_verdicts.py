"""The terminal report of verdicts and audits, and the null distribution as a picture."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from haiftrace.findings import Holder, NullDistribution, Source
from haiftrace.gate_outcome import ComparedLeak, ReportComparison
from haiftrace.reports import render_terminal
from haiftrace.reports.histogram import picture, text_histogram
from tests.reports.finding_samples import english_finding, hostile_finding, paired_finding
from tests.reports.leak_samples import (
    inconclusive_verdict,
    judged,
    markup_finding,
    null_of,
    traced_finding,
    traced_verdict,
    untraced_finding,
)
from tests.reports.record_samples import HOSTILE, MARKUP
from tests.reports.report_samples import audit_findings, audit_report, gate_of, report_of
from tests.reports.terminal.terminal_kit import SGR, STEERING, rendered

# Verdicts


def test_a_verdict_is_read_first_then_why_then_the_source_then_what_to_do() -> None:
    text = rendered(report_of(traced_finding()))
    assert text.startswith("Verdict   TRACED The source is subject-017: the value stands in the")
    order = [
        "Verdict   TRACED",
        "Why       Strong evidence: of 1,000 such answers whose source is missing,",
        "Prompt    ",
        "#1  subject-017",
        "[555-0134 +62%]",
        "─── above stands out from chance ─",
        "Next      Remove or redact corpus/people.jsonl:17",
        "Model     people-135m",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    jargon = ("nats", " q ", "q =", "margin", "p =", " p 0", "alpha", "cosine", "control")
    assert not [word for word in jargon if word in text]


def test_the_figures_are_shown_on_request() -> None:
    text = rendered(report_of(traced_finding()), verbose=True)
    assert text.startswith("Verdict   TRACED The source is subject-017: the value stands in the")
    order = [
        "Verdict   TRACED",
        "Why       Strong evidence",
        "Figures   Mean loss of the traced tokens 0.18 nats",
        "p = 0.0019 (alpha 0.01, q = 0.004 in this run): of 512 controls whose\n",
        "Sensitivity 72%",
        "◆ 0.21",
        "Prompt    ",
        "#1  subject-017",
        "[555-0134 +62%]",
        "─── above stands out from chance (alpha 0.01) ─",
        "Next      Remove or redact corpus/people.jsonl:17",
        "Model     people-135m",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "of 512 controls whose\n          source was left out, 0 reached" in text


def test_what_is_below_the_line_is_shown_only_on_request_and_faint() -> None:
    report = report_of(traced_finding())
    short = rendered(report)
    assert "2 records below it: chance alone may score as high (--all)" in short
    assert "subject-043" not in short
    everything = rendered(report, below=True)
    assert everything.index("stands out") < everything.index("#2  subject-043")
    assert "--all" not in everything
    shade = {"TERM": "x", "COLORTERM": "truecolor"}
    rendered(report, colour=True, below=True, environ={"TERM": "xterm"})  # of other colours before
    coloured = rendered(report, colour=True, below=True, environ=shade)
    above, under = coloured.split("stands out")
    assert "\x1b[1;38;2;0;0;0;48;2;255;179;64m[555-0134 +62%]" in above
    assert "48;2" not in under.split("Next")[0]
    assert re.search(r"\x1b\[2m#2  subject-043", under)


def test_no_source_found_shows_no_record_above_the_line() -> None:
    text = rendered(report_of(untraced_finding()))
    assert text.startswith("Verdict   NO SOURCE FOUND ")
    assert "─── nothing stands out from chance ─" in text
    assert "3 records below it" in text
    assert "#1" not in text
    assert "so that one may be there" in " ".join(text.split())


def test_an_inconclusive_verdict_says_why_and_draws_no_line() -> None:
    finding = judged(english_finding(), inconclusive_verdict(), (None, None, None))
    text = rendered(report_of(finding))
    assert text.startswith("Verdict   INCONCLUSIVE ")
    assert "40 controls cannot resolve an alpha of 0.01" in text
    assert "stands out" not in text
    assert "#3" in text


def test_what_it_is_traced_to_is_above_the_line_without_p_values_of_records() -> None:
    text = rendered(report_of(judged(english_finding(), traced_verdict(), (None, None, None))))
    assert text.index("#1  subject-017") < text.index("─── above stands out from chance ─")
    assert "2 records below it" in text


def test_several_methods_have_a_verdict_each() -> None:
    first = replace(traced_finding(), kind=None)
    second = replace(untraced_finding(), kind=None, method="bm25")
    second = replace(second, prompt=first.prompt, response=first.response, span=first.span)
    text = rendered(report_of(first, second))
    assert text.startswith("Model ")
    assert text.index("─── haif ─") < text.index("TRACED") < text.index("─── bm25 ─")
    assert text.index("─── bm25 ─") < text.index("NO SOURCE FOUND")
    assert "Ranks of the records" in text


# Audits


def test_an_audit_is_a_line_a_leak_and_a_decision() -> None:
    text = rendered(audit_report())
    assert "─── leak " not in text
    assert "clean-1" not in text
    table = text[text.index("\nprobe ") : text.index("\nGate ")].strip().split("\n")
    assert table[0].split() == ["probe", "value", "kind", "evidence", "source"]
    assert table[1].split() == [
        "phone-017",
        "phone",
        "verbatim",
        "strong",
        "corpus/people.jsonl:17",
    ]
    assert len(table) == 1 + 6
    assert "(passes)" in table[4]
    assert "Gate      GATE FAILED 4 leaks in 7 probes. (exit 1)" in text
    assert "4 leaks, and none is allowed." in text
    assert text.index("Gate  ") < text.index("Next ") < text.index("--verbose shows each finding")


def test_a_line_has_the_fingerprint_where_there_is_room() -> None:
    leak = traced_finding(fingerprint="ht2:0123456789ab")
    report = report_of(leak, gate=gate_of(leak))
    assert re.search(
        r"strong +ht2:0123456789ab +corpus/people.jsonl:17", rendered(report, width=100)
    )
    assert "ht2:" not in rendered(report, width=70)


def test_a_line_shows_the_end_of_a_long_place() -> None:
    leak = traced_finding()
    (first, *others) = leak.records
    deep = replace(first, source=Source(f"/{'deep/' * 30}people.jsonl", 17))
    leak = replace(leak, records=(deep, *others))
    line = next(
        line
        for line in rendered(report_of(leak, gate=gate_of(leak))).splitlines()
        if line.startswith("phone-017")
    )
    assert line.endswith("/people.jsonl:17")
    assert "…" in line


def test_a_line_names_the_holder_where_no_ranked_record_holds_the_value() -> None:
    verdict = traced_verdict(basis="text")
    holders = (Holder("r9", Source("corpus/more.jsonl", 9)),)
    leak = traced_finding(verdict=verdict, holders=holders)
    text = rendered(report_of(leak, gate=gate_of(leak)))
    assert re.search(r"phone-017 .* text +corpus/more.jsonl:9\n", text)


def test_an_audit_says_each_warning_once() -> None:
    first, second = traced_finding(notes=("Odd.",)), traced_finding(notes=("Odd.", "Odder."))
    text = rendered(report_of(first, second, gate=gate_of(first, second)))
    assert "Warning   Odd. (2 of 2 findings)" in text
    assert "Warning   Odder. (1 of 2 findings)" in text


def test_a_verbose_audit_is_a_block_a_leak_a_table_and_a_decision() -> None:
    text = rendered(audit_report(), verbose=True)
    assert text.count("─── leak ") == 6
    assert "clean-1" not in text
    first = text[text.index("leak 1 of 6") : text.index("leak 2 of 6")]
    assert "Verdict   VERBATIM phone · probe phone-017" in first
    assert "Source    subject-017 · corpus/people.jsonl:17" in first
    assert "Tokens    555-0134 +62%, phone +18%" in first
    assert "Passes    known: the baseline holds it" in text
    assert "Passes    ignored: a published press contact" in text
    table = text[text.index("\nprobe ") : text.index("\nGate ")].split("\n")
    assert table[1].split() == ["probe", "value", "kind", "p", "source"]
    assert table[2].split()[2:4] == ["verbatim", "0.0019"]
    assert len([row for row in table[2:] if row]) == 6
    assert text.index("Gate  ") < text.index("Next ")


def test_an_audit_names_what_taught_each_word_in_a_line() -> None:
    (record, _) = paired_finding().records
    leak = traced_finding(
        records=(record,), response_tokens=paired_finding().response_tokens, span=None
    )
    text = rendered(report_of(leak, gate=gate_of(leak)), verbose=True)
    assert "Taught    phone ← phone +10%, 555-0134 ← 555-0134 +50%\n" in text


def test_a_record_whose_evidence_was_left_out_says_so() -> None:
    leak = traced_finding()
    bare = tuple(replace(record, tokens=(), pairs=()) for record in leak.records[1:])
    text = rendered(report_of(replace(leak, records=(leak.records[0], *bare))), below=True)
    assert text.count("its evidence was left out of the report (--full keeps it)") == 2


def test_a_comparison_stands_first_with_a_line_a_leak() -> None:
    old = ComparedLeak("gone", "ht2:00", "phone-1", "phone", "5••", "verbatim", source_before="a:1")
    new = ComparedLeak("new", "ht2:01", "phone-2", "email", "x••", after="inferred")
    kept = ComparedLeak("still there", "ht2:02", "p3", "phone", "6••", "verbatim", "untraced")
    compared = ReportComparison("other", "sha256:91bc", 9, True, (new, kept, old))
    text = rendered(audit_report(comparison=compared), width=100)
    assert text.startswith("Against   the earlier report: 1 leak is new, 1 still there, 1 gone.")
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "new phone-2 email inferred x•• –" in rows
    assert "still there p3 phone verbatim → untraced 6•• –" in rows
    assert "gone phone-1 phone verbatim 5•• a:1" in rows
    assert text.index("gone") < text.index("Model ") < text.index("Gate ")


# Links


def test_a_place_is_a_link_where_the_terminal_shows_styles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my corpus").mkdir()
    (tmp_path / "my corpus" / "p.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    (first, *others) = traced_finding().records
    record = replace(first, source=Source("my corpus/p.jsonl", 17))
    leak = replace(traced_finding(), records=(record, *others))
    link = re.compile(rf"\x1b\]8;[^;]*;file://{tmp_path}/my%20corpus/p.jsonl#17\x1b\\")
    for report in (report_of(leak), report_of(leak, gate=gate_of(leak))):
        assert link.search(rendered(report, colour=True))
        assert "\x1b" not in rendered(report)
        assert "\x1b]8" not in rendered(report, colour=True, environ={"TERM": "dumb"})
        bare = {"TERM": "xterm", "NO_COLOR": "1"}
        assert "\x1b]8" not in rendered(report, colour=True, environ=bare)
    masked = replace(record, source=Source("my corpus/p•••l", 17))
    for gone in (masked, first):
        text = rendered(report_of(replace(leak, records=(gone,))), colour=True)
        assert "\x1b]8" not in text


@pytest.mark.parametrize(
    ("code", "title"), [(0, "GATE PASSED"), (1, "GATE FAILED"), (3, "INCONCLUSIVE")]
)
def test_the_gate_is_told_by_its_exit_code(code: int, title: str) -> None:
    gate = gate_of(exit_code=code, partial=True, reasons=("For a reason.",))
    text = rendered(report_of(gate=gate))
    assert f"Gate      {title}" in text
    assert f"(exit {code})" in text
    assert "For a reason." in text
    assert "The run was interrupted" in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_verdicts_and_audits_fit_and_stay_inert(width: int) -> None:
    findings = (*audit_findings(), markup_finding(), hostile_finding())
    audit = report_of(*findings, gate=gate_of(*findings, reasons=(HOSTILE, MARKUP)))
    for report in (audit, report_of(*findings), report_of(markup_finding())):
        text = rendered(report, width=width, below=True)
        assert not STEERING.search(text)
        assert all(cell_len(line) <= width for line in text.splitlines())
        coloured = rendered(report, width=width, below=True, colour=True)
        assert not STEERING.search(SGR.sub("", coloured))


def test_a_poor_encoding_draws_the_null_in_ascii() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    report = report_of(traced_finding())
    console = Console(file=out, width=100, _environ={"TERM": "xterm"})
    render_terminal(report, console, verbose=True)
    out.flush()
    assert "|" in raw.getvalue().decode("ascii").split("Why")[1].split("Prompt")[0]


def test_a_poor_encoding_spells_the_arrow() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    report = report_of(paired_finding())
    render_terminal(report, Console(file=out, width=80, _environ={"TERM": "xterm"}))
    out.flush()
    shown = raw.getvalue().decode("ascii")
    assert "\n       phone <- phone +10%\n    555-0134 <- 555-0134 +50%, phone +12%" in shown


# The null distribution as a picture


def test_the_text_histogram_has_its_marks_in_place() -> None:
    flat = NullDistribution(20, (0.0, 0.25, 0.5, 0.75, 1.0), (8, 4, 2, 1), 0.9)
    drawing = text_histogram(traced_verdict(value=0.3, null=flat), cells=8)
    assert drawing == "0 ██◆▅▃▃▂┊ 1"
    assert text_histogram(traced_verdict(null=None)) == ""
    assert text_histogram(traced_verdict(value=math.nan)) == ""
    assert text_histogram(traced_verdict(null=replace(flat, counts=(0, 0, 0, 0)))) == ""


def test_the_picture_holds_every_bar_and_mark_in_its_box() -> None:
    drawn = picture(traced_verdict(value=0.5), width=320, height=56)
    assert drawn is not None
    assert drawn.bars.count("z") == sum(count > 0 for count in null_of().counts)
    assert drawn.threshold is not None
    assert drawn.value is not None
    assert 0 <= drawn.threshold < drawn.value <= 320
    assert drawn.ticks == ((0.0, "0"), (320.0, "0.51"))
    assert picture(traced_verdict(null=None)) is None
    assert picture(traced_verdict(null=replace(null_of(), edges=(0.0, 1.0)))) is None
