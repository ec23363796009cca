"""What the words before a value say that it is."""

from __future__ import annotations

import re

NEAR = 48
"""Characters before a value in which a word may say what it is."""

# A full stop with a space ends a sentence, but not in an abbreviation such as "tel. "; a question
# mark does not, since what follows is the answer.
_SENTENCE_END = re.compile(r"(?<=[^\W\d_]{4})\.\s|!\s|[。！\n]")


def is_named(text: str, start: int, word: re.Pattern[str], near: int = NEAR) -> bool:
    """Whether a word before `start`, in the same sentence, says what stands there."""
    context = text[max(0, start - near) : start]
    # A label may stand on a line of its own above its value.
    lines = context.rstrip("\n")
    return bool(word.search(_SENTENCE_END.split(lines)[-1]))


def is_followed(text: str, end: int, word: re.Pattern[str], near: int = 12) -> bool:
    """Whether a word right behind `end` says what stood there, as in Chinese it may."""
    return bool(word.match(text[end : end + near]))
