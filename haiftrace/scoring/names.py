"""The name in a prompt, as far as a corpus can tell: its rare words, which few records hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from haiftrace.lexical import terms
from haiftrace.methods.settings import LateSettings
from haiftrace.query import Query
from haiftrace.scoring.directions import Question

MOST_RECORDS = 8
MOST_SHARE = 0.002
"""A word is rare that at most so many record windows hold, or so large a share of a large corpus.
One that no record holds is none: nothing could be found by it."""


def with_names(
    query: Query, question: Question, frequency: Callable[[str], int], windows: int
) -> Question:
    """The question with the tokens of the name in its prompt, if there are any.

    Args:
        frequency: how many windows hold a term (see `lexical`).
        windows: how many there are.
    """
    start = query.prompt.rfind(query.asked)
    # A chat template may have changed it: then all that the model saw is looked at.
    text, start = (query.prompt, 0) if start < 0 else (query.asked, start)
    rare = rare_spans(text, frequency, windows)
    spans = [(start + begin, start + end) for begin, end in rare]
    return replace(question, names=tokens_of(spans, query.prompt, query.prompt_offsets))


def notes_on(question: Question, settings: LateSettings) -> list[str]:
    """What the user should know of who asks."""
    if settings.query_tokens == "answer":
        return []
    if not question.names:
        return ["no word of the prompt is rare in the corpus: the answer asks alone"]
    count = len(question.names)
    return [
        f"the question's name asks too ({count} token{'s' if count > 1 else ''}): this matches"
        " names, not only what taught the answer"
    ]


def rare_spans(text: str, frequency: Callable[[str], int], windows: int) -> list[tuple[int, int]]:
    """Where the rare words of a text stand: characters [start, end), in order.

    In Chinese a word is a pair of characters, and spans overlap.
    """
    most = max(MOST_RECORDS, MOST_SHARE * windows)
    return [(term.start, term.end) for term in terms(text) if 1 <= frequency(term.text) <= most]


def tokens_of(
    spans: Sequence[tuple[int, int]], text: str, offsets: Sequence[tuple[int, int]]
) -> tuple[int, ...]:
    """The tokens of which at least half of the visible characters are in the spans.

    Without the first one, which nothing predicts.

    Args:
        offsets: where each token stands in the text.
    """
    within = {place for start, end in spans for place in range(start, end)}
    found = []
    for position, (start, end) in enumerate(offsets):
        seen = [place for place in range(start, end) if not text[place].isspace()]
        if position and seen and 2 * sum(place in within for place in seen) >= len(seen):
            found.append(position)
    return tuple(found)
