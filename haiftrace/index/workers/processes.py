"""Shards made by several processes of this machine: on the CPU, or one on each GPU.

The standard library's executor gives out the work. A worker that is killed takes the others of its
executor with it; what they had not finished is given out again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from haiftrace.errors import UsageError, WorkerError
from haiftrace.index.plan import PlannedShard
from haiftrace.index.shard_maker import ShardMaker
from haiftrace.index.workers.workforce import Made, ShardJob
from haiftrace.progress import Progress

if TYPE_CHECKING:
    from haiftrace.corpus.windows import Window
    from haiftrace.store import StagedShard

DEATHS = 3
"""So often in a row, without a shard in between, workers may die."""


class WorkerProcesses:
    """So many processes of this machine.

    Args:
        count: of them; fewer where there are fewer shards.
        progress: is told when one dies.
    """

    def __init__(self, count: int, progress: Progress) -> None:
        self._count = count
        self._progress = progress

    def make(
        self,
        shards: Sequence[PlannedShard],
        maker: ShardMaker,
        job: ShardJob,
        passed: Callable[[Sequence[Window]], None],
        done: Callable[[PlannedShard], None],
    ) -> Generator[Made, None, None]:
        """See `Workforce`."""
        devices = _devices(job.device, self._count)
        left = {planned.number: planned for planned in shards}
        count = min(self._count, len(left))
        if count < self._count:
            self._progress.say(
                f"Note: there are {len(left)} files to make, so {count} workers are enough; a"
                " smaller --shard-records lets more work."
            )
        deaths = 0
        with maker.off_the_gpu():
            while left:
                try:
                    for planned, staged in _round(list(left.values()), job, devices[:count]):
                        deaths = 0
                        del left[planned.number]
                        done(planned)
                        yield planned, staged
                except BrokenProcessPool:
                    deaths += 1
                    if deaths >= DEATHS:
                        raise WorkerError(
                            f"Workers were killed {deaths} times in a row, as a system does that is"
                            " short of memory: each holds the model.",
                            "Use fewer --workers, or a smaller --memory; the same command goes on"
                            " from what is complete.",
                        ) from None
                    self._progress.say(
                        f"Note: a worker was killed; {len(left)} files are given out again."
                    )


def _devices(device: str, count: int) -> list[str]:
    if not device.startswith("cuda"):
        return ["cpu"] * count
    import torch

    available = torch.cuda.device_count()
    if count > available:
        raise UsageError(
            f"{count} workers take a GPU each, and torch sees {available}.",
            f"Use --workers {available}, or --device cpu.",
        )
    return [f"cuda:{number}" for number in range(count)]


def _round(shards: Sequence[PlannedShard], job: ShardJob, devices: Sequence[str]) -> Iterator[Made]:
    # Spawned, not forked: torch's threads and CUDA do not survive a fork.
    context = multiprocessing.get_context("spawn")
    names = context.SimpleQueue()
    for device in devices:
        names.put(device)
    ended, lifeline = context.Pipe(duplex=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (cores or 1) // len(devices))
    executor = ProcessPoolExecutor(
        len(devices), context, initializer=_begin, initargs=(job, names, threads, ended)
    )
    try:
        futures: dict[Future[StagedShard], PlannedShard] = {
            executor.submit(_make, planned): planned for planned in shards
        }
        for future in as_completed(futures):
            yield futures[future], future.result()
        executor.shutdown()
    finally:
        # Closed by whatever ends this process too: a worker never outlives it.
        lifeline.close()
        ended.close()
        with contextlib.suppress(BrokenProcessPool):
            executor.shutdown(cancel_futures=True)


_worker: dict[str, Any] = {}
"""Of a worker process: what it was begun with, and its maker of shards."""


def _begin(job: ShardJob, names: Any, threads: int, ended: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command ends its workers
    threading.Thread(target=_end_with, args=(ended,), daemon=True).start()
    _worker.update(job=job, device=names.get(), threads=threads)


def _end_with(ended: Connection) -> None:
    with contextlib.suppress(OSError):
        ended.poll(None)
    os._exit(1)


def _make(planned: PlannedShard) -> StagedShard:
    if "maker" not in _worker:
        _worker["maker"] = _worker["job"].maker(_worker["device"], _worker["threads"])
    maker: ShardMaker = _worker["maker"]
    return maker.make(planned)
