"""Which word of the record taught which word of the response, as the reports tell it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len

from haiftrace.findings import Finding, PairEvidence, RecordEvidence
from haiftrace.reports.formatting import has_shares, share_text
from haiftrace.reports.terminal.flow import Unit
from haiftrace.reports.terminal.page import Page, clip
from haiftrace.reports.word_evidence import text_parts

ARROW = "←"
_WORDS = 5  # of the response
_TEACHERS = 3  # of each
_FROM = 0.05  # of the strongest pair's evidence
WORD_CELLS = 24
"""Of the response's words, in a column of their own."""


@dataclass(frozen=True)
class Teacher:
    """A word of the record; `share` of the score, in figures, and relative to the strongest."""

    word: str
    share: str
    part: float


@dataclass(frozen=True)
class Taught:
    """A word of the response, or all that was traced of it, and what taught it, strongest first."""

    word: str
    by: tuple[Teacher, ...]


def is_asked_as_one(record: RecordEvidence) -> bool:
    """Whether the pairs are of the response as one: they then say what the record's words say."""
    return any(not pair.response_positions for pair in record.pairs)


def taught_words(finding: Finding, record: RecordEvidence) -> list[Taught]:
    """The words of the response that the record's pairs say most of, in the response's order.

    Texts are as they stand, save for the punctuation around them: not yet inert. Empty for a
    method in which tokens do not meet.
    """
    if not record.pairs:
        return []
    peak = max(pair.evidence for pair in record.pairs)
    as_share = has_shares(record.score, [pair.evidence for pair in record.pairs])
    by_word: dict[tuple[int, ...], list[PairEvidence]] = {}
    for pair in record.pairs:
        if pair.evidence > 0 and pair.evidence >= _FROM * peak:
            by_word.setdefault(pair.response_positions, []).append(pair)
    ordered = sorted(by_word, key=lambda places: -sum(p.evidence for p in by_word[places]))
    traced = (finding.response if finding.span is None else finding.span).strip()
    return [
        Taught(
            text_parts(by_word[places][0].response_text)[1] if places else traced,
            tuple(
                Teacher(
                    text_parts(pair.record_text)[1],
                    share_text(pair.evidence, record.score, as_share=as_share),
                    pair.evidence / peak,
                )
                for pair in by_word[places][:_TEACHERS]
            ),
        )
        for places in sorted(ordered[:_WORDS])
    ]


def asked_as_one(page: Page, finding: Finding, record: RecordEvidence) -> list[Unit]:
    """What was traced, with an arrow to it, for a line of the record's words; else nothing."""
    rows = taught_words(finding, record) if is_asked_as_one(record) else []
    return [
        Unit(f"{clip(page.show(row.word), WORD_CELLS)} {page.show(ARROW)}", "bold", gap=True)
        for row in rows[:1]
    ]


def print_pairs(page: Page, finding: Finding, record: RecordEvidence) -> None:
    """A line for each word of the response, the arrows under each other; nothing without pairs."""
    if is_asked_as_one(record):
        return
    rows = taught_words(finding, record)
    names = [clip(page.show(row.word), WORD_CELLS) for row in rows]
    widest = max(map(cell_len, names), default=0)
    for row, name in zip(rows, names, strict=True):
        units = [Unit(" " * (widest - cell_len(name))), Unit(name, "bold")]
        units.append(Unit(page.show(ARROW), "dim", gap=True))
        units += [Unit(entry, gap=True) for entry in _entries(page, row)]
        page.block(units)


def _entries(page: Page, row: Taught) -> list[str]:
    entries = [f"{clip(page.show(teacher.word))} {teacher.share}" for teacher in row.by]
    return [f"{entry}," for entry in entries[:-1]] + entries[-1:]


def pairs_in_a_line(page: Page, finding: Finding, record: RecordEvidence) -> str:
    """Each word of the response with its strongest teacher; empty without pairs of words."""
    if is_asked_as_one(record):
        return ""
    lines = []
    for row in taught_words(finding, record):
        name = f"{clip(page.show(row.word), WORD_CELLS)} {page.show(ARROW)}"
        lines.append(f"{name} {clip(page.show(row.by[0].word))} {row.by[0].share}")
    return ", ".join(lines)
