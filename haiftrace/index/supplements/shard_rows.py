"""A supplement with a row for every window, kept shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.store import Index, StoredWindow, SupplementWriter

if TYPE_CHECKING:
    from haiftrace.engine import Batch, GradientEngine

Values = dict[str, float | np.ndarray]
"""A row of a supplement: numbers of a window, or of its labels."""


def keep_by_shard(
    writer: SupplementWriter,
    name: str,
    settings: Mapping[str, object],
    index: Index,
    progress: Progress,
    of_rows: Callable[[Sequence[int]], Iterator[Values]],
    depends_on: Sequence[str] = (),
) -> None:
    """Keeps a row a window, one shard after the other, from the first that is not there yet.

    Args:
        depends_on: other supplements that the rows are computed with.
    """
    done = writer.begin(name, settings, depends_on)
    if done < 0:
        return
    shards = index.shard_rows()
    progress.start(f"keeping {name}", float(sum(map(len, shards[done:]))))
    if done:
        progress.say(f"Going on with {name} after {sum(map(len, shards[:done])):,} windows.")
    for rows in islice(shards, done, None):
        writer.add_rows(name, list(of_rows(rows)))
    writer.finish(name)


def by_batch(
    index: Index,
    engine: GradientEngine,
    of_batch: Callable[[Sequence[StoredWindow], Batch], Iterable[Values]],
    progress: Progress,
) -> Callable[[Sequence[int]], Iterator[Values]]:
    """What is kept of rows, in their order, from what is computed of batches of windows."""

    from haiftrace.engine.halving import halved

    def of_windows(windows: Sequence[StoredWindow]) -> list[Values]:
        return list(of_batch(windows, batch_of(windows, engine.device)))

    def of_rows(rows: Sequence[int]) -> Iterator[Values]:
        by_row: dict[int, Values] = {}
        for windows in window_batches(index, rows, engine.device):
            for part, of_part in halved(of_windows, windows):
                by_row.update(zip((window.row for window in part), of_part, strict=True))
            progress.advance(len(windows), records=len(windows), tokens=token_count(windows))
        return (by_row[row] for row in rows)

    return of_rows


def at_labels(value: float | np.ndarray, window: StoredWindow) -> float | np.ndarray:
    """Numbers of all tokens of a window, at its labels alone."""
    return value[np.asarray(window.labels)] if isinstance(value, np.ndarray) else value
