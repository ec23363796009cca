"""Exact quantiles of more numbers than memory holds: radix selection over several readings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

_DIGIT_BITS = 16
_DIGITS = 64 // _DIGIT_BITS


def streamed_quantile(chunks: Callable[[], Iterator[np.ndarray]], quantile: float) -> float:
    """The quantile of all numbers, linear between neighbours, as `numpy.quantile` has it.

    Args:
        chunks: gives all numbers anew at each call, in arrays of float64; none is negative or NaN.
        quantile: from 0 to 1.

    Raises:
        ValueError: there is no number.
    """
    count = sum(len(chunk) for chunk in chunks())
    if not count:
        raise ValueError("there is no number to take a quantile of")
    place = quantile * (count - 1)
    below = _order_statistic(chunks, math.floor(place))
    if place == math.floor(place):
        return below
    above = _order_statistic(chunks, math.floor(place) + 1)
    return below + (above - below) * (place - math.floor(place))


def _order_statistic(chunks: Callable[[], Iterator[np.ndarray]], rank: int) -> float:
    """The number of that rank, from 0.

    The bits of floats that are not negative order like the floats: their digits are computed
    in turn from the highest, each by a count of the numbers that agree in the digits before it.
    """
    prefix = 0
    for digit in range(_DIGITS - 1, -1, -1):
        shift = digit * _DIGIT_BITS
        counts = np.zeros(1 << _DIGIT_BITS, dtype=np.int64)
        for chunk in chunks():
            bits = (np.ascontiguousarray(chunk, dtype=np.float64) + 0.0).view(np.uint64)
            digits = (bits >> np.uint64(shift)).astype(np.uint64)
            alike = digits >> np.uint64(_DIGIT_BITS) == np.uint64(prefix)
            last = (digits[alike] & np.uint64((1 << _DIGIT_BITS) - 1)).astype(np.int64)
            counts += np.bincount(last, minlength=len(counts))
        before = np.cumsum(counts) - counts
        value = int(np.searchsorted(before + counts, rank, side="right"))
        rank -= int(before[value])
        prefix = (prefix << _DIGIT_BITS) | value
    return float(np.array([prefix], dtype=np.uint64).view(np.float64)[0])
