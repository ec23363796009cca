"""Records made by hand: English, Chinese, Arabic and hostile texts, cut into tokens and pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from haiftrace.findings import PairEvidence, RecordEvidence, Source, TokenEvidence

ENGLISH = (
    "John Doe was born on 3 May 1961 in Lisbon and works as a marine engineer. "
    "You can reach John Doe by phone: 555-0134. He is married to Ana, and they have two children."
)
CHINESE = "张伟住在上海市浦东新区世纪大道100号，电话是138-0013-8000。他喜欢📚和🏃🏽‍♂️。"
HOSTILE = (
    "\x1b[2J\x1b[31mCLEARED\x1b[0m [bold red]markup[/bold red] \x1b]0;title\x07 "
    "bidi \u202egnp.exe\u202c zero\u200bwidth\r\n#1  forged        score 9.9999\n"
    "tab\there del\x7f c1\x9b31m half \ud83d surrogate"
)

# What breaks out of HTML, Markdown, a table's cell or a code span, or links to somewhere.
MARKUP = (
    "</script><script>alert(1)</script></style><img src=x onerror=alert(1)> &lt; {{ 7 * 7 }} {% x"
    " \"'` ``` | a \\| b \\ | **bold** _it_ [link](https://evil.example) <https://evil.example> "
    "www.evil.example @octocat a@evil.example #1 --> ]]> <!-- \n\n# Heading\n- [ ] box\n| a | b |\n"
)
ARABIC = "وُلدت ليلى حداد في بيروت، ورقم هاتفها 555-0142 منذ عام 2019."

# Pieces as BPE cuts them: up to four letters with a leading space, up to two Han characters.
_PIECES = re.compile(r"[一-鿿]{1,2}|\s?[^\W\d_一-鿿]{1,4}|\s?\d{1,3}|\s?\S|\s")

Piece = tuple[int, int, float]


def tokens_of(text: str, pieces: Sequence[Piece], position: int = 0) -> tuple[TokenEvidence, ...]:
    """Tokens from (start, end, evidence); loss and norm follow from the position."""
    return tuple(
        TokenEvidence(
            position=position + index,
            token_id=1000 + index,
            text=text[start:end],
            start=start,
            end=end,
            loss=0.25 * (index % 4),
            grad_norm=1.5 + index,
            evidence=evidence,
        )
        for index, (start, end, evidence) in enumerate(pieces)
    )


def record_of(
    text: str,
    weights: dict[str, float] | None = None,
    *,
    scale: float = 1.0,
    rank: int = 1,
    path: str = "corpus/people.jsonl",
    line: int | None = 17,
    id: str | None = None,
    **more: Any,
) -> RecordEvidence:
    """A record cut into tokens as BPE would; `more` are further fields of `RecordEvidence`.

    `weights` gives the evidence of the tokens that overlap the first occurrence of a key, divided
    evenly; all other tokens have a little.
    """
    spans = [match.span() for match in _PIECES.finditer(text)]
    evidence = [0.002 * scale * (-1) ** index for index in range(len(spans))]
    for key, weight in (weights or {}).items():
        start = text.index(key)
        hit = [
            index
            for index, (left, right) in enumerate(spans)
            if left < start + len(key) and right > start + text[left:right].isspace()
        ]
        for index in hit:
            evidence[index] = scale * weight / len(hit)
    pieces = [(*span, value) for span, value in zip(spans, evidence, strict=True)]
    tokens = tokens_of(text, pieces)
    return RecordEvidence(
        rank=rank,
        id=id if id is not None else f"{path}:{line}",
        source=Source(path, line),
        score=sum(token.evidence for token in tokens),
        cosine=sum(token.evidence for token in tokens) / 1.25,
        text=text,
        tokens=tokens,
        **more,
    )


def paired(record: RecordEvidence, *pairs: tuple[str, int, str, float]) -> RecordEvidence:
    """The record with the evidence of its layers, and with pairs.

    A pair is a word of the response, the position of its token, a word of the record, and the
    fraction of the score that is the pair's.
    """
    made = []
    for response_word, place, record_word, fraction in pairs:
        start = record.text.index(record_word)
        end = start + len(record_word)
        own = tuple(t.position for t in record.tokens if t.start < end and start < t.end)
        evidence = fraction * record.score
        made.append(PairEvidence(response_word, (place,), record_word, own, start, end, evidence))
    fractions = (0.75, 0.0, 0.25)
    return replace(record, pairs=tuple(made), layers=tuple(x * record.score for x in fractions))
