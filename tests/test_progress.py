"""Progress of long work: lines off a terminal, a bar on one, nothing when quiet."""

from __future__ import annotations

import io
import sys

import pytest

from haiftrace import progress
from haiftrace.progress import ConsoleProgress, Pace, Silent, Substage, duration, size


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self, monkeypatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_stage_tells_once_how_long_all_of_it_takes(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with ConsoleProgress() as console:
        pace = Pace("indexing", 100.0, console)
        for seconds, work in ((1, 5.0), (1.5, 5.0), (20, 50.0)):
            clock.now += seconds
            pace.advance(work)
    assert capsys.readouterr().err.splitlines() == ["This takes about 25 s."]


def test_lines_off_a_terminal_come_now_and_then_with_rate_and_time_left(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with ConsoleProgress() as console:
        console.start("indexing", 100.0)
        for _ in range(10):
            clock.now += 12
            console.advance(5.0, records=3, tokens=60)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "indexing: 15%, 3 min left, 0.25 records/s, 5 tokens/s",
        "indexing: 30%, 3 min left, 0.25 records/s, 5 tokens/s",
        "indexing: 45%, 2 min left, 0.25 records/s, 5 tokens/s",
    ]


def test_work_of_unknown_size_has_a_rate_only(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with ConsoleProgress() as console:
        console.start("reading the corpus", None)
        clock.now += 40
        console.advance(1, records=80, tokens=4)
    assert capsys.readouterr().err == "reading the corpus: 2 records/s, 0.1 tokens/s\n"


def test_work_without_records_has_no_rate(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with ConsoleProgress() as console:
        console.start("training", 10.0)
        clock.now += 40
        console.advance(5)
    assert capsys.readouterr().err == "training: 50%, 40 s left\n"


def test_short_work_says_nothing_of_its_progress(capsys):
    with ConsoleProgress() as console:
        console.start("indexing", 2.0)
        console.advance(2.0, records=1)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_is_taken_down(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    def interrupted(console):
        with console:
            console.start("indexing", 4.0)
            console.advance(1.0, records=1, tokens=20)
            console.say("a [bold]line[/bold]")
            console.start("scoring", 2.0)
            console.advance(1.0)
            raise KeyboardInterrupt

    console = ConsoleProgress()
    with pytest.raises(KeyboardInterrupt):
        interrupted(console)
    shown = terminal.getvalue()
    assert "indexing" in shown
    assert "scoring" in shown
    assert "records/s" in shown
    assert "a [bold]line[/bold]" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h"), "the cursor is left hidden"
    terminal.truncate(0)
    console.say("after")
    assert "after\n" in terminal.getvalue()


@pytest.mark.parametrize("make", [Silent, lambda: ConsoleProgress(quiet=True)])
def test_quiet_says_nothing_at_all(make, monkeypatch, capsys):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    console = make()
    console.say("something")
    console.start("indexing", 1.0)
    clock.now += 100
    console.advance(1.0, records=1, tokens=1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (8.4, "8 s"), (89, "89 s"), (91, "2 min"), (5399, "90 min"), (9000, "2.5 h")],
)
def test_a_time_span_for_people(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (12345, "12.3 kB"),
        (999_499, "999 kB"),
        (999_700, "1 MB"),
        (3.4e6, "3.4 MB"),
        (999.9e6, "1 GB"),
        (512e9, "512 GB"),
        (12e12, "12.0 TB"),
        (12345e12, "12,345.0 TB"),
    ],
)
def test_a_number_of_bytes_for_people(count, text):
    assert size(count) == text


class Counter(Silent):
    """The work that it was told of."""

    def __init__(self) -> None:
        self.work = 0.0

    def advance(self, work: float, records: int = 0, tokens: int = 0) -> None:
        self.work += work


def test_a_substage_comes_to_its_work_whatever_it_is_measured_in():
    stage = Counter()
    substage = Substage(stage, 12.0)
    substage.start("one way", 300.0)
    substage.advance(100.0)
    assert stage.work == pytest.approx(4.0)
    substage.start("another", 16.0)  # what is left is divided anew
    substage.advance(4.0)
    assert stage.work == pytest.approx(6.0)
    substage.advance(1000.0)
    assert stage.work == pytest.approx(12.0)
    substage.finish()
    assert stage.work == pytest.approx(12.0)


def test_a_substage_of_unknown_work_counts_when_it_ends():
    stage = Counter()
    substage = Substage(stage, 5.0)
    substage.start("unknown", None)
    substage.advance(3.0)
    assert stage.work == 0
    substage.finish()
    assert stage.work == 5.0
