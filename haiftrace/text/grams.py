"""Hashes of all runs of a few characters: what an exact look-up of a value begins with."""

from __future__ import annotations

import numpy as np

GRAM = 5
"""Characters of a run."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def gram_hashes(text: str) -> np.ndarray:
    """[n] uint32 hashes of the runs of `GRAM` characters of a text, ascending, each once.

    A text that holds another holds all hashes of the other; texts that differ may share a hash.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    if len(codes) < GRAM:
        return np.zeros(0, dtype=np.uint32)
    mixed = np.zeros(len(codes) - GRAM + 1, dtype=np.uint64)
    for place in range(GRAM):
        mixed = (mixed + codes[place : place + len(mixed)] + np.uint64(1)) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))
