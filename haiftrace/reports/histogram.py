"""The null distribution as a picture: in a line of text, and as shapes for an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from haiftrace.findings import Verdict

_BLOCKS = "▁▂▃▄▅▆▇█"
_THRESHOLD, _VALUE, _EMPTY = "┊", "◆", " "


@dataclass(frozen=True)
class Picture:
    """A histogram in a box of `width` × `height`, y growing downwards.

    Attributes:
        bars: path data of all bars.
        threshold, value: x of the two lines, None where there is none.
        ticks: (x, text) of the scale's ends.
    """

    width: int
    height: int
    bars: str
    threshold: float | None
    value: float | None
    ticks: tuple[tuple[float, str], ...]


def text_histogram(verdict: Verdict, cells: int = 32) -> str:
    """The null in `cells` characters between the ends of its scale; empty without one.

    A bar a cell, `┊` where p equals alpha, `◆` at this finding's value.
    """
    scale = _scale(verdict)
    if scale is None or verdict.null is None:
        return ""
    low, high = scale
    heights = _resampled(verdict.null.edges, verdict.null.counts, low, high, cells)
    peak = max(heights)
    signs = [_block(height, peak) for height in heights]
    for position, sign in ((verdict.null.threshold, _THRESHOLD), (verdict.value, _VALUE)):
        if position is not None:
            fraction = (position - low) / (high - low)
            signs[min(max(int(fraction * cells), 0), cells - 1)] = sign
    return f"{low:.2g} {''.join(signs)} {high:.2g}"


def picture(verdict: Verdict, width: int = 320, height: int = 56) -> Picture | None:
    """The null as shapes, with this finding's value and the threshold; None without one."""
    scale = _scale(verdict)
    if scale is None or verdict.null is None:
        return None
    low, high = scale
    null = verdict.null

    def across(position: float) -> float:
        return round(width * (position - low) / (high - low), 1)

    peak = max(null.counts)
    path = []
    for (left, right), count in zip(pairwise(null.edges), null.counts, strict=True):
        if count:
            rise = max(height * count / peak, 1.5)  # a single null sample must be seen
            x, step = across(left), max(across(right) - across(left) - 1, 0.5)
            path.append(f"M{x:g} {height}v{-rise:.1f}h{step:.1f}v{rise:.1f}z")
    return Picture(
        width,
        height,
        "".join(path),
        None if null.threshold is None else across(null.threshold),
        None if verdict.value is None else across(verdict.value),
        ((0.0, f"{low:.2g}"), (float(width), f"{high:.2g}")),
    )


def _scale(verdict: Verdict) -> tuple[float, float] | None:
    """The ends of a scale that holds the null, its threshold and the value; None without a null."""
    null = verdict.null
    if null is None or not null.counts or max(null.counts) <= 0:
        return None
    if len(null.edges) != len(null.counts) + 1:
        return None
    marks = [m for m in (null.threshold, verdict.value) if m is not None]
    places = [*null.edges, *marks]
    if not all(math.isfinite(place) for place in places):
        return None
    low, high = min(places), max(places)
    margin = 0.02 * (high - low) if marks and high > null.edges[-1] else 0.0
    return (low, high + margin) if high > low else None


def _resampled(
    edges: Sequence[float], counts: Sequence[int], low: float, high: float, cells: int
) -> list[float]:
    """Counts spread evenly over their bins and gathered in `cells` equal cells."""
    heights = [0.0] * cells
    size = (high - low) / cells
    for (left, right), count in zip(pairwise(edges), counts, strict=True):
        for cell in range(cells):
            start = low + cell * size
            overlap = min(right, start + size) - max(left, start)
            if overlap > 0 and right > left:
                heights[cell] += count * overlap / (right - left)
    return heights


def _block(height: float, peak: float) -> str:
    if height <= 0:
        return _EMPTY
    return _BLOCKS[min(int(len(_BLOCKS) * height / peak), len(_BLOCKS) - 1)]
