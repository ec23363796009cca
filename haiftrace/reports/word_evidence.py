"""From the evidence of tokens to the evidence of words: the pieces a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haiftrace.findings import RecordEvidence
from haiftrace.text.words import group_words

OPENERS = "\"'“‘([{（「『《〈【"
CLOSERS = "\"'”’)]}.,;:!?…。，、；：！？）」』》〉】"


@dataclass(frozen=True)
class WordEvidence:
    """A word of a record's text and what its tokens contribute to the score together.

    Attributes:
        text: `record.text[start:end]`; for tokens that cover no text the token's own text, which
            may be empty.
        start, end: character offsets in the record's `text`; equal where no text is covered.
        evidence: sum over the word's tokens, in units of the score.
        loss: sum over the word's tokens, in nats: how surprising the word was.
    """

    text: str
    start: int
    end: int
    evidence: float
    loss: float


def merge_words(record: RecordEvidence) -> list[WordEvidence]:
    """Merge the tokens of a record into the words of its text (see `group_words`), in its order.

    No token is lost and none counts twice, so that the words' evidence sums to the tokens'
    evidence.
    """
    tokens = sorted(record.tokens, key=lambda token: token.position)
    merged = []
    for word in group_words(record.text, [(token.start, token.end) for token in tokens]):
        own = [tokens[index] for index in word.tokens]
        covers_text = word.start < word.end
        merged.append(
            WordEvidence(
                record.text[word.start : word.end] if covers_text else own[0].text,
                word.start,
                word.end,
                sum(token.evidence for token in own),
                sum(token.loss for token in own),
            )
        )
    return merged


def strongest(words: Sequence[WordEvidence], least: float) -> list[WordEvidence]:
    """The words with any evidence, and at least `least` times the strongest's, strongest first."""
    ordered = sorted(words, key=lambda word: -abs(word.evidence))
    return [
        word
        for word in ordered
        if word.evidence and abs(word.evidence) >= least * abs(ordered[0].evidence)
    ]


def split_punctuation(word: WordEvidence) -> tuple[str, str, str]:
    """Opening punctuation, the word itself, closing punctuation; a name for what has no letter."""
    if word.text and word.start == word.end:
        return "", word.text, ""
    return split_text_punctuation(word.text)


def split_text_punctuation(text: str) -> tuple[str, str, str]:
    """The same for a word's text alone."""
    if not text:
        return "", "(special token)", ""
    if not text.strip(" "):
        return "", "␣", ""
    core = text.strip(OPENERS + CLOSERS)
    if not core:
        return "", text, ""
    start = text.index(core)
    return text[:start], core, text[start + len(core) :]
