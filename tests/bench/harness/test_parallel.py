"""Jobs in processes of their own: results, talk, failures and ends."""

import os
import time

import pytest

from haiftrace.bench.harness.parallel import Job, cores, run_in_parallel
from haiftrace.errors import HaiftraceError, UsageError
from haiftrace.progress import Silent


class Heard(Silent):
    def __init__(self):
        self.calls = []

    def say(self, message):
        self.calls.append(message)

    def start(self, what, work):
        self.calls.append((what, work))

    def advance(self, work, records=0, tokens=0):
        self.calls.append((work, records, tokens))


def count(upto, seconds, progress):
    """What the processes run: a stage of `upto` steps."""
    progress.start("counting", upto)
    for _ in range(upto):
        progress.advance(1, records=2)
    progress.say(f"counted to {upto}")
    time.sleep(seconds)
    yield os.getpid(), upto


def refuse(progress):
    yield "something"
    raise UsageError("No such thing.", "Try another.")


def break_down(progress):
    yield from ()
    raise ZeroDivisionError("a bug")


def die(progress):
    os._exit(9)


def wait(path, progress):
    yield "ready"
    time.sleep(60)
    path.write_text("too late")


def test_results_come_as_they_end_from_processes_of_their_own():
    heard = Heard()
    jobs = [Job("slow", count, (3, 2.0)), Job("fast", count, (2, 0.0))]
    results = list(run_in_parallel(jobs, heard))
    assert [number for number, _ in results] == [1, 0]
    assert {upto for _, (_, upto) in results} == {3, 2}
    assert len({os.getpid(), *(pid for _, (pid, _) in results)}) == 3
    assert {"slow: counted to 3", "fast: counted to 2"} <= set(heard.calls)
    # One bar: the first job's, as long as it runs.
    bars = [call for call in heard.calls if isinstance(call, tuple)]
    assert bars == [("slow: counting", 3), *[(1, 2, 0)] * 3]


def test_the_next_jobs_bar_goes_on_where_it_is():
    heard = Heard()
    list(run_in_parallel([Job("a", count, (1, 0.0)), Job("b", count, (4, 3.0))], heard))
    bars = [call for call in heard.calls if isinstance(call, tuple)]
    at = bars.index(("b: counting", 4))
    assert sum(call[0] for call in bars[at + 1 :]) == 4


def test_a_failure_is_raised_as_it_was_and_ends_the_others(tmp_path):
    jobs = [Job("waits", wait, (tmp_path / "late",)), Job("fails", refuse, ())]
    began = time.monotonic()
    with pytest.raises(UsageError, match="No such thing") as caught:
        list(run_in_parallel(jobs, Silent()))
    assert caught.value.hint == "Try another."
    assert time.monotonic() - began < 50
    assert not (tmp_path / "late").exists()
    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        list(run_in_parallel([Job("fails", break_down, ())], Silent()))
    assert "break_down" in str(caught.value.__cause__)  # where it was


def test_a_killed_process_is_told():
    with pytest.raises(HaiftraceError, match="dies was killed"):
        list(run_in_parallel([Job("dies", die, ())], Silent()))


def test_there_is_at_least_one_core():
    assert 1 <= cores() <= (os.cpu_count() or 1)
