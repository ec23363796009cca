"""Row and record numbers of an index without its masked records.

Shape letters: N stored windows, masked ones included.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from haiftrace.store.manifest import Manifest


class LiveRows:
    """Which stored windows are given, and how they are numbered: from 0, without a gap.

    Attributes:
        mask: [N] True for a window that is given; None where all are.
    """

    def __init__(self, manifest: Manifest) -> None:
        sizes = [shard.records.rows for shard in manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._dropped = np.array([dropped.record for dropped in manifest.dropped], dtype=np.int64)
        self.mask: np.ndarray | None = None
        live_starts = self._starts
        if manifest.dropped:
            self.mask = np.ones(int(self._starts[-1]), dtype=bool)
            for dropped in manifest.dropped:
                self.mask[dropped.first_row : dropped.first_row + dropped.windows] = False
            self._stored_rows = np.flatnonzero(self.mask)
            live_starts = np.concatenate([[0], np.cumsum(self.mask)])[self._starts]
        self._live_starts: np.ndarray = np.unique(live_starts)
        self._count = int(live_starts[-1])

    def __len__(self) -> int:
        """How many windows are given."""
        return self._count

    def stored(self, row: int) -> int:
        """The number of a window among the stored ones."""
        return row if self.mask is None else int(self._stored_rows[row])

    def place(self, row: int) -> tuple[int, int]:
        """The stored shard of a window, and its place in there."""
        stored = self.stored(row)
        shard = int(np.searchsorted(self._starts, stored, side="right")) - 1
        return shard, stored - int(self._starts[shard])

    def supplement_place(self, row: int) -> tuple[int, int]:
        """The number of a supplement's file with a window's row, and its place in there."""
        shard = int(np.searchsorted(self._live_starts, row, side="right")) - 1
        return shard, row - int(self._live_starts[shard])

    def shard_rows(self) -> list[range]:
        """The rows of each shard that has any."""
        starts = self._live_starts.tolist()
        return [range(a, b) for a, b in pairwise(starts)]

    def of_shard(self, number: int) -> np.ndarray | None:
        """[rows] which stored windows of a shard are given; None for all."""
        if self.mask is None:
            return None
        return self.mask[int(self._starts[number]) : int(self._starts[number + 1])]

    def record_numbers(self, stored: np.ndarray) -> np.ndarray:
        """Numbers of records from their stored ones."""
        if self.mask is None:
            return stored
        return stored - np.searchsorted(self._dropped, stored)

    def record_number(self, stored: int) -> int:
        """As `record_numbers`, of one."""
        return stored if self.mask is None else int(self.record_numbers(np.array(stored)))
