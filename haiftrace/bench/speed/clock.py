"""Times of operations that take turns, so that what else the machine does meets all alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.errors import HaiftraceError

if TYPE_CHECKING:
    import torch


class ProcessFailure(HaiftraceError):
    """A process that ended with an error.

    Args:
        command: as it was started.
        status: its exit status, or the number of the signal that ended it, below zero.
        log: the file of what it printed.
    """

    def __init__(self, command: Sequence[str], status: int, log: Path) -> None:
        printed = log.read_text("utf-8", errors="replace").strip().splitlines()
        self.status = status
        self.last_line = printed[-1].strip() if printed else ""
        super().__init__(
            f"{' '.join(command)} ended with status {status}: {self.last_line}",
            f"All that it printed is in {log}.",
        )


# A process begins with its parent's peak of memory: this small one keeps that out.
_LAUNCHER = """
import json, resource, subprocess, sys, time
began = time.monotonic()
status = subprocess.run(sys.argv[1:], stderr=subprocess.STDOUT).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
cpu = used.ru_utime + used.ru_stime
print(json.dumps({"status": status, "cpu": cpu, "wall": time.monotonic() - began, "peak": peak}),
      file=sys.stderr)
"""


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of repeated figures."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Of at least one figure."""
        return cls(statistics.median(figures), min(figures), max(figures))

    def row(self) -> dict[str, float]:
        """As plain JSON."""
        return {"median": self.median, "least": self.least, "greatest": self.greatest}


@dataclass(frozen=True)
class ProcessCost:
    """What one process took.

    Attributes:
        cpu_seconds: of the processor, user and system together, its own children included.
        wall_seconds: on the clock.
        peak_bytes: greatest resident memory.
    """

    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int


def take_turns(
    operations: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    seconds: float,
) -> dict[str, list[float]]:
    """Seconds of each operation by round: of the processor on a CPU, on the clock on a GPU.

    Every operation runs once before the clock does. In a round each runs once, in order.

    Args:
        rounds: how many at most; one at least.
        seconds: no further round begins after so many.
    """
    for operation in operations.values():
        operation()
    taken: dict[str, list[float]] = {name: [] for name in operations}
    began = time.monotonic()
    for number in range(rounds):
        if number and time.monotonic() - began > seconds:
            break
        for name, operation in operations.items():
            taken[name].append(seconds_of(operation, device))
    return taken


def ratios(taken: Mapping[str, Sequence[float]], name: str, to: str) -> Spread:
    """An operation's time as a multiple of another's in the same round."""
    return Spread.of([a / b for a, b in zip(taken[name], taken[to], strict=True)])


def run_process(
    command: Sequence[str], threads: int, log: Path, accepted: Sequence[int] = (0,)
) -> ProcessCost:
    """Runs a command to its end, on so many threads, with what it prints in `log`.

    Args:
        accepted: statuses of success.

    Raises:
        ProcessFailure: it exits with another status.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log.open("wb") as output:
        launched = subprocess.run(
            [sys.executable, "-S", "-c", _LAUNCHER, *command],
            stdout=output,
            stderr=subprocess.PIPE,
            env=environment,
            check=True,
        )
    cost = json.loads(launched.stderr)
    if cost["status"] not in accepted:
        raise ProcessFailure(command, cost["status"], log)
    return ProcessCost(cost["cpu"], cost["wall"], cost["peak"])


def seconds_of(operation: Callable[[], object], device: torch.device) -> float:
    """What one run takes: of the processor on a CPU, on the clock on a GPU."""
    if device.type == "cpu":
        began = time.process_time()
        operation()
        return time.process_time() - began
    import torch

    torch.cuda.synchronize(device)
    began = time.perf_counter()
    operation()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began
