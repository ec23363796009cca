"""A unit of work: these records of the corpus into that shard.

What comes of it depends on the settings, the corpus and the plan alone: not on who computes it, nor
on what was computed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from haiftrace import corpus as corpora
from haiftrace.corpus import Record
from haiftrace.corpus.windows import Window
from haiftrace.errors import CorpusError
from haiftrace.index.census import Reader
from haiftrace.index.measure import window_rows
from haiftrace.index.plan import PlannedShard, groups_of
from haiftrace.store import Layout, ShardBuffer, StagedShard, WindowRow

if TYPE_CHECKING:
    from haiftrace.engine import TokenSimilarity

Item = TypeVar("Item")

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Padded tokens of one batch of windows."""


class ShardMaker:
    """Makes shards of one index; those of ascending numbers take one reading of the corpus.

    Args:
        root: directory of the index.
        reader: of the corpus.
        similarity: the token gradients, with their whitening.
        layout: the shape of the rows.
        seed: of the projection.
        shard_records: as the index is made with.
    """

    def __init__(
        self,
        root: Path,
        reader: Reader,
        similarity: TokenSimilarity,
        layout: Layout,
        seed: int,
        shard_records: int,
    ) -> None:
        self._root = root
        self._reader = reader
        self._similarity = similarity
        self._layout = layout
        self._seed = seed
        self._shard_records = shard_records
        self._records: Iterator[Record] = iter(())
        self._read_so_far: int | None = None

    @property
    def model_bytes(self) -> int:
        """What the model's weights take."""
        model = self._reader.checkpoint.model
        return sum(weight.numel() * weight.element_size() for weight in model.parameters())

    @contextmanager
    def off_the_gpu(self) -> Iterator[None]:
        """This process's model leaves its GPU to a worker, for as long as the block lasts."""
        model = self._reader.checkpoint.model
        device = model.device
        if device.type != "cuda":
            yield
            return
        import torch

        model.to("cpu")
        torch.cuda.empty_cache()
        try:
            yield
        finally:
            model.to(device)

    def make(
        self, planned: PlannedShard, passed: Callable[[Sequence[Window]], None] = lambda _: None
    ) -> StagedShard:
        """Compute a shard and write its files aside.

        Args:
            passed: is told of each batch of windows that is done.

        Raises:
            HaiftraceError: a value that must not be stored, a disk that refuses, or a corpus that
                is not the planned one any more.
        """
        from haiftrace.engine.halving import halved

        buffer = ShardBuffer(self._root, self._layout)
        for group in groups_of(self._read(planned), self._shard_records):
            rows: dict[int, WindowRow] = {}
            windows = [window for of_record in group for window in of_record]
            for batch in batched(windows, _length, self._similarity.device.type):
                for part, of_part in halved(self._rows, batch):
                    rows |= of_part
                    passed(part)
            for of_record in group:
                if of_record:
                    buffer.append([rows[id(window)] for window in of_record])
        self._read_so_far = planned.after
        if buffer.size != (planned.records, planned.windows, planned.labels):
            raise CorpusError(
                "The corpus changed while it was indexed.",
                "Run the same `haiftrace index` command again when nobody writes to it.",
            )
        return buffer.write(planned.number, planned.first_record, planned.after)

    def _rows(self, windows: Sequence[Window]) -> dict[int, WindowRow]:
        return window_rows(windows, self._similarity, self._layout.token_vectors, self._seed)

    def _read(self, planned: PlannedShard) -> Iterator[list[Window]]:
        if self._read_so_far is None or planned.first < self._read_so_far:
            self._records, self._read_so_far = corpora.read_records(self._reader.corpus), 0
        # Records of other shards are read over, and not made into tokens.
        records = islice(self._records, planned.first - self._read_so_far, None)
        self._read_so_far = None  # until all of it is read
        return map(self._reader.windows, islice(records, planned.after - planned.first))


def batched(
    items: Sequence[Item], length: Callable[[Item], int], device: str
) -> Iterator[list[Item]]:
    """Those of like length together, so that little is padded."""
    batch: list[Item] = []
    for item in sorted(items, key=length):
        if batch and (len(batch) + 1) * length(item) > BATCH_TOKENS[device]:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _length(window: Window) -> int:
    return len(window.token_ids)
