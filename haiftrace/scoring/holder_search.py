"""Which records of an index hold a value, in any spelling: all of them, exactly.

An index keeps the keys of its records' texts (see `haiftrace.privacy.lookup_keys`); the records
that have all keys of a value are read. Without kept keys every record is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from haiftrace.privacy import ValueIndex
from haiftrace.privacy.lookup_keys import FORMAT, value_keys
from haiftrace.store import Index

VALUE_KEYS = "value-keys"
"""The supplement: sorted pairs of a key and a record."""


def packed_keys(keys: np.ndarray, record: int) -> np.ndarray:
    """[n] int64: a key in the upper half of each, the record in the lower."""
    return ((keys >> np.uint32(1)).astype(np.int64) << 32) | record


class HolderSearch:
    """Looks values up in the records of one index."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def records(self, values: Sequence[str]) -> list[list[int]]:
        """Of each value the numbers of the records that hold it, ascending.

        A value stands in a record where it stands by itself, not inside a longer word or number.
        """
        wanted = [self._candidates(value) for value in values]
        rows = self._rows(wanted)
        holders: list[set[int]] = [set() for _ in values]
        matching = ValueIndex(values)
        for window in self._index.iter_windows(rows):
            for match in matching.find(window.text, words=True):
                holders[match.value].add(window.record)
        return [sorted(records) for records in holders]

    def _candidates(self, value: str) -> np.ndarray | None:
        """Records that may hold a value; None for all of them."""
        alternatives = None if self._keys is None else value_keys(value)
        if alternatives is None:
            return None
        return _union([self._with_all(keys) for keys in alternatives])

    def _with_all(self, keys: np.ndarray) -> np.ndarray:
        """[n] records that have all of these keys."""
        assert self._keys is not None
        held: list[np.ndarray] = []
        for packed in self._keys:
            records: np.ndarray | None = None
            for bounds in packed_keys(keys, 0).tolist():
                start, end = np.searchsorted(packed, [bounds, bounds + (1 << 32)])
                with_key = packed[start:end] & 0xFFFFFFFF
                records = with_key if records is None else np.intersect1d(records, with_key)
                if not len(records):
                    break
            held.append(np.zeros(0, dtype=np.int64) if records is None else records)
        return np.concatenate(held)

    def _rows(self, candidates: Sequence[np.ndarray | None]) -> Sequence[int]:
        """The windows that are read for the candidates of several values."""
        if any(records is None for records in candidates):
            return range(len(self._index))
        wanted = _union([records for records in candidates if records is not None])
        rows: list[int] = np.flatnonzero(np.isin(self._record_N, wanted)).tolist()
        return rows

    @cached_property
    def _record_N(self) -> np.ndarray:
        return self._index.column("record")

    @cached_property
    def _keys(self) -> list[np.ndarray] | None:
        """The kept keys, file by file; None where the index holds none."""
        entry = self._index.supplement(VALUE_KEYS)
        if entry is None or entry.settings != {"format": FORMAT}:
            return None
        return [
            tensors["keys"].numpy() for tensors, _ in self._index.supplement_tensors(VALUE_KEYS)
        ]


def _union(of: Sequence[np.ndarray]) -> np.ndarray:
    """[n] the records of all of these, ascending."""
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *of]))
