"""Jobs side by side, each in a process of its own, with one line of progress for all of them.

A tiny model is computed on one thread: the regimes of a bench are independent, and take as many
cores as there are.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from haiftrace.errors import HaiftraceError
from haiftrace.progress import Progress, Silent


@dataclass(frozen=True)
class Job:
    """One job: a generator function of a module and its arguments, which can be pickled.

    Attributes:
        name: put before what it says.
        run: called with `arguments` and then a `Progress`; what it yields is pickled.
    """

    name: str
    run: Callable[..., Iterator[Any]]
    arguments: tuple[Any, ...]


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side(jobs: Sequence[Job], progress: Progress) -> Iterator[tuple[int, Any]]:
    """Runs the jobs at the same time; yields each one's number and results as they come.

    The bar shows the first job that is still running. Whatever ends the iteration ends them all.

    Raises:
        HaiftraceError: one of them ended without a word.

    What a job raises is raised here.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads' locks
    pipes: dict[Connection, int] = {}
    processes = []
    try:
        for number, job in enumerate(jobs):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(sender, job), daemon=True)
            process.start()
            sender.close()
            processes.append(process)
            pipes[receiver] = number
        bars = [_Bar() for _ in jobs]
        shown = 0
        while pipes:
            if min(pipes.values()) != shown:
                shown = min(pipes.values())
                bars[shown].show(progress)
            for pipe in wait(list(pipes)):
                assert isinstance(pipe, Connection)
                number = pipes[pipe]
                try:
                    kind, told = pipe.recv()
                except EOFError:
                    raise HaiftraceError(
                        f"The process for {jobs[number].name} was killed.",
                        "Free some memory and run the command again; finished stages are kept.",
                    ) from None
                if kind == "failed":
                    raise told
                if kind == "done":
                    del pipes[pipe]
                    processes[number].join()  # its own end cleans up, which a signal would not let
                elif kind == "found":
                    yield number, told
                elif kind == "say":
                    progress.say(f"{jobs[number].name}: {told[0]}")
                else:
                    bars[number].take(kind, told)
                    if number == shown:
                        getattr(progress, kind)(*told)
    finally:
        for process in processes:
            process.terminate()
            process.join()


class _Bar:
    """A job's place in its present stage, to be shown when those before it have ended."""

    def __init__(self) -> None:
        self._stage: tuple[str, float | None] | None = None
        self._done = (0.0, 0, 0)

    def take(self, kind: str, told: tuple[Any, ...]) -> None:
        if kind == "start":
            self._stage, self._done = (told[0], told[1]), (0.0, 0, 0)
        else:
            work, records, tokens = self._done
            self._done = (work + told[0], records + told[1], tokens + told[2])

    def show(self, progress: Progress) -> None:
        if self._stage is not None:
            progress.start(*self._stage)
            progress.advance(*self._done)


class _Relay(Silent):
    """Sends what a job tells of its advance to the process that shows it."""

    def __init__(self, pipe: Connection, name: str) -> None:
        self._pipe = pipe
        self._name = name

    def say(self, message: str) -> None:
        self._pipe.send(("say", (message,)))

    def start(self, what: str, work: float | None) -> None:
        self._pipe.send(("start", (f"{self._name}: {what}", work)))

    def advance(self, work: float, records: int = 0, tokens: int = 0) -> None:
        self._pipe.send(("advance", (work, records, tokens)))


def _work(pipe: Connection, job: Job) -> None:
    """A process's whole life."""
    import signal

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the process that shows the progress ends this one
    try:
        for result in job.run(*job.arguments, _Relay(pipe, job.name)):
            pipe.send(("found", result))
    except Exception as error:
        error.__notes__ = [traceback.format_exc()]  # a traceback itself cannot be pickled
        pipe.send(("failed", error))
    else:
        pipe.send(("done", None))
