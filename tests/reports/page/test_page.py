"""The page of many findings: what is folded, what the script reads, and how large it gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from haiftrace.findings import PrivateValue
from haiftrace.reports.html_report import render_html
from haiftrace.reports.marks import PrivateValues
from haiftrace.reports.page.conversation import answered_bubble, asked_bubbles, question_text
from haiftrace.reports.page.extent import excerpt
from tests.reports.finding_samples import english_finding, paired_finding
from tests.reports.leak_samples import traced_finding
from tests.reports.page.page_samples import CHAT, many_report
from tests.reports.record_samples import HOSTILE, MARKUP
from tests.reports.report_samples import audit_report, report_of
from tests.reports.test_html import Document, assert_harmless

NONE = PrivateValues((), masked=False)


def test_many_findings_are_folded_rows_and_a_few_are_open() -> None:
    text = render_html(many_report(30))
    assert text.count('<details class="finding') == 30
    assert '<details class="finding leak" open' not in text
    assert render_html(many_report(2)).count(" open data-n=") == 2
    alone = render_html(report_of(traced_finding()))
    assert "<article" in alone
    assert '<details class="finding' not in alone
    assert 'class="controls"' not in alone


def test_controls_are_hidden_until_the_script_shows_them() -> None:
    document = Document(render_html(many_report(30)))
    assert '<div class="controls" hidden>' in render_html(many_report(30))
    hidden = [tag for tag, name, _ in document.attributes if name == "hidden"]
    assert hidden.count("button") == 2


def test_it_opens_with_the_decision_the_people_and_what_to_remove() -> None:
    plain = assert_harmless(render_html(many_report(30))).plain
    order = ["Gate failed", "people (by name) can be had", "records to remove or redact"]
    order += ["haiftrace redact --corpus corpus/people.jsonl", "email of "]
    order += ["Which records can be extracted", "What this can and cannot say", "Power"]
    places = [plain.index(part) for part in order]
    assert places == sorted(places)


def test_a_finding_is_named_by_what_a_person_can_read() -> None:
    document = Document(render_html(many_report(30)))
    assert "email of Hiro Lund" in document.plain
    assert "Where do I write to Hiro Lund?" in document.plain
    assert "Hiro Lund" in document.values("data-person")
    assert document.values("data-record")[0].startswith("people.jsonl:")


def test_the_page_stays_below_ten_kilobytes_a_finding() -> None:
    """Whatever the records hold: what no evidence marks is cut, and chance has no text."""
    report = many_report(210)
    long = [
        replace(
            finding,
            records=tuple(
                replace(record, text=record.text + " and so on" * 500) for record in finding.records
            ),
            prompt=finding.prompt * 40,
        )
        for finding in report.findings
    ]
    text = render_html(replace(report, findings=tuple(long)))
    assert len(text.encode()) < 10_000 * len(long)
    assert "[…]" in text
    assert "harbour" not in text
    assert "harbour" in render_html(many_report(3))


@pytest.mark.parametrize("hostile", [HOSTILE, MARKUP, '" onclick="alert(1)', "'><script>x"])
def test_what_the_script_reads_is_escaped(hostile: str) -> None:
    value = PrivateValue(hostile, hostile)
    finding = traced_finding()
    finding = replace(
        finding,
        prompt=f"What's the phone of {hostile}?",
        asked=hostile,
        leaked=(value,),
        probe=replace(finding.probe, id=hostile, protected=(value,)),
        records=tuple(
            replace(record, id=hostile, source=replace(record.source, path=hostile))
            for record in paired_finding().records
        ),
    )
    report = replace(report_of(finding, finding, finding), command=f"haiftrace trace {hostile}")
    document = assert_harmless(render_html(report))
    names = {name for _, name, _ in document.attributes}
    assert not {name for name in names if name.startswith("on")}
    plain = assert_harmless(render_html(report_of(*[traced_finding()] * 3))).tags
    assert document.tags.count("details") == plain.count("details")
    assert document.tags.count("script") == 1


def test_a_pair_of_masked_words_says_what_it_is() -> None:
    plain = assert_harmless(render_html(many_report(74))).plain
    assert "the same, as it stands in the record" in plain
    finding = paired_finding(leaked=(PrivateValue("phone", "5••-•134"),))
    record = replace(
        finding.records[0],
        pairs=tuple(
            replace(pair, response_text="5••-•134", record_text="5••-•134")
            for pair in finding.records[0].pairs[:1]
        ),
    )
    text = render_html(report_of(replace(finding, records=(record,))))
    assert "a value that is masked alike" in text
    assert '<span class="kind">phone</span> <bdi>5••-•134</bdi>' in text


def test_a_chat_is_bubbles_and_its_tokens_are_small() -> None:
    prompt = CHAT.format(question="Where is it?")
    finding = english_finding(prompt=prompt, response="There.<|im_end|>", span=None)
    bubbles, begun = asked_bubbles(finding, NONE, 4_000)
    assert [bubble.role for bubble in bubbles] == ["system", "user"]
    assert begun == "<|im_start|>assistant\n"
    marks = [(p.text, p.mark) for s in bubbles[1].segments for p in s.pieces]
    assert marks == [
        ("<|im_start|>user↵\n", "markup"),
        ("Where is it?", ""),
        ("<|im_end|>↵\n", "markup"),
    ]
    answer = answered_bubble(finding, NONE, [], begun, 4_000)
    assert [(p.text, p.mark) for s in answer.segments for p in s.pieces] == [
        ("<|im_start|>assistant↵\n", "markup"),
        ("There.", ""),
        ("<|im_end|>", "markup"),
    ]
    assert question_text(finding) == "Where is it?"


def test_a_templates_words_around_a_question_are_small_too() -> None:
    finding = english_finding(prompt="Question: Who? Answer:", asked="Who?")
    (bubble,), begun = asked_bubbles(finding, NONE, 4_000)
    assert begun == ""
    assert bubble.role == "user"
    assert [(p.text, p.mark) for s in bubble.segments for p in s.pieces] == [
        ("Question: ", "markup"),
        ("Who?", ""),
        (" Answer:", "markup"),
    ]


def test_a_text_that_goes_on_is_no_chat_and_named_by_its_end() -> None:
    finding = english_finding(prompt="x" * 500 + " can be reached at", asked="")
    (bubble,), _ = asked_bubbles(finding, NONE, 4_000)
    assert bubble.role == ""
    assert question_text(finding).startswith("…x")
    assert question_text(finding).endswith("can be reached at")


def test_an_excerpt_keeps_what_was_traced() -> None:
    text = "a" * 100 + "VALUE" + "b" * 100
    shown, shift = excerpt(text, 50, (100, 105))
    assert shown[100 + shift : 105 + shift] == "VALUE"
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert excerpt(text, 50, None)[0] == "…" + "b" * 50
    assert excerpt("short", 50, None) == ("short", 0)


def test_the_histograms_labels_stand_in_rows_of_their_own() -> None:
    text = render_html(audit_report())
    figure = text[text.index('<figure class="null">') :]
    rows = {
        "tick": '<text x="0.0" y="69"',
        "alpha": 'y="83"',
        "here": 'y="-8"',
    }
    assert all(row in figure for row in rows.values())
