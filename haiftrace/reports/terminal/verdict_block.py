"""A verdict on the terminal, and why to believe it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from haiftrace.findings import Finding, Verdict
from haiftrace.reports.evidence_words import statistics
from haiftrace.reports.histogram import text_histogram
from haiftrace.reports.narrative import asking_notes, headline, reasons_to_believe, suppression_text
from haiftrace.reports.terminal.flow import Unit, gapped, plain_units
from haiftrace.reports.terminal.page import Page, print_warning

TONES = {
    "leak": "bold #000000 on #ffb340",
    "clean": "bold",
    "unsure": "bold #ffffff on #2b6cb0",
}


def print_asking(page: Page, findings: Sequence[Finding]) -> None:
    """Print what is to be said of how the model was asked, once for all findings."""
    for note, option in asking_notes(findings):
        print_warning(page, note)
        if option:  # in one piece, to be copied
            page.entry("", [Unit(page.show(option), "bold")])
        page.blank()


def print_verdict(page: Page, finding: Finding) -> None:
    """The verdict and its reasons; nothing where there is none."""
    if finding.verdict is None:
        return
    summary = headline(finding)
    title = Unit(page.show(summary.title.upper()), TONES[summary.tone], gap=True)
    page.entry("Verdict", [title, *gapped(page.words(summary.text))])
    suppressed = suppression_text(finding)
    if suppressed:
        page.entry("Passes", page.words(suppressed))
    label = "Why"
    for sentence in reasons_to_believe(finding):
        page.entry(label, page.words(sentence))
        label = ""
    if page.verbose:
        _print_figures(page, finding, finding.verdict)


def _print_figures(page: Page, finding: Finding, verdict: Verdict) -> None:
    label = "Figures"
    for sentence in statistics(finding):
        page.entry(label, page.words(sentence))
        label = ""
    drawing = text_histogram(verdict, cells=min(32, max(page.width - 34, 8)))
    if drawing:
        page.entry(label, [Unit(page.show(drawing), gap=True)])
        page.entry("", page.words("the controls; ┊ alpha, ◆ this response", "dim"))


def response_units(page: Page, finding: Finding) -> Iterator[Unit]:
    """The response with its traced span, where it is not all of it, in brackets."""
    text, span = finding.response, finding.span
    start = text.find(span) if span else -1
    if not span or start < 0:
        yield from plain_units(text, page.show)
        return
    end = start + len(span)
    before = list(plain_units(text[:start], page.show))
    yield from before
    traced = list(plain_units(span, page.show, style="bold underline"))
    for index, unit in enumerate(traced):
        opening = "[" if index == 0 else ""
        closing = "]" if index == len(traced) - 1 else ""
        gap = unit.gap or (index == 0 and text[:start][-1:].isspace())
        yield Unit(f"{opening}{unit.text}{closing}", unit.style, gap, key=True)
    after = list(plain_units(text[end:], page.show))
    yield from after
