"""Use case: an index keeps the keys by which records that hold a value are looked up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.privacy.lookup_keys import FORMAT, text_keys
from haiftrace.progress import Progress
from haiftrace.scoring.holder_search import VALUE_KEYS, packed_keys
from haiftrace.store import Index, SupplementWriter

if TYPE_CHECKING:
    from torch import Tensor

_KEYS_OF_A_FILE = 1 << 21
"""Keys that are sorted together: memory does not grow with the corpus."""


def keep_value_keys(path: Path, progress: Progress) -> None:
    """Keeps the keys of every record in the index at `path`, where it does not hold them yet.

    Raises:
        HaiftraceError: whatever is wrong with the index.
    """
    with Index.open(path, verify=False) as index, SupplementWriter(path) as writer:
        if writer.begin(VALUE_KEYS, {"format": FORMAT}) < 0:
            return
        writer.restart(VALUE_KEYS)
        progress.start("keys of the records' texts", float(len(index)))
        for tensors in _files(index, progress):
            writer.add_tensors(VALUE_KEYS, tensors, {})
        writer.finish(VALUE_KEYS)


def _files(index: Index, progress: Progress) -> Iterator[dict[str, Tensor]]:
    import torch

    packed: list[np.ndarray] = []
    count = 0
    for window in index.iter_windows():
        packed.append(packed_keys(text_keys(window.text), window.record))
        count += len(packed[-1])
        progress.advance(1.0, records=1)
        if count >= _KEYS_OF_A_FILE:
            yield {"keys": torch.from_numpy(np.unique(np.concatenate(packed)))}
            packed, count = [], 0
    if packed:
        yield {"keys": torch.from_numpy(np.unique(np.concatenate(packed)))}
