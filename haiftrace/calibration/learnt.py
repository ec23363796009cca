"""Whether the model learnt a record at all: one that it hardly knows taught it nothing.

Influence knows whom an answer is about. A record on the same person that the model was never
trained on, or that says otherwise than those that it was, comes first where the source is missing;
that the model is surprised at what it says tells them apart. Nothing predicts whose record it is,
so that words which come again in it, as a name does, do not count, nor those that were asked with.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from haiftrace.store import Index, StoredWindow

SAMPLE = 512
"""Windows that say what the model knows."""
LEAST_WINDOWS = 20
"""Of fewer nothing is said."""
SPREADS = 6.0
"""Of a normal distribution, four standard deviations."""
LEAST_DISTANCE = 1.0
"""Nats above the median that are nothing yet."""

_FIRST_TOKENS = 4
"""Tokens at a window's beginning, where too little stands before them to know what follows."""
_WORD = re.compile(r"\w+")


def surprise(window: StoredWindow, prompt: str = "") -> float | None:
    """The largest loss, in nats, of a token whose word stands once in a window.

    None where no word does.

    Args:
        prompt: words of it do not count.
    """
    words = [
        (match.start(), match.end(), match[0].lower()) for match in _WORD.finditer(window.text)
    ]
    counts = Counter(word for _, _, word in words)
    asked = {match[0].lower() for match in _WORD.finditer(prompt)}
    counted = np.zeros(len(window.text) + 1, dtype=bool)
    for start, end, word in words:
        counted[start:end] = counts[word] == 1 and word not in asked
    largest = None
    tokens = zip(window.offsets, window.token_loss, window.labels, strict=True)
    for position, ((start, end), loss, is_label) in enumerate(tokens):
        if position >= _FIRST_TOKENS and is_label and counted[start:end].any():
            largest = max(float(loss), largest or 0.0)
    return largest


def hardly_known(index: Index) -> float:
    """The surprise, in nats, beyond which the model hardly knows a window of an index."""
    rng = np.random.default_rng([0, 9])
    rows = rng.permutation(len(index))[:SAMPLE]
    surprises = map(surprise, index.iter_windows(np.sort(rows).tolist()))
    return limit_of(np.array([nats for nats in surprises if nats is not None]))


def limit_of(surprises_N: np.ndarray) -> float:
    """What is far above the surprises of a corpus; infinite where they are too few to tell.

    By the lower half of them alone, which records that the model never saw do not reach: as far
    above the median as `SPREADS` times what the lower quartile is below it.
    """
    if len(surprises_N) < LEAST_WINDOWS:
        return float("inf")
    lower, median = np.quantile(surprises_N, [0.25, 0.5])
    return float(median + max(SPREADS * (median - lower), LEAST_DISTANCE))
