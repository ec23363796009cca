"""A ranked record as the page shows it: whole, or by its name and figures."""

from __future__ import annotations

from collections.abc import Sequence

from haiftrace.findings import Finding, RecordEvidence
from haiftrace.reports.formatting import clip, score_text
from haiftrace.reports.marks import PrivateValues, level, record_segments
from haiftrace.reports.narrative import clears, place_text
from haiftrace.reports.page.extent import Extent, shortened
from haiftrace.reports.page.views import PairView, RecordView
from haiftrace.reports.page.word_links import AnswerWord, record_links
from haiftrace.reports.sanitize import inert, short
from haiftrace.reports.word_pairs import RESPONSE_WORD_CELLS, AttributedWord, attributed_words

_LONGEST_NAME = 80
_HIDDEN = "•"


def record_view(
    record: RecordEvidence,
    finding: Finding,
    peak: float,
    private: PrivateValues,
    words: Sequence[AnswerWord],
    extent: Extent | None,
) -> RecordView:
    """The view of a record; without an extent its text and evidence are left out."""
    details = []
    if record.windows > 1:
        details.append(f"best of {record.windows} windows, from token {record.window_start}")
    if record.content_hash is not None:
        details.append(f"sha256 {inert(record.content_hash)[:16]}")
    place = place_text(record)
    segments = []
    if extent is not None:
        links = record_links(record, words)
        segments = list(shortened(record_segments(record, peak, private, links), extent.stretch))
    return RecordView(
        rank=record.rank,
        name=short(record.id, _LONGEST_NAME),
        place="" if record.id == place else inert(place),
        figures=(("score", score_text(record.score)),),
        is_clear=finding.verdict is not None and clears(record, finding),
        is_whole=extent is not None,
        details=" · ".join(details),
        segments=tuple(segments),
        pairs=() if extent is None else tuple(_pair_views(record, finding, private)),
    )


def _pair_views(record: RecordEvidence, finding: Finding, private: PrivateValues) -> list[PairView]:
    return [
        PairView(
            clip(inert(row.text), RESPONSE_WORD_CELLS),
            _kind(row.text, finding, private),
            tuple(
                (
                    _source_words(row, source.text, record, private),
                    source.percent,
                    level(source.strength, 1.0),
                )
                for source in row.sources
            ),
        )
        for row in attributed_words(record)
    ]


def _kind(word: str, finding: Finding, private: PrivateValues) -> str:
    """The type of the private value that a word of the answer is, or is part of."""
    own = private.find(word)
    if any(type != "private" for _, _, type in own):
        return inert(own[0][2])
    types = [value.type for value in finding.leaked if word and word in value.value]
    return inert(types[0]) if types and (own or _is_hidden(word) or len(types) == 1) else ""


def _source_words(
    row: AttributedWord, word: str, record: RecordEvidence, private: PrivateValues
) -> str:
    """What a word of the record is: itself, or what it is to the word of the answer.

    A mask may cover different values alike, so that they are the same for certain only where the
    record holds what was traced.
    """
    if word != row.text:
        hidden = "another masked value, " if _is_hidden(word) else ""
        return f"{hidden}{short(word, _LONGEST_NAME)}"
    if _is_hidden(word) and record.holds is not True:
        return "a value that is masked alike"
    return "the same, as it stands in the record"


def _is_hidden(word: str) -> bool:
    return _HIDDEN in word
