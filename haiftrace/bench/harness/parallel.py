"""Jobs in processes of their own, at the same time, with one line of progress for all of them.

A tiny model is computed on one thread: the regimes of a bench are independent, and take as many
cores as there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from queue import Queue
from typing import Any

from haiftrace.errors import HaiftraceError
from haiftrace.progress import Progress, Silent


@dataclass(frozen=True)
class Job:
    """One job: a generator function of a module and its arguments, which can be pickled.

    Attributes:
        name: put before the job's messages.
        run: called with `arguments` and then a `Progress`; what it yields is pickled.
    """

    name: str
    run: Callable[..., Iterator[Any]]
    arguments: tuple[Any, ...]


Message = tuple[int, str, Any]
"""A job's number; "result", "ended" or a method of `Progress`; the result or the arguments."""


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_in_parallel(jobs: Sequence[Job], progress: Progress) -> Iterator[tuple[int, Any]]:
    """Runs the jobs at the same time; yields each job's number and its results as they come.

    A job's results keep their order. The bar shows the first job that is still running. Whatever
    ends the iteration ends all jobs.

    Raises:
        HaiftraceError: a process was killed.

    What a job raises is raised here, with the process's traceback as its cause.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads' locks
    with context.Manager() as manager:
        # Of a manager's own process: a worker that is killed leaves no lock of the queue behind.
        messages: Queue[Message] = manager.Queue()
        others = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(len(jobs), context, initializer=_ignore_interrupts)
        try:
            futures = [pool.submit(_run, job, n, messages) for n, job in enumerate(jobs)]
            for number, future in enumerate(futures):
                future.add_done_callback(partial(_report_end, number, messages))
            yield from _received(jobs, futures, messages, progress)
        finally:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            pool.shutdown(cancel_futures=True)


def _received(
    jobs: Sequence[Job],
    futures: Sequence[Future[None]],
    messages: Queue[Message],
    progress: Progress,
) -> Iterator[tuple[int, Any]]:
    """The results, until all jobs have ended; everything else goes to `progress`."""
    running = list(range(len(jobs)))
    bars = [_Bar() for _ in jobs]
    while running:
        number, kind, content = messages.get()
        if kind == "result":
            yield number, content
        elif kind == "say":
            progress.say(f"{jobs[number].name}: {content[0]}")
        elif kind != "ended":
            bars[number].update(kind, content)
            if number == running[0]:
                getattr(progress, kind)(*content)
        else:
            try:
                futures[number].result()
            except BrokenProcessPool:
                names = " or ".join(jobs[n].name for n in running)
                raise HaiftraceError(
                    f"The process for {names} was killed.",
                    "Free some memory and run the command again; finished stages are kept.",
                ) from None
            was_shown = running[0] == number
            running.remove(number)
            if was_shown and running:
                bars[running[0]].show(progress)


class _Bar:
    """A job's place in its present stage, to be shown when those before it have ended."""

    def __init__(self) -> None:
        self._stage: tuple[str, float | None] | None = None
        self._done = (0.0, 0, 0)

    def update(self, kind: str, arguments: tuple[Any, ...]) -> None:
        if kind == "start":
            self._stage, self._done = (arguments[0], arguments[1]), (0.0, 0, 0)
        else:
            work, records, tokens = self._done
            self._done = (work + arguments[0], records + arguments[1], tokens + arguments[2])

    def show(self, progress: Progress) -> None:
        if self._stage is not None:
            progress.start(*self._stage)
            progress.advance(*self._done)


class _Relay(Silent):
    """A job's `Progress`: sends every call to the process that shows it."""

    def __init__(self, job: Job, number: int, messages: Queue[Message]) -> None:
        self._name = job.name
        self._number = number
        self._messages = messages

    def say(self, message: str) -> None:
        self._messages.put((self._number, "say", (message,)))

    def start(self, what: str, work: float | None) -> None:
        self._messages.put((self._number, "start", (f"{self._name}: {what}", work)))

    def advance(self, work: float, records: int = 0, tokens: int = 0) -> None:
        self._messages.put((self._number, "advance", (work, records, tokens)))


def _report_end(number: int, messages: Queue[Message], _: Future[None]) -> None:
    messages.put((number, "ended", None))  # behind the job's results


def _run(job: Job, number: int, messages: Queue[Message]) -> None:
    """A job in its worker's process."""
    for result in job.run(*job.arguments, _Relay(job, number, messages)):
        messages.put((number, "result", result))


def _ignore_interrupts() -> None:
    # The process that shows the progress ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
