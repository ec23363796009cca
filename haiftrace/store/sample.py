"""A sample of an index's windows that depends on what they hold, and not on their order.

Every window has a pseudorandom number, a hash of the seed and its content; those with the smallest
numbers are the sample (bottom-k sampling, Cohen and Kaplan 2007).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from haiftrace.store.reader import Index

_CONTENT = ["text", "start", "windows", "label_count"]


def sample_rows(index: Index, count: int, seed: int) -> list[int]:
    """Rows of a sample without repetition, ascending; all of them where there are no more."""
    if len(index) <= count:
        return list(range(len(index)))
    # Windows of one content have one number: which of them is taken makes no difference.
    numbers_N = np.fromiter(_numbers(index, seed), dtype=np.uint64, count=len(index))
    order = np.argsort(numbers_N, kind="stable")
    return sorted(int(row) for row in order[:count])


def _numbers(index: Index, seed: int) -> Iterator[int]:
    key = hashlib.sha256(str(seed).encode()).digest()
    for columns in index.shard_tables(_CONTENT):
        for held in zip(*(columns.column(name).to_pylist() for name in _CONTENT), strict=True):
            digest = hashlib.blake2b(repr(held).encode(), digest_size=8, key=key).digest()
            yield int.from_bytes(digest, "big")
