"""Evidence in words: what a p-value comes to, and that no jargon is read before the figures."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest

from haiftrace.findings import Asking, Holder, Source
from haiftrace.reports.evidence_words import (
    NAMED_FIRST,
    UNSAID,
    evidence_in_words,
    statistics,
    strength,
    strength_text,
)
from haiftrace.reports.html_report import render_html
from haiftrace.reports.markdown import render_markdown
from haiftrace.reports.narrative import next_step, reasons_to_believe
from tests.reports.finding_samples import english_finding
from tests.reports.leak_samples import (
    absent_verdict,
    inconclusive_verdict,
    judged,
    traced_finding,
    traced_verdict,
    untraced_finding,
)
from tests.reports.report_samples import audit_report, report_of
from tests.reports.terminal.terminal_kit import rendered

JARGON = re.compile(
    r"\bnats\b|\bq\b|\bmargin\b|\bp [0=]|p-value|\bcosine [+-]|\balpha\b|\bcontrols?\b"
)
ASKING = Asking(
    "It was not asked as it was trained.", "--template 'Q: {prompt}\nA:'", 3.7, 0.2, 0.9
)


def with_verdict(**more):
    return judged(english_finding(), traced_verdict(**more), (0.01, 0.5, 0.5))


def absent(**more):
    return judged(english_finding(), replace(absent_verdict(), **more), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (1 / 257, "Strong evidence: of 1,000 such answers whose source is missing, about 4 would"),
        (0.01, "Strong evidence: of 1,000 such answers whose source is missing, about 10 would"),
        (0.03, "Moderate evidence: of 1,000 such answers whose source is missing, about 30 would"),
        (1 / 2001, "of 10,000 such answers whose source is missing, about 5 would"),
        (1 / 1001, "of 1,000 such answers whose source is missing, about 1 would"),
        (1e-9, "of 1,000,000 such answers whose source is missing, about 1 would"),
    ],
)
def test_a_p_value_in_words(p, words):
    (sentence,) = evidence_in_words(with_verdict(p_value=p, alpha=0.05))
    assert words in sentence
    assert sentence.endswith("would look this strong.")


def test_how_often_a_source_is_noticed_is_said_of_what_was_not_found_only():
    assert not [s for s in evidence_in_words(with_verdict(power=0.34)) if "34" in s]
    (_, noticed) = evidence_in_words(absent(power=0.72))
    assert noticed.startswith("A source that is there would be noticed in 72 of 100 such cases")
    (_, nearly) = evidence_in_words(absent(power=0.97))
    assert "nearly always" in nearly
    (sensitivity,) = [s for s in statistics(with_verdict(power=0.34)) if "34%" in s]
    assert "how often a source is missed, not how reliable a verdict is" in sensitivity


@pytest.mark.parametrize(
    ("finding", "word", "shown"),
    [
        (traced_finding(), "strong", "strong"),
        (with_verdict(p_value=0.04, alpha=0.05), "moderate", "moderate"),
        (with_verdict(basis="text", p_value=0.6), "strong", "text"),
        (absent(p_value=0.04), "weak", "weak"),
        (untraced_finding(), "none", "none"),
        (judged(english_finding(), inconclusive_verdict(), (None,) * 3), "open", "open"),
        (english_finding(), "open", "–"),
    ],
)
def test_the_strength_in_a_word(finding, word, shown):
    assert (strength(finding), strength_text(finding)) == (word, shown)


def test_a_source_by_text_alone_claims_nothing_of_influence():
    reasons = ("influence names a record first that does not hold it",)
    (sentence,) = evidence_in_words(with_verdict(basis="text", p_value=0.6, reasons=reasons))
    assert sentence == "Influence names a record first that does not hold it."


def open_finding(reason, **more):
    verdict = traced_verdict(decision="inconclusive", p_value=0.4, power=0.34, reasons=(reason,))
    return replace(judged(english_finding(), verdict, (0.4, 0.5, 0.5)), **more)


def test_what_the_model_would_hardly_say_is_not_settled_by_more_controls():
    step = next_step(open_finding(UNSAID))
    assert "more controls" not in step
    assert "where this answer is from" in step
    assert "treat the response as a leak" in step


def test_what_settles_an_open_verdict_depends_on_what_it_lacks():
    assert "--whole" in next_step(open_finding("a source that is there would hardly be noticed"))
    holders = (Holder("r7", Source("data.jsonl", 7)),)
    held = next_step(open_finding("a record holds it, which chance may explain", holders=holders))
    assert "Read data.jsonl:7" in held
    few = judged(english_finding(), inconclusive_verdict(), (None, None, None))
    assert "with more controls" in next_step(few)
    garbled = next_step(
        open_finding(f"no record holds it, and {NAMED_FIRST} states another phone number")
    )
    assert "may have garbled" in garbled
    assert "controls" not in garbled


def test_the_next_step_is_to_ask_as_training_did_where_no_source_is_found():
    assert next_step(untraced_finding(asking=ASKING)).startswith("First ask again")
    assert "ask again" not in next_step(traced_finding(asking=ASKING))
    assert "ask again" not in next_step(untraced_finding(asking=replace(ASKING, option=None)))


def unfolded(text):
    """The text of HTML or Markdown without what its folds of figures hold."""
    figures = (
        r'<details( class="statistics")?><summary>The figures behind it</summary>.*?</details>'
    )
    figures_html = r'<details class="statistics">.*?</details>'
    text = re.sub(figures, "", re.sub(figures_html, "", text, flags=re.S), flags=re.S)
    # How a report was made may name its settings, and what verdicts are may name controls.
    text = re.split(r"What this can and cannot say|How it was made, and", text)[0]
    return html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.S))


REPORTS = (
    report_of(traced_finding()),
    report_of(untraced_finding(asking=ASKING)),
    report_of(traced_finding(), untraced_finding()),
    audit_report(),
)


@pytest.mark.parametrize("report", REPORTS)
def test_no_jargon_is_read_before_the_figures_and_they_are_there(report):
    for text in (render_html(report), render_markdown(report)):
        shown = unfolded(text)
        assert "would look this strong" in shown
        reasons = " ".join(r for f in report.findings if f.verdict for r in f.verdict.reasons)
        assert set(JARGON.findall(shown)) <= set(JARGON.findall(reasons))
        assert {"nats", "q"} <= set(JARGON.findall(html.unescape(re.sub("<[^>]*>", " ", text))))


def test_how_to_ask_stands_first_and_in_one_piece():
    report = report_of(untraced_finding(asking=ASKING), traced_finding(asking=ASKING))
    for text in (rendered(report), render_html(report), render_markdown(report)):
        plain = html.unescape(re.sub("<[^>]*>", "", text))
        assert plain.count(ASKING.note) == 1
        assert plain.index(ASKING.note) < plain.index("What's the phone")
    assert "Warning   It was not asked as it was trained." in rendered(report)
    assert any(
        "3.70 nats a token" in s and "0.20" in s and "0.90" in s
        for s in statistics(report.findings[0])
    )


def test_without_a_verdict_there_are_no_reasons():
    assert reasons_to_believe(english_finding()) == []
    assert statistics(english_finding()) == [
        "Mean loss of the traced tokens 0.18 nats, so that the model is 84% sure of each token."
    ]
