"""From the evidence of tokens to the evidence of words: the pieces a person reads."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from haiftrace.findings import RecordEvidence, TokenEvidence

# Scripts that put no space between words (Chinese, Japanese, Thai, Lao, Tibetan, Burmese, Khmer),
# with their punctuation: there a token is the word.
SPACELESS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff00-\uffef\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
OPENERS = "\"'“‘([{（「『《〈【"
CLOSERS = "\"'”’)]}.,;:!?…。，、；：！？）」』》〉】"
_JOINER = "\u200d"


@dataclass(frozen=True)
class WordEvidence:
    """A word of a record's text and the share of the score that its tokens carry together.

    Attributes:
        text: `record.text[start:end]`; for tokens that cover no text the token's own text, which
            may be empty.
        start, end: character offsets in the record's `text`; equal where no text is covered.
        evidence: sum over the word's tokens, in units of the score.
        loss: sum over the word's tokens, in nats: how surprising the whole word was.
    """

    text: str
    start: int
    end: int
    evidence: float
    loss: float


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    tokens: tuple[TokenEvidence, ...]

    def joined(self, other: _Span) -> _Span:
        return _Span(self.start, max(self.end, other.end), self.tokens + other.tokens)


def merge_words(record: RecordEvidence) -> list[WordEvidence]:
    """Merge the tokens of a record into the words of its text, in the order of the text.

    White space ends a word; in scripts that put none between words, so does every token. Tokens
    whose offsets overlap (pieces of one character of several bytes) fall into one word. A token
    that covers no text (a special one) is a word of its own and stands where its position puts it;
    so is one that covers white space only. No token is lost and none counts twice, so that the
    words' evidence sums to the tokens' evidence. Offsets beyond the text count as covering none.
    """
    covering, bare = _split_by_cover(record)
    words = _words(record.text, _merge_overlaps(record.text, covering))
    merged: list[WordEvidence] = []
    for word in words:
        first = min(token.position for token in word.tokens)
        while bare and bare[0].tokens[0].position < first:
            merged.append(_bare_word(bare.pop(0)))
        merged.append(_word(record.text[word.start : word.end], word))
    merged.extend(_bare_word(span) for span in bare)
    return merged


def strongest(words: Sequence[WordEvidence], least: float) -> list[WordEvidence]:
    """The words with any evidence, and at least `least` times the strongest's, strongest first."""
    ordered = sorted(words, key=lambda word: -abs(word.evidence))
    return [
        word
        for word in ordered
        if word.evidence and abs(word.evidence) >= least * abs(ordered[0].evidence)
    ]


def word_parts(word: WordEvidence) -> tuple[str, str, str]:
    """A word without the punctuation around it, and that; a name for what shows no letter."""
    if not word.text:
        return "", "(special token)", ""
    if word.start == word.end:
        return "", word.text, ""
    if not word.text.strip(" "):
        return "", "␣", ""
    core = word.text.strip(OPENERS + CLOSERS)
    if not core:
        return "", word.text, ""
    start = word.text.index(core)
    return word.text[:start], core, word.text[start + len(core) :]


def _split_by_cover(record: RecordEvidence) -> tuple[list[_Span], list[_Span]]:
    """Spans of the tokens that cover text, by offset, and of those that do not, by position."""
    covering: list[_Span] = []
    bare: list[_Span] = []
    for token in record.tokens:
        start, end = (min(max(at, 0), len(record.text)) for at in (token.start, token.end))
        if start < end:
            covering.append(_Span(start, end, (token,)))
        else:
            bare.append(_Span(start, start, (token,)))
    covering.sort(key=lambda span: (span.start, span.end, span.tokens[0].position))
    bare.sort(key=lambda span: span.tokens[0].position)
    return covering, bare


def _merge_overlaps(text: str, spans: Sequence[_Span]) -> list[_Span]:
    """Join overlapping spans, then cut the white space off both ends (some tokenizers' own)."""
    joined: list[_Span] = []
    for span in spans:
        if joined and span.start < joined[-1].end:
            joined[-1] = joined[-1].joined(span)
        else:
            joined.append(span)
    return [_trimmed(text, span) for span in joined]


def _trimmed(text: str, span: _Span) -> _Span:
    covered = text[span.start : span.end]
    if covered.isspace():
        return span
    start = span.start + len(covered) - len(covered.lstrip())
    return _Span(start, start + len(covered.strip()), span.tokens)


def _words(text: str, spans: Sequence[_Span]) -> list[_Span]:
    words: list[_Span] = []
    for span in spans:
        if words and not _is_boundary(text, words[-1].end, span.start):
            words[-1] = words[-1].joined(span)
        else:
            words.append(span)
    return words


def _is_boundary(text: str, end: int, start: int) -> bool:
    """Whether a word that ends at `end` and a span that starts at `start` stay apart."""
    seam = text[end - 1 : start + 1]
    if any(character.isspace() for character in seam):
        return True
    return any(
        not _extends(left, right) and bool(SPACELESS.match(left) or SPACELESS.match(right))
        for left, right in pairwise(seam)
    )


def _extends(left: str, right: str) -> bool:
    """Whether `right` is part of the character that `left` begins: a mark, or joined by one."""
    return _JOINER in (left, right) or unicodedata.category(right) in {"Mn", "Mc", "Me"}


def _word(text: str, span: _Span) -> WordEvidence:
    return WordEvidence(
        text,
        span.start,
        span.end,
        sum(token.evidence for token in span.tokens),
        sum(token.loss for token in span.tokens),
    )


def _bare_word(span: _Span) -> WordEvidence:
    return _word(span.tokens[0].text, span)
