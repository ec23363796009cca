"""Stored windows in batches for the engine: those of like length together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from haiftrace.store import Index, StoredWindow

if TYPE_CHECKING:
    import torch

    from haiftrace.engine import Batch

BATCH_TOKENS = {"cpu": 512, "cuda": 8192}
"""Padded tokens of one batch of windows."""

READ_AHEAD = 256
"""Windows read together, of which those of like length share a batch."""


def window_batches(
    index: Index, rows: Iterable[int], device: torch.device
) -> Iterator[list[StoredWindow]]:
    """Windows of like length together, so that little is padded; a shard is read once.

    Args:
        rows: in ascending order.
    """
    most = BATCH_TOKENS[device.type]
    numbers = iter(rows)
    while ahead := list(islice(numbers, READ_AHEAD)):
        batch: list[StoredWindow] = []
        for window in sorted(index.iter_windows(ahead), key=lambda w: len(w.token_ids)):
            if batch and (len(batch) + 1) * len(window.token_ids) > most:
                yield batch
                batch = []
            batch.append(window)
        yield batch


def batch_of(windows: Sequence[StoredWindow], device: torch.device) -> Batch:
    """The windows' tokens and labels as the engine takes them."""
    from haiftrace.engine import make_batch

    return make_batch([w.token_ids for w in windows], [w.labels for w in windows], device)


def token_count(windows: Sequence[StoredWindow]) -> int:
    """Tokens of the windows, padding not counted."""
    return sum(len(window.token_ids) for window in windows)
