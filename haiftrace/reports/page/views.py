"""The views of the HTML report's template: inert strings and numbers only."""

from __future__ import annotations

from dataclasses import dataclass

from haiftrace.reports.histogram import Picture
from haiftrace.reports.marks import Segment
from haiftrace.reports.narrative import Headline


@dataclass(frozen=True)
class PairView:
    """A word of the answer, what it is, and the words of the record that taught it.

    Attributes:
        kind: of a private value that the word is part of; empty for any other word.
        sources: (words that say what it is, percentage, level) of each, strongest first.
    """

    word: str
    kind: str
    sources: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class RecordView:
    """A ranked record: its name, its figures, its text in segments, what taught which word.

    Attributes:
        is_whole: False where only its name and figures are shown.
    """

    rank: int
    name: str
    place: str
    figures: tuple[tuple[str, str], ...]
    is_clear: bool
    is_whole: bool
    details: str
    segments: tuple[Segment, ...]
    pairs: tuple[PairView, ...]


@dataclass(frozen=True)
class Bubble:
    """What was said in a turn; `role` is empty where it was no chat."""

    role: str
    label: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class FindingView:
    """A traced response; `above` and `below` are its records by alpha, `figures` for the fold.

    Attributes:
        title: what leaked, and whose it is.
        name: of its probe, or its number.
        question: what was asked, in a line.
        value: what leaked, as the report may show it, in a line.
        person: whom it is about; empty where that is not known.
        record: where its source stands, short; empty without one.
        order: how strong its evidence is, 0 to 4.
    """

    number: int
    title: str
    name: str
    question: str
    value: str
    person: str
    record: str
    order: int
    badge: str
    tone: str
    types: str
    summary: Headline
    evidence: str
    reasons: tuple[str, ...]
    figures: tuple[str, ...]
    step: str
    passes: str
    notes: tuple[str, ...]
    is_chat: bool
    asked: tuple[Bubble, ...]
    answered: Bubble
    facts: tuple[str, ...]
    strength: str
    source: str
    above: tuple[RecordView, ...]
    below: tuple[RecordView, ...]
    line: str
    null: Picture | None
    null_text: str
    has_links: bool


@dataclass(frozen=True)
class CleanView:
    """A probe without a leak."""

    name: str
    prompt: str
    response: str
