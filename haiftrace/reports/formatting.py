"""How reports write numbers, the same in every format that a person reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Below this part of all evidence, positive and negative, a score is what cancelling left over, and
# a share of it would say nothing.
_CANCELLED = 0.01


def score_text(score: float) -> str:
    """A score in four significant digits: `0.4213`, `1.250e-05`."""
    return f"{score + 0.0:#.4g}".rstrip(".")


def cosine_text(cosine: float) -> str:
    """A cosine with its sign and three decimals: `+0.421`."""
    text = f"{cosine:+.3f}"
    return "+0.000" if text == "-0.000" else text


def has_shares(score: float, evidence: Sequence[float]) -> bool:
    """Whether shares of `score` mean anything: it is finite and did not nearly cancel out."""
    total = sum(abs(part) for part in evidence)
    return math.isfinite(score) and math.isfinite(total) and abs(score) > _CANCELLED * total


def share_text(evidence: float, score: float, *, as_share: bool = True) -> str:
    """A word's evidence as a signed percentage of the score's size: `+31%`, `-0.4%`.

    The sign is that of the evidence, whatever the score's. Where the score nearly cancels out
    (`as_share` False, see `has_shares`) the evidence itself in two digits: `+1.3e-05`.
    """
    if not as_share:
        return f"{evidence:+.2g}"
    percent = 100 * evidence / abs(score)
    return f"{percent:+.0f}%" if abs(percent) >= 1 else f"{percent:+.1f}%"


def count_text(count: int, noun: str) -> str:
    """A count with its noun: `1 record`, `1,200 records`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size_text(parameters: int) -> str:
    """A number of parameters in three digits: `134M`, `1.24B`, `960`."""
    size = float(parameters)
    for unit in ("", "K", "M", "B"):
        if size < 999.5 or unit == "B":
            break
        size /= 1000
    digits = 0 if size >= 100 or not unit else 1 if size >= 10 else 2
    return f"{size:.{digits}f}{unit}"
