"""How reports write numbers and long words, the same in every format that a person reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, Context

from rich.cells import cell_len, set_cell_size

# Below this fraction of all evidence, positive and negative, a score is what cancelling left over,
# and a percentage of it would say nothing.
_CANCELLED = 0.01
_DIGITS = 6
_UP = Context(prec=_DIGITS, rounding=ROUND_CEILING)
_WORD_CELLS = 40  # of a long word in a mark or a list


def six_digits(value: float) -> float:
    """A measured number in the six significant digits that files hold."""
    return float(f"{value:.{_DIGITS}g}")


def six_digits_up(value: float) -> float:
    """The same, rounded up: of p-values, so that none is beyond alpha that was not."""
    return float(_UP.create_decimal(repr(value)))


def score_text(score: float) -> str:
    """A score in four significant digits: `0.4213`, `1.250e-05`."""
    return f"{score + 0.0:#.4g}".rstrip(".")


def cosine_text(cosine: float) -> str:
    """A cosine with its sign and three decimals: `+0.421`."""
    text = f"{cosine:+.3f}"
    return "+0.000" if text == "-0.000" else text


def has_percentages(score: float, evidence: Sequence[float]) -> bool:
    """Whether percentages of `score` mean anything: it is finite and did not nearly cancel out."""
    total = sum(abs(value) for value in evidence)
    return math.isfinite(score) and math.isfinite(total) and abs(score) > _CANCELLED * total


def percent_text(evidence: float, score: float, *, as_percent: bool = True) -> str:
    """A word's evidence as a signed percentage of the score's size: `+31%`, `-0.4%`.

    The sign is that of the evidence, whatever the score's. Where the score nearly cancels out
    (`as_percent` False, see `has_percentages`) the evidence itself in two digits: `+1.3e-05`.
    """
    if not as_percent:
        return f"{evidence:+.2g}"
    percent = 100 * evidence / abs(score)
    return f"{percent:+.0f}%" if abs(percent) >= 1 else f"{percent:+.1f}%"


def count_text(count: int, noun: str) -> str:
    """A count with its noun: `1 record`, `1,200 records`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(words: Sequence[str]) -> str:
    """`one`, `one and two`, `one, two and three`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def size_text(parameters: int) -> str:
    """A number of parameters in three digits: `134M`, `1.24B`, `960`."""
    size = float(parameters)
    for unit in ("", "K", "M", "B"):
        if size < 999.5 or unit == "B":
            break
        size /= 1000
    digits = 0 if size >= 100 or not unit else 1 if size >= 10 else 2
    return f"{size:.{digits}f}{unit}"


def clip(shown: str, cells: int = _WORD_CELLS) -> str:
    """Inert text of at most `cells` cells of a terminal, its middle left out."""
    if cell_len(shown) <= cells:
        return shown
    head = set_cell_size(shown, cells // 2).rstrip()
    tail = shown[-(cells - cells // 2 - 1) :]
    while cell_len(tail) > cells - cells // 2 - 1:
        tail = tail[1:]
    return f"{head}…{tail}"
