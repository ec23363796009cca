"""Private values out of a text, character for character, so that every offset still holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from haiftrace.privacy.characters import bare
from haiftrace.privacy.matching import ValueIndex

MASK = "•"

_WHOLLY = 8
"""Letters and digits below which nothing of a value is shown."""
_BOTH_ENDS = 10
"""Letters and digits from which on a third character is shown."""


def mask_value(value: str) -> str:
    """A value of which only who knows it sees that it is it: `5••-•••-••01`.

    Separators stay. Of ten letters and digits or more the first and the last two are shown, of
    eight and nine the first and the last, of fewer none: never more than about a quarter, and
    never more than three.
    """
    hidden = _hidden(value)
    return "".join(MASK if i in hidden else sign for i, sign in enumerate(value))


def _hidden(value: str) -> frozenset[int]:
    """Indices of the characters that a mask covers."""
    signs = [i for i, sign in enumerate(value) if bare(sign)]
    shown: list[int] = []
    if len(signs) >= _WHOLLY:
        shown = [signs[0], *signs[-2 if len(signs) >= _BOTH_ENDS else -1 :]]
    # What is no letter and no digit is a separator, unless it belongs to one (an accent).
    return frozenset(
        i for i, sign in enumerate(value) if i not in shown and (i in signs or sign.isalnum())
    )


@dataclass(frozen=True)
class Masked:
    """A text whose private values are covered.

    Attributes:
        text: as long as the original.
        touched: for each character whether it belongs to a value, be it shown or covered.
    """

    text: str
    touched: tuple[bool, ...]

    def touches(self, start: int, end: int) -> bool:
        """Whether a value has a character in [start, end)."""
        return any(self.touched[start:end])


class Masker:
    """Masks a set of values wherever they stand, however they are spelled.

    Args:
        values: what must not be seen.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self.values: tuple[str, ...] = tuple(dict.fromkeys(values))
        self._index = ValueIndex(self.values)
        self.masked = lru_cache(maxsize=4096)(self._masked)

    def text(self, text: str) -> str:
        """The text with its values masked."""
        return self.masked(text).text

    def pieces(self, pieces: Sequence[str], text: str) -> tuple[Masked, ...]:
        """A text that was cut into pieces (tokens), masked jointly; each piece as long as before.

        Args:
            pieces: consecutive fragments of `text`, up to white space, which tokenizers treat in
                their own ways; or such fragments with something behind that `text` lacks.
            text: the text that they are from. Where it does not hold them, no character of theirs
                is shown if it holds a value, since they might be fragments of that.
        """
        joined = "".join(pieces)
        own = self.masked(joined)
        context = self.masked(text)
        covers = [own]
        if any(context.touched):
            covers += _placed(joined, text, context) or [
                Masked(MASK * len(joined), (True,) * len(joined))
            ]
        shown = "".join(
            MASK if any(cover.text[i] == MASK for cover in covers) else sign
            for i, sign in enumerate(joined)
        )
        touched = tuple(any(cover.touched[i] for cover in covers) for i in range(len(joined)))
        masks, at = [], 0
        for piece in pieces:
            end = at + len(piece)
            masks.append(Masked(shown[at:end], touched[at:end]))
            at = end
        return tuple(masks)

    def _masked(self, text: str) -> Masked:
        hidden: set[int] = set()
        touched = [False] * len(text)
        shown = text
        wholly = False
        # What a mask leaves may by chance complete another value, which is then covered wholly.
        while matches := self._index.find(shown):
            for match in matches:
                for index in range(match.start, match.end):
                    touched[index] = True
                span = text[match.start : match.end]
                cover = range(len(span)) if wholly else _hidden(span)
                hidden |= {match.start + index for index in cover}
            shown = "".join(MASK if i in hidden else sign for i, sign in enumerate(text))
            wholly = True
        return Masked(shown, tuple(touched))


def _placed(joined: str, text: str, context: Masked) -> list[Masked]:
    """The mask of `text` as it lies over `joined`, for every place where that may stand."""
    wanted = [(i, sign) for i, sign in enumerate(joined) if not sign.isspace()]
    there = [(i, sign) for i, sign in enumerate(text) if not sign.isspace()]
    signs = "".join(sign for _, sign in there)
    masks: list[Masked] = []
    # A stop text may be cut off behind: the longest beginning that is there counts.
    for length in range(len(wanted), 0, -1):
        beginning = "".join(sign for _, sign in wanted[:length])
        at = signs.find(beginning)
        while at >= 0:
            # What is not placed may belong to something that is hidden.
            last = wanted[length - 1][0] + 1
            shown = list(joined[:last] + MASK * (len(joined) - last))
            touched = [index >= last for index in range(len(joined))]
            for offset in range(length):
                index, place = wanted[offset][0], there[at + offset][0]
                shown[index], touched[index] = context.text[place], context.touched[place]
            masks.append(Masked("".join(shown), tuple(touched)))
            at = signs.find(beginning, at + 1)
        if masks:
            break
    return masks
