"""Batches in halves, where the device's memory does not hold them whole.

How much memory a batch takes is known beforehand only about, and what else is on a GPU changes. On
a CPU a system that lacks memory ends the process and raises nothing: there batches are small.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def halved(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item]
) -> Iterator[tuple[Sequence[Item], Result]]:
    """The items with what the work makes of them: all together, or in halves, in their order.

    Args:
        work: of a batch; its results must not depend on what else is in the batch.

    Raises:
        torch.OutOfMemoryError: a single item is too large.
    """
    try:
        result = work(items)
    except torch.OutOfMemoryError:
        if len(items) < 2:
            raise
    else:
        yield items, result
        return
    # Past the handler, whose traceback held the batch's tensors.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(items) // 2
    yield from halved(work, items[:middle])
    yield from halved(work, items[middle:])
