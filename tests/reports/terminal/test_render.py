"""The terminal report: what it says, in colour and without, and that hostile text stays inert."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from haiftrace.reports import render_terminal
from haiftrace.reports.terminal.comparison import rank_table
from tests.reports.finding_samples import (
    chinese_finding,
    english_finding,
    hostile_finding,
    paired_finding,
)
from tests.reports.leak_samples import markup_finding
from tests.reports.record_samples import CHINESE, ENGLISH, HOSTILE, paired, record_of, tokens_of
from tests.reports.report_samples import report_of
from tests.reports.terminal.terminal_kit import SGR, STEERING, rendered


def test_the_english_report_at_80_columns() -> None:
    bar = "█" * 8
    assert rendered(report_of(english_finding())) == (
        "Model     people-135m · LlamaForCausalLM · 135M parameters, 106M traced, float32\n"
        "Index     haiftrace-index · 220 records · 16,940 tokens · scope linear\n"
        "\n"
        "Prompt    What's the phone of John Doe?\n"
        "Response  The phone number of John Doe is [555-0134].\n"
        "Traced    the part in brackets · generated · the model is 84% sure of each token\n"
        "\n"
        f"#1  subject-017                                           score 0.2620  {bar}\n"
        "    corpus/people.jsonl:17\n"
        "    │ John Doe was born on 3 May 1961 in [Lisbon -15%] and works as a marine\n"
        "    │ engineer. You can [reach +11%] John [Doe +11%] by [phone +18%]:\n"
        "    │ [555-0134 +62%]. He is married to Ana, and they have two children.\n"
        "    share of score: 555-0134 +62%, phone +18%, Lisbon -15%, reach +11%,\n"
        "    Doe +11%, by +11%\n"
        "\n"
        "#2  subject-043                                          score 0.07200  ██░░░░░░\n"
        "    corpus/people.jsonl:43\n"
        "    │ Ask for Maria [Doe +42%] at [555-0199 +86%], or write to\n"
        "    │ [maria@example.org -25%].\n"
        "    share of score: 555-0199 +86%, Doe +42%, maria@example.org -25%, Ask +3%,\n"
        "    for -3%, at -3%, or -3%, to +3%\n"
        "\n"
        "#3  corpus/prose.txt:2048                              score 0.0007000  ░░░░░░░░\n"
        "    │ [The +29%] harbour [was -29%] built [in +29%] [1893 +43%] by\n"
        "    │ [engineers +57%] from Lisbon.\n"
        "    share of score: engineers +57%, 1893 +43%, The +29%, was -29%, in +29%,\n"
        "    by -29%, from -29%, Lisbon +29%\n"
        "\n"
        "Legend    [word +31%] carries 31% of its record's score; a minus is against the\n"
        "          record.\n"
        "          haiftrace 0.1.0, 12.3 s\n"
    )


def test_pairs_stand_under_their_record_by_the_words_of_the_response() -> None:
    text = rendered(report_of(paired_finding()))
    assert (
        "    share of score: 555-0134 +54%, phone +16%, reach +10%, Doe +10%, by +10%\n"
        "       phone ← phone +10%\n"
        "    555-0134 ← 555-0134 +50%, phone +12%, by +6%\n"
        "\n"
    ) in text
    assert "    555-0134 ← 555-0199 +75%\n" in text
    assert "answer ← record: a word of the answer, and what taught it." in text
    plain = rendered(report_of(english_finding()))
    assert "←" not in plain


def test_a_long_response_shows_the_words_with_most_evidence() -> None:
    (record, _) = paired_finding().records
    pairs = [(f"word{n}", n, "phone:", 0.01 * (n % 10)) for n in range(1, 12)]
    text = rendered(report_of(paired_finding(records=(paired(record, *pairs),))))
    shown = re.findall(r"(word\d+) ← phone", text)
    assert shown == ["word5", "word6", "word7", "word8", "word9"]


@pytest.mark.parametrize("fraction", [math.nan, math.inf, 0.0, -1.0])
def test_pairs_without_meaning_do_not_stop_the_report(fraction: float) -> None:
    (record, _) = paired_finding().records
    finding = paired_finding(records=(paired(record, ("555", 40, "phone:", fraction)),))
    assert "555-0134" in rendered(report_of(finding))


def test_the_chinese_record_is_marked_by_token() -> None:
    text = rendered(report_of(chinese_finding()), width=80)
    assert (
        "    │ [张伟 +13%]住在上海市浦东新区世纪大道100号，[电话 +26%]是\n"
        "    │ [138-0013-8000 +67%]。他喜欢📚和🏃🏽‍♂️。\n"
        "    share of score: 138-0013-8000 +67%, 电话 +26%, 张伟 +13%, 上海 -6%\n"
    ) in text
    assert "all of the response · given" in text
    assert "Method    haif" not in text
    figures = rendered(report_of(chinese_finding()), width=80, verbose=True)
    assert "Method    haif · all 224 record windows scored exactly" in figures
    assert "Mean loss of the traced tokens 4.20 nats" in figures
    assert "Warning   The model would hardly say this" in text


@pytest.mark.parametrize("width", [40, 80, 120, 300])
def test_lines_fit_the_width(width: int) -> None:
    report = report_of(
        english_finding(), chinese_finding(), hostile_finding(), paired_finding(), markup_finding()
    )
    for line in rendered(report, width=width).splitlines():
        assert cell_len(line) <= min(width, 110)
        assert line == line.rstrip()


@pytest.mark.parametrize(
    "environ",
    [
        {"TERM": "xterm-256color", "NO_COLOR": "1"},
        {"TERM": "xterm-256color", "NO_COLOR": "1", "COLORTERM": "truecolor"},
        {"TERM": "dumb"},
    ],
)
def test_without_colour_there_is_no_escape(environ: dict[str, str]) -> None:
    report = report_of(english_finding(), hostile_finding())
    text = rendered(report, colour=True, environ=environ)
    assert "\x1b" not in text
    assert text == rendered(report)
    assert "\x1b" not in rendered(report)  # no terminal at all


def test_colour_adds_no_information_but_shade() -> None:
    report = report_of(english_finding(), chinese_finding(), hostile_finding())
    coloured = rendered(report, colour=True, environ={"TERM": "x", "COLORTERM": "truecolor"})
    assert SGR.search(coloured)
    body = SGR.sub("", coloured).split("Legend")[0]
    assert body == rendered(report).split("Legend")[0]


def test_shade_follows_evidence_and_sign_over_all_records() -> None:
    report = report_of(english_finding())
    text = rendered(report, colour=True, environ={"TERM": "x", "COLORTERM": "truecolor"})
    strong, weak, against = "48;2;255;179;64", "48;2;255;227;179", "48;2;197;221;245"
    assert re.search(rf"{strong}m\[555-0134 \+62%\]", text)
    assert re.search(rf"{weak}m\[555-0199 \+86%\]", text)  # of a record that scores less
    assert re.search(rf"{against}m\[Lisbon -15%\]", text)
    assert not re.search(r"48;2[^m]*m\[engineers", text)  # noise: marked, not shaded


def test_hostile_text_is_shown_inert() -> None:
    text = rendered(report_of(hostile_finding()), width=200)
    assert not STEERING.search(text)
    assert "^[[2J^[[31mCLEARED^[[0m" in text
    assert "[bold red]markup[/bold red]" in text
    assert "<U+202E>gnp.exe<U+202C> zero<U+200B>width" in text
    assert "id^[[1m↵[red]" in text
    assert "evil^[[7m<U+202E>.jsonl:17" in text
    # A forged heading never begins a line: records' text stands behind a bar, indented.
    assert [line for line in text.splitlines() if line.startswith("#1")] == [
        line for line in text.splitlines() if line.startswith("#1  id^[")
    ]


hostile_text = st.text(
    st.sampled_from(list(HOSTILE + "张伟👨‍👩 \n[]/")) | st.characters(codec=None), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(hostile_text, hostile_text, hostile_text, st.sampled_from([30, 80, 120]))
def test_no_line_holds_what_came_in_to_steer(a: str, b: str, c: str, width: int) -> None:
    record = record_of(b, {b[:3]: 0.5}, id=c, path=a) if b else record_of(b, id=c, path=a)
    finding = replace(
        english_finding(),
        prompt=a,
        response=b,
        span=b[1:4] or None,
        method=c,
        notes=(a, c),
        records=(record, replace(record, rank=2)),
    )
    report = report_of(finding)
    report = replace(
        report,
        model=replace(report.model, path=a, architecture=b, dtype=c),
        index=replace(report.index, path=b, scope=c),
        tool_version=a,
    )
    plain = rendered(report, width=width)
    assert not STEERING.search(plain)
    plain.encode()
    assert all(cell_len(line) <= width for line in plain.splitlines())
    coloured = rendered(report, width=width, colour=True)
    assert not STEERING.search(SGR.sub("", coloured))
    assert SGR.sub("", coloured).split("Legend")[0] == plain.split("Legend")[0]


def test_several_leaks_are_ruled_off() -> None:
    text = rendered(report_of(english_finding(), chinese_finding()))
    assert "─── leak 1 of 2 ───" in text
    assert "─── leak 2 of 2 ───" in text
    assert text.count("Model ") == 1
    assert "leak 1 of" not in rendered(report_of(english_finding()))


def test_several_methods_stand_beside_each_other() -> None:
    first = english_finding()
    others = [replace(r, rank=3 - r.rank, cosine=None) for r in first.records[:2]]
    second = replace(first, method="bm25", records=tuple(others[::-1]))
    text = rendered(report_of(first, second), verbose=True)
    assert text.count("Prompt ") == text.count("Response ") == 1
    assert "─── haif ───" in text
    assert "─── bm25 ───" in text
    title, *rows = text[text.index("Ranks of") :].splitlines()[1:4]
    assert title.split() == ["haif", "bm25"]
    ids = [record.id for record in first.records[:2]]
    assert [row.split() for row in rows] == [[ids[0], "1", "2"], [ids[1], "2", "1"]]
    assert text.count("cosine") == len(first.records)


def test_a_record_that_a_method_does_not_show_has_a_dash_and_long_names_are_cut() -> None:
    first = english_finding()
    (record, *_) = first.records
    strange = replace(record, id="x" * 300, rank=1)
    findings = [replace(first, records=(strange,)), replace(first, method="tracincp", records=())]
    header, row = rank_table(findings, 40)
    assert header.split() == ["haif", "tracincp"]
    assert row.split()[1:] == ["1", "-"]
    assert cell_len(row) <= 40


def test_no_record_is_said_plainly() -> None:
    text = rendered(report_of(english_finding(records=())))
    assert "\nNo record was found for this response.\n" in text
    assert "Legend" not in text
    assert "Nothing was traced" in rendered(report_of())


def long_text() -> str:
    filler = " ".join(["The quick brown fox jumps over the lazy dog."] * 60)
    return f"{filler} {ENGLISH} {filler}"


def test_a_long_record_is_cut_to_its_strongest_words() -> None:
    record = record_of(long_text(), {"555-0134": 0.4, "phone": 0.1}, windows=4, window_start=512)
    report = report_of(english_finding(records=(record,)))
    text = rendered(report)
    assert "│ … " in text
    assert "[phone +20%]: [555-0134 +80%]. He is married" in re.sub(r"\s+│ |\s+", " ", text)
    assert "an excerpt of 5,566 characters" in text
    assert "best of 4 windows, from token 512" in text
    assert len(text.splitlines()) < 25
    whole = rendered(report, full=True)
    assert whole.count("quick") == 120
    assert "excerpt" not in whole
    assert "…" not in whole


def test_a_long_prompt_and_response_are_cut_but_the_span_stays() -> None:
    finding = english_finding(prompt=long_text(), response=long_text(), records=())
    text = rendered(report_of(finding))
    assert "[555-0134]" in text
    assert len(text.splitlines()) < 25


def test_a_score_that_cancels_out_shows_evidence_instead_of_shares() -> None:
    record = record_of("out and in", {"out": 0.5, "in": -0.5, " and": 0.0})
    text = rendered(report_of(english_finding(records=(record,))))
    assert "[out +0.5] and [in -0.5]" in text
    assert "evidence (the score nearly cancels out): out +0.5, in -0.5" in text


def test_a_negative_score_keeps_the_signs_of_its_words() -> None:
    record = record_of("good bad", {"good": 0.25, "bad": -0.75})
    text = rendered(report_of(english_finding(records=(record,))))
    assert "[good +50%] [bad -150%]" in text
    assert "score -0.5000  ░░░░░░░░" in text
    figures = rendered(report_of(english_finding(records=(record,))), verbose=True)
    assert "score -0.5000  cosine -0.400  ░░░░░░░░" in figures


def test_special_tokens_and_white_space_are_named() -> None:
    text = "a\n b"
    pieces = [(0, 0, 0.3), (0, 1, 0.1), (1, 2, 0.2), (2, 3, 0.25), (3, 4, 0.05), (0, 0, 0.1)]
    tokens = tokens_of(text, pieces)
    tokens = (replace(tokens[0], text="<s>"), *tokens[1:])
    record = replace(record_of(text), tokens=tokens, score=1.0)
    shown = rendered(report_of(english_finding(records=(record,))))
    assert "│ [<s> +30%] [a +10%] [↵ +20%] [␣ +25%] b [(special token) +10%]\n" in shown
    assert "share of score: <s> +30%, ␣ +25%, ↵ +20%, a +10%, (special token) +10%" in shown


@pytest.mark.parametrize("part", [math.nan, math.inf, 0.0])
def test_numbers_without_meaning_do_not_stop_the_report(part: float) -> None:
    record = record_of("some text", {"some": part, "text": part})
    finding = english_finding(records=(record,), mean_loss=part)
    text = rendered(report_of(finding))
    assert "some text" in re.sub(r"\[(\w+) \S+\]", r"\1", text)


def test_empty_texts_are_named() -> None:
    record = replace(record_of(""), text="", tokens=(), score=0.0)
    text = rendered(report_of(english_finding(prompt="", response="", records=(record,))))
    assert text.count("(empty)") == 2
    assert "(no text)" in text
    assert "no word of it carries evidence" in text


def test_a_record_without_a_line_is_named_by_its_path() -> None:
    record = record_of(ENGLISH, line=None, id="corpus/people.jsonl")
    text = rendered(report_of(english_finding(records=(record,))))
    assert "#1  corpus/people.jsonl  " in text
    assert "None" not in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_poor_encoding_still_shows_everything(encoding: str) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    kwargs: dict[str, Any] = {"width": 100, "force_terminal": True, "_environ": {"TERM": "xterm"}}
    render_terminal(report_of(english_finding(), chinese_finding()), Console(file=out, **kwargs))
    out.flush()
    text = SGR.sub("", raw.getvalue().decode(encoding))
    assert "[555-0134 +62%]" in text
    assert "\\u5f20\\u4f1f" in text
    assert "| " in text


def test_the_samples_are_what_they_claim() -> None:
    assert STEERING.search(HOSTILE)
    assert "张伟" in CHINESE
