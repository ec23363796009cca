"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BEFORE_ESTIMATE = 2.0


class Progress(Protocol):
    """What a use case tells about its own advance."""

    def say(self, message: str) -> None:
        """A line for the user."""
        ...

    def start(self, what: str, work: float | None) -> None:
        """Begins a stage of `work` units in all, proportional to its duration; None: unknown."""
        ...

    def advance(self, work: float, records: int = 0, tokens: int = 0) -> None:
        """So much more of the stage is done."""
        ...


class Silent:
    """Shows nothing."""

    def say(self, message: str) -> None:
        """Nothing."""

    def start(self, what: str, work: float | None) -> None:
        """Nothing."""

    def advance(self, work: float, records: int = 0, tokens: int = 0) -> None:
        """Nothing."""


class Substage:
    """Work within a stage: whatever it is measured in, it comes to so much of the stage's own.

    Args:
        stage: shows it.
        work: what all of it is of the stage's work.
    """

    def __init__(self, stage: Progress, work: float) -> None:
        self._stage = stage
        self._left = work
        self._scale = 0.0

    def say(self, message: str) -> None:
        """The same line."""
        self._stage.say(message)

    def start(self, what: str, work: float | None) -> None:
        """Divides what is left of the work anew; the stage goes on under its own name."""
        self._scale = self._left / work if work else 0.0

    def advance(self, work: float, records: int = 0, tokens: int = 0) -> None:
        """So much of it, never more than is left of it."""
        done = min(self._left, work * self._scale)
        self._left -= done
        self._stage.advance(done, records, tokens)

    def finish(self) -> None:
        """All of the work is done."""
        self._stage.advance(self._left)
        self._left = 0.0


class Pace:
    """A stage that tells after a while how long all of it takes.

    Args:
        what, work: of the stage (see `Progress.start`).
    """

    def __init__(self, what: str, work: float, progress: Progress) -> None:
        progress.start(what, work)
        self._work = work
        self._progress = progress
        self._began = time.monotonic()
        self._done = 0.0
        self._estimated = False

    def advance(self, work: float, records: int = 0, tokens: int = 0) -> None:
        """So much more of the stage is done."""
        self._progress.advance(work, records=records, tokens=tokens)
        self._done += work
        seconds = time.monotonic() - self._began
        if not self._estimated and seconds > SECONDS_BEFORE_ESTIMATE:
            self._estimated = True
            self._progress.say(f"This takes about {duration(seconds * self._work / self._done)}.")


class ConsoleProgress:
    """Progress on stderr; a context manager, so that a bar is taken down whatever happens.

    Args:
        quiet: show nothing.
        shown: what of a line for the user is shown: a path in it may hold a private value.
    """

    def __init__(self, quiet: bool = False, shown: Callable[[str], str] = str) -> None:
        self._quiet = quiet
        self._shown = shown
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._what = ""
        self._total: float | None = None
        self._done = 0.0
        self._records = self._tokens = 0
        self._began = self._last_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._take_down()

    def say(self, message: str) -> None:
        """A line for the user, as plain text whatever it holds."""
        if self._quiet:
            return
        message = self._shown(message)
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def start(self, what: str, work: float | None) -> None:
        """Begins a stage; a bar of an earlier one is taken down."""
        self._take_down()
        self._what, self._total, self._done = what, work, 0.0
        self._records = self._tokens = 0
        self._began = self._last_line = time.monotonic()
        if self._quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(what, total=self._total, rate="")
        self._bar.start()

    def advance(self, work: float, records: int = 0, tokens: int = 0) -> None:
        """So much more is done."""
        self._done += work
        self._records += records
        self._tokens += tokens
        if self._quiet:
            return
        now = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=self._rate(now))
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.say(f"{self._what}: {self._done_share(now)}{self._rate(now)}".rstrip(" ,:"))

    def _rate(self, now: float) -> str:
        seconds = max(now - self._began, 1e-9)
        rates = []
        if self._records:
            rates.append(f"{self._records / seconds:.3g} records/s")
        if self._tokens:
            rates.append(f"{self._tokens / seconds:.4g} tokens/s")
        return ", ".join(rates)

    def _done_share(self, now: float) -> str:
        if not self._total or not self._done:
            return ""
        left = (now - self._began) * max(0.0, self._total / self._done - 1)
        return f"{min(1.0, self._done / self._total):.0%}, {duration(left)} left, "

    def _take_down(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    """A time span for people: "8 s", "3 min", "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """A number of bytes for people: "12 kB", "3.4 MB"."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:,.1f} TB"
