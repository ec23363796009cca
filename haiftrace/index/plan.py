"""Which records go into which shard: known before any gradient, from the corpus and the settings.

So the work on a shard does not depend on who does it, nor on what was done before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from haiftrace.corpus.windows import Window

SHARD_RECORDS = 512
"""Windows from which on a shard is full."""

SHARD_BYTES = 64 << 20
"""What the rows of a shard may take in memory, approximately."""

SHARD_WORK = {"cpu": 1.5e12, "cuda": 1.5e14}
"""Tokens of a shard, times the model's parameters, by the kind of device: what it computes in about
three minutes. An interruption loses no more of each worker."""

READ_AHEAD = 64
"""Records read ahead, so that windows of like length share a batch. They share a shard too, since
the numbers of a window depend in their last bits on the others of its batch."""

READ_AHEAD_TOKENS = 1 << 14
"""Tokens of such records: those of long ones are as many."""

_TOKEN_BYTES = 160
"""What a token takes while its row waits for the shard to be written, approximately."""


@dataclass(frozen=True)
class PlannedShard:
    """A unit of work: these records into that shard.

    Attributes:
        number: of the shard, from 0.
        first: how many corpus records come before it.
        after: how many are read to their end with it, those that give no window included.
        first_record: number of its first record in the index.
        records, windows, tokens, labels: what it holds.
        work: as `work_of` has it.
    """

    number: int
    first: int
    after: int
    first_record: int
    records: int = 0
    windows: int = 0
    tokens: int = 0
    labels: int = 0
    work: float = 0.0


def work_of(windows: Sequence[Window], full: bool) -> float:
    """The work of some windows: their tokens, in full gradients a pass for each label.

    Args:
        full: whether the index has full gradients.
    """
    return float(sum(len(w.token_ids) * (sum(w.labels) if full else 1) for w in windows))


class ShardPlanner:
    """Is told of the records of a corpus in order, and divides them into shards.

    Args:
        shard_records: windows from which on a shard is full.
        parameters: of the model.
        device: its kind, "cpu" or "cuda".
        full: whether the index has full gradients.
        token_vectors: bits of a label's vector.
    """

    def __init__(
        self, shard_records: int, parameters: int, device: str, full: bool, token_vectors: int
    ) -> None:
        self._full = full
        self._most_windows = shard_records
        self._most_work = SHARD_WORK[device] / parameters
        self._label_bytes = token_vectors // 8
        self._ahead = Ahead(shard_records)
        self._shards: list[PlannedShard] = []
        self._open = PlannedShard(0, 0, 0, 0)
        self._bytes = 0

    def offer(self, windows: Sequence[Window]) -> None:
        """One corpus record more, by its windows; none where it has no label."""
        tokens = sum(len(window.token_ids) for window in windows)
        labels = sum(sum(window.labels) for window in windows)
        self._bytes += _TOKEN_BYTES * tokens + self._label_bytes * labels
        self._open = replace(
            self._open,
            after=self._open.after + 1,
            records=self._open.records + bool(windows),
            windows=self._open.windows + len(windows),
            tokens=self._open.tokens + tokens,
            labels=self._open.labels + labels,
            work=self._open.work + work_of(windows, self._full),
        )
        if self._ahead.is_full(tokens) and self._is_full():
            self._close()

    def shards(self) -> list[PlannedShard]:
        """The shards of all records that were told of."""
        last = self._open
        if last.windows:
            return [*self._shards, last]
        # Records without a label at the end are read with the last shard.
        return [
            replace(shard, after=last.after) if shard.after == last.first else shard
            for shard in self._shards
        ]

    def _is_full(self) -> bool:
        return self._open.windows > 0 and (
            self._open.windows >= self._most_windows
            or self._open.work >= self._most_work
            or self._bytes >= SHARD_BYTES
        )

    def _close(self) -> None:
        closed = self._open
        self._shards.append(closed)
        after, first_record = closed.after, closed.first_record + closed.records
        self._open = PlannedShard(closed.number + 1, after, after, first_record)
        self._bytes = 0


class Ahead:
    """Counts the records that are read ahead together, from the first of a shard on.

    Args:
        shard_records: no more of them than this.
    """

    def __init__(self, shard_records: int) -> None:
        self._most = min(READ_AHEAD, shard_records)
        self._records = self._tokens = 0

    def is_full(self, tokens: int) -> bool:
        """Whether a record more, of so many tokens, is the last of those read together."""
        self._records += 1
        self._tokens += tokens
        if self._records < self._most and self._tokens < READ_AHEAD_TOKENS:
            return False
        self._records = self._tokens = 0
        return True


def groups_of(records: Iterable[list[Window]], shard_records: int) -> Iterator[list[list[Window]]]:
    """The records of a shard, by their windows, as they are read ahead together."""
    ahead = Ahead(shard_records)
    group: list[list[Window]] = []
    for windows in records:
        group.append(windows)
        if ahead.is_full(sum(len(window.token_ids) for window in windows)):
            yield group
            group = []
    if group:
        yield group
