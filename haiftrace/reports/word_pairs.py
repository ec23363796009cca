"""Which words of the record taught which word of the response, for the reports to show."""

from __future__ import annotations

from dataclasses import dataclass

from haiftrace.findings import PairEvidence, RecordEvidence
from haiftrace.reports.formatting import has_percentages, percent_text
from haiftrace.reports.word_evidence import split_text_punctuation

ARROW = "←"
_WORDS = 5  # of the response
_SOURCES = 3  # of each
_FROM = 0.05  # of the strongest pair's evidence
RESPONSE_WORD_CELLS = 24
"""Of the response's words, in a column of their own."""


@dataclass(frozen=True)
class SourceWord:
    """A word of the record that taught a word of the response.

    Attributes:
        percent: the pair's evidence in figures, as a percentage of the record's score.
        strength: the pair's evidence relative to the record's strongest pair, 0 to 1.
    """

    text: str
    percent: str
    strength: float


@dataclass(frozen=True)
class AttributedWord:
    """A word of the response, and the words of a record that taught it, strongest first."""

    text: str
    sources: tuple[SourceWord, ...]


def attributed_words(record: RecordEvidence) -> list[AttributedWord]:
    """The words of the response that the record's pairs say most of, in the response's order.

    Texts are as they stand, save for the punctuation around them: not yet inert. Empty for a
    method that does not score pairs of tokens.
    """
    if not record.pairs:
        return []
    peak = max(pair.evidence for pair in record.pairs)
    as_percent = has_percentages(record.score, [pair.evidence for pair in record.pairs])
    by_word: dict[tuple[int, ...], list[PairEvidence]] = {}
    for pair in record.pairs:
        if pair.evidence > 0 and pair.evidence >= _FROM * peak:
            by_word.setdefault(pair.response_positions, []).append(pair)
    ordered = sorted(by_word, key=lambda places: -sum(p.evidence for p in by_word[places]))
    return [
        AttributedWord(
            split_text_punctuation(by_word[places][0].response_text)[1],
            tuple(
                SourceWord(
                    split_text_punctuation(pair.record_text)[1],
                    percent_text(pair.evidence, record.score, as_percent=as_percent),
                    pair.evidence / peak,
                )
                for pair in by_word[places][:_SOURCES]
            ),
        )
        for places in sorted(ordered[:_WORDS])
    ]
