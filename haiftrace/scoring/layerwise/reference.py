"""The windows of an index that the layerwise rule compares with: a seeded sample."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from haiftrace.methods.layerwise import REFERENCE, usual_surprise
from haiftrace.store import Index
from haiftrace.store.sample import sample_rows


class ReferenceSample:
    """A reference.

    Args:
        size: how many windows; all of them where there are no more.
        seed: of the sample.
    """

    def __init__(self, index: Index, size: int = REFERENCE, seed: int = 0) -> None:
        self._index = index
        self._size = size
        self._seed = seed

    @cached_property
    def rows(self) -> list[int]:
        """The windows, ascending."""
        return sample_rows(self._index, self._size, self._seed)

    @cached_property
    def usual(self) -> float:
        """The surprise that is usual in the corpus (see `methods.layerwise`)."""
        windows = self._index.iter_windows(self.rows)
        losses = [window.token_loss[np.asarray(window.labels)] for window in windows]
        window_J = np.repeat(np.arange(len(losses)), [len(each) for each in losses])
        return usual_surprise(np.concatenate(losses), window_J)
