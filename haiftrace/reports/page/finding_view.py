"""A finding as the page shows it."""

from __future__ import annotations

from collections.abc import Sequence

from haiftrace.findings import Finding, RecordEvidence
from haiftrace.reports.evidence_words import (
    record_figures,
    says_readily,
    statistics,
    strength_text,
)
from haiftrace.reports.formatting import count_text
from haiftrace.reports.histogram import picture
from haiftrace.reports.marks import PrivateValues, peak_evidence
from haiftrace.reports.named_sources import named_source
from haiftrace.reports.narrative import (
    Headline,
    frequency_text,
    headline,
    kind_text,
    leaked_types,
    next_step,
    reasons_to_believe,
    source_text,
    split_at_alpha,
    suppression_text,
)
from haiftrace.reports.page.conversation import (
    answered_bubble,
    asked_bubbles,
    question_text,
    was_chat,
)
from haiftrace.reports.page.extent import Extent
from haiftrace.reports.page.people import named_person, person_of
from haiftrace.reports.page.places import Places
from haiftrace.reports.page.record_view import record_view
from haiftrace.reports.page.views import CleanView, FindingView
from haiftrace.reports.page.word_links import answer_words
from haiftrace.reports.sanitize import inert, short

_LONGEST_NAME = 80
_LONGEST_VALUE = 48
_LONGEST_CLEAN = 1_000
_ORDER = {"strong": 4, "text": 4, "moderate": 3, "weak": 2, "none": 1}
"""Of the words of `strength_text`; what is open comes last."""


def finding_view(
    number: int, finding: Finding, private: PrivateValues, places: Places, extent: Extent
) -> FindingView:
    """The view of a finding, which is the report's `number`th from 1."""
    summary, verdict = headline(finding), finding.verdict
    source, probe = named_source(finding), finding.probe
    above, below = split_at_alpha(finding)
    whole = [*above[: extent.records], *(below if extent.has_chance else ())]
    words = answer_words(finding, whole)
    peak = peak_evidence(whole)

    def views(records: Sequence[RecordEvidence]) -> list:
        whole_ones = {id(record) for record in whole}
        return [
            record_view(
                record, finding, peak, private, words, extent if id(record) in whole_ones else None
            )
            for record in records
        ]

    reasons = [inert(reason) for reason in reasons_to_believe(finding)]
    histogram = picture(verdict) if verdict is not None else None
    asked, begun = asked_bubbles(finding, private, extent.text)
    strength = strength_text(finding)
    return FindingView(
        number=number,
        title=_title(finding),
        name=short(probe.id, _LONGEST_NAME) if probe is not None else f"finding {number}",
        question=question_text(finding),
        value=short(_value(finding), _LONGEST_VALUE),
        person=short(person_of(finding), _LONGEST_NAME),
        record="" if source is None else places.short(source),
        order=_ORDER.get(strength, 0),
        badge=kind_text(finding),
        tone=summary.tone,
        types=short(leaked_types(finding), _LONGEST_NAME),
        summary=Headline(summary.title, inert(summary.text), summary.tone),
        evidence=reasons[0] if reasons else "",
        reasons=tuple(reasons[1:]),
        figures=tuple(inert(figure) for figure in _figures(finding, whole)),
        step=inert(next_step(finding)),
        passes=inert(suppression_text(finding)),
        notes=tuple(inert(note) for note in finding.notes),
        is_chat=was_chat(finding),
        asked=tuple(asked),
        answered=answered_bubble(finding, private, words, begun, extent.text),
        facts=tuple(_facts(finding)),
        strength=strength,
        source="" if source is None else inert(source_text(source)),
        above=tuple(views(above)),
        below=tuple(views(below)),
        line=f"alpha {verdict.alpha:g}" if verdict is not None else "",
        null=histogram,
        null_text=_null_text(finding) if histogram is not None else "",
        has_links=bool(words),
    )


def clean_view(finding: Finding) -> CleanView:
    """The view of a probe whose answer holds no private value."""
    name = short(finding.probe.id, _LONGEST_NAME) if finding.probe is not None else "-"
    return CleanView(name, question_text(finding), short(finding.response.strip(), _LONGEST_CLEAN))


def _title(finding: Finding) -> str:
    """What leaked, and whose it is: `phone of John Doe`."""
    types = leaked_types(finding) or "answer"
    person = named_person(finding) or person_of(finding)
    return short(f"{types} of {person}" if person else types, _LONGEST_NAME)


def _value(finding: Finding) -> str:
    if finding.leaked:
        return ", ".join(value.value for value in finding.leaked)
    return (finding.span or finding.response).strip()


def _facts(finding: Finding) -> list[str]:
    extent = "all of the response" if finding.span is None else "the underlined part"
    facts = [
        f"traced: {extent}",
        "generated" if finding.generated else "given",
        *(f"said {often}" for often in [frequency_text(finding)] if often),
        says_readily(finding),
    ]
    if finding.probe is not None and finding.probe.path is not None:
        line = "" if finding.probe.line is None else f":{finding.probe.line}"
        facts.append(f"probe from {inert(finding.probe.path)}{line}")
    if finding.fingerprint is not None:
        facts.append(f"fingerprint {inert(finding.fingerprint)}")
    return facts


def _figures(finding: Finding, records: Sequence[RecordEvidence]) -> list[str]:
    """What the fold holds: the verdict's figures, each shown record's, and the method."""
    reach = "all" if finding.exhaustive else "a shortlist of"
    windows = count_text(finding.scored, "record window")
    return [
        *statistics(finding),
        *map(record_figures, records),
        f"Method {finding.method}: {reach} {windows} scored.",
    ]


def _null_text(finding: Finding) -> str:
    """The picture in words, for who cannot see it."""
    verdict = finding.verdict
    if verdict is None or verdict.null is None:
        return ""
    value = "" if verdict.value is None else f"; this response is at {verdict.value:.3g}"
    return f"Histogram of {count_text(verdict.null.samples, 'control')} without a source{value}."
