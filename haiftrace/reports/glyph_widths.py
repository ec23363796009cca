"""How wide a text is without its font: the widths of Helvetica, and of its kin Arial.

A figure is drawn by a font that is not known here; each word also states its width, and who draws
it fits the word to it, so that an estimate is enough.
"""

from __future__ import annotations

import unicodedata

# Thousandths of the font's size, of the characters from U+0020 to U+007E (Adobe's metrics).
_ASCII = (
    *(278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278),
    *(556,) * 10,
    *(278, 278, 584, 584, 584, 556, 1015),
    *(667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833),
    *(722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611),
    *(278, 278, 278, 469, 556, 333),
    *(556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833),
    *(556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500),
    *(334, 260, 334, 584),
)
_OTHERS = {"•": 350, "…": 1000, "–": 556, "—": 1000, "←": 1000, "→": 1000, "·": 278, "↵": 1000}
_LETTER, _CAPITAL, _WIDE = 556, 667, 1000


def text_width(text: str, size: float) -> float:
    """The width of a text in the unit of `size`, the font's size."""
    return size * sum(map(_thousandths, text)) / 1000


def _thousandths(sign: str) -> int:
    code = ord(sign)
    if 0x20 <= code < 0x7F:
        return _ASCII[code - 0x20]
    if sign in _OTHERS:
        return _OTHERS[sign]
    category = unicodedata.category(sign)
    if category in {"Mn", "Me", "Cf"}:
        return 0
    if unicodedata.east_asian_width(sign) in {"W", "F"}:
        return _WIDE
    return _CAPITAL if category == "Lu" else _LETTER
