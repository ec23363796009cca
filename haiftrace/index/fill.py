"""The windows of a corpus into an index: batches through the similarity, shards into the writer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from haiftrace.corpus.windows import Window
from haiftrace.index.census import Census, Reader
from haiftrace.index.measure import window_rows
from haiftrace.progress import Pace, Progress
from haiftrace.scoring.indexed_gradients import (
    WHITENING_TOKENS,
    TokenGradients,
    found_whitening,
    whitened,
)
from haiftrace.scoring.layerwise.similarity import WHITENING
from haiftrace.store import IndexWriter, WindowRow

if TYPE_CHECKING:
    from haiftrace.engine import TokenSimilarity
    from haiftrace.index.build import IndexSettings

Item = TypeVar("Item")

READ_AHEAD = 64
"""Records read ahead, so that windows of like length share a batch. They share a shard too: the
numbers of a window depend in their last bits on the others of its batch, and a resumed run begins
after a shard."""

READ_AHEAD_TOKENS = 1 << 14
"""Tokens of such records: those of long ones are as many."""

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Padded tokens of one batch of windows."""

SECONDS_BETWEEN_SHARDS = 300.0
"""A shard is closed at least this often, so that an interruption loses little."""

WHITENING_SHARE = 0.4
"""What whitening costs a token, beside the work that indexing it takes."""


def fill(
    writer: IndexWriter,
    reader: Reader,
    chosen: TokenGradients,
    settings: IndexSettings,
    census: Census,
    progress: Progress,
) -> None:
    """Index what the reader gives into the writer, after what is durable there already."""

    def work_of(window: Window) -> float:
        """A pass a window, or a token of it."""
        passes = 1 if chosen.kind == "direct" else sum(window.labels)
        return float(len(window.token_ids)) * passes

    numbered = enumerate((windows for _, windows in reader.records()), start=1)
    left = census.squared if chosen.kind == "full" else float(census.tokens)
    if writer.resume_after.cursor:
        progress.say(f"Going on after {writer.resume_after.records:,} records indexed before.")
        done = islice(numbered, writer.resume_after.cursor)
        left -= sum(work_of(window) for _, windows in done for window in windows)
    similarity, pace = _whitened(writer, chosen, settings, census, left, progress)
    flushed = time.monotonic()
    for ahead in _read_ahead(numbered, min(READ_AHEAD, settings.shard_records)):
        windows = [window for _, windows in ahead for window in windows]
        rows: dict[int, WindowRow] = {}
        for batch in _batched(windows, _length, similarity.device.type):
            rows |= window_rows(batch, similarity, settings.token_vectors, settings.seed)
            pace.advance(
                sum(map(work_of, batch)),
                records=sum(w.window == 0 for w in batch),
                tokens=sum(len(w.token_ids) for w in batch),
            )
        records = [
            ([rows[id(window)] for window in windows], cursor)
            for cursor, windows in ahead
            if windows
        ]
        if records:
            # Those after it in the list have no label, and are not to be read again.
            records[-1] = (records[-1][0], ahead[-1][0])
            writer.append_records(records)
        if time.monotonic() - flushed > SECONDS_BETWEEN_SHARDS:
            writer.flush(cursor=ahead[-1][0])
            flushed = time.monotonic()
    writer.flush()


def _whitened(
    writer: IndexWriter,
    chosen: TokenGradients,
    settings: IndexSettings,
    census: Census,
    left: float,
    progress: Progress,
) -> tuple[TokenSimilarity, Pace]:
    """The token gradients with their whitening, which an interrupted run left or is kept now.

    Args:
        left: work of the windows that are to be indexed.
    """
    from haiftrace.engine import DirectGradients

    if not isinstance(chosen.similarity, DirectGradients):
        return chosen.similarity, Pace("indexing", left, progress)
    matrices = writer.stored_tensors(WHITENING)
    if matrices is not None:
        return whitened(chosen.similarity, matrices), Pace("indexing", left, progress)
    sample = census.sample.sample(WHITENING_TOKENS)
    tokens = sum(map(len, sample))
    pace = Pace("indexing", left + WHITENING_SHARE * tokens, progress)

    def passed(batch: Sequence[list[int]]) -> None:
        pace.advance(WHITENING_SHARE * sum(map(len, batch)), 0, 0)

    batches = _batched(sample, len, chosen.similarity.device.type)
    matrices = found_whitening(chosen.similarity, batches, settings.whitening_damping, passed)
    about = {"windows": len(sample), "tokens": tokens, "damping": settings.whitening_damping}
    writer.keep_tensors(WHITENING, about, matrices)
    return whitened(chosen.similarity, matrices), pace


def _read_ahead(
    numbered: Iterator[tuple[int, list[Window]]], records: int
) -> Iterator[list[tuple[int, list[Window]]]]:
    """Lists of (records read so far, windows of the last of them).

    Args:
        records: in a list, at most.
    """
    ahead: list[tuple[int, list[Window]]] = []
    tokens = 0
    for number, windows in numbered:
        ahead.append((number, windows))
        tokens += sum(len(window.token_ids) for window in windows)
        if len(ahead) == records or tokens >= READ_AHEAD_TOKENS:
            yield ahead
            ahead, tokens = [], 0
    if ahead:
        yield ahead


def _length(window: Window) -> int:
    return len(window.token_ids)


def _batched(
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
