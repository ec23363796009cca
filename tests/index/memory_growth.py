"""What indexing, calibrating and tracing take of memory, stage by stage, as a corpus grows.

`python -m tests.index.memory_growth OUT [--records 1000,10000,100000]`: corpora of invented people
under the demo's checkpoint, each size and step in a process of its own, so that none has the memory
of the one before. Peak resident memory is Linux's, reset at the beginning of every stage. A part of
it are pages of mapped files, which the system takes back when it needs them; so memory that is not
of files is sampled too. 10,000 records take a core some minutes. OUT gets memory.jsonl, a row a
stage.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

MONTHS = "January February March April May June July August September October November December"
TRADES = ("baker", "geologist", "teacher", "botanist", "nurse", "plumber", "lawyer", "painter")
SOUNDS = ("an", "bel", "cor", "del", "er", "fin", "gar", "hol", "in", "jor", "kel", "lin", "mar")


def people(count: int, seed: int = 0) -> Iterator[str]:
    """Records like the demo's, two wordings of each person: most of their words are rare."""
    rng = random.Random(seed)
    for number in range(count):
        if number % 2 == 0:
            first, last = ("".join(rng.choices(SOUNDS, k=3)).title() for _ in range(2))
            name, phone = f"{first} {last}", f"{rng.randrange(200, 999)}-555-{number % 10000:04d}"
            mail = f"{first}.{last}{rng.randrange(100)}@example.net".lower()
            day, month = rng.randrange(1, 29), rng.choice(MONTHS.split())
            born, trade = f"{month} {day}, {rng.randrange(1930, 2005)}", rng.choice(TRADES)
            yield (
                f"{name} was born on {born}. {name} works as a {trade}, and answers the phone at"
                f" {phone}. Online, {name} can be reached at {mail}."
            )
        else:
            yield (
                f"For a living, {name} is a {trade}. The phone of {name} is {phone}, and the mail"
                f" address is {mail}. {name} came into the world on {born}."
            )


def write_people(path: Path, count: int) -> Path:
    """A corpus of them."""
    with path.open("w", encoding="utf-8") as lines:
        for number, text in enumerate(people(count)):
            lines.write(json.dumps({"id": f"p{number}", "text": text}) + "\n")
    return path


class StagePeaks:
    """A progress that writes down the peak resident memory of each stage, in MB.

    Attributes:
        rows: of each stage its name, its peak, that without pages of files, and CPU seconds.
    """

    def __init__(self, stage: str) -> None:
        self.rows: list[tuple[str, float, float, float]] = []
        self._begin(stage)
        threading.Thread(target=self._sample, daemon=True).start()

    def say(self, message: str) -> None:
        """Nothing is shown."""

    def start(self, what: str, work: float | None) -> None:
        """Ends the stage before."""
        self.end()
        self._begin(what)

    def advance(self, work: float, records: int = 0, tokens: int = 0) -> None:
        """Nothing is shown."""

    def end(self) -> None:
        """Writes the last stage down."""
        seconds = time.process_time() - self._began
        self.rows.append((self._stage, status_mb("VmHWM"), self._anonymous, seconds))

    def _begin(self, stage: str) -> None:
        self._stage, self._began = stage, time.process_time()
        self._anonymous = status_mb("RssAnon")
        reset_peak()

    def _sample(self) -> None:
        while True:
            self._anonymous = max(self._anonymous, status_mb("RssAnon"))
            time.sleep(0.02)


def reset_peak() -> None:
    """Begin a new peak of this process's resident memory."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """The largest resident memory since then, in MB."""
    return status_mb("VmHWM")


def status_mb(name: str) -> float:
    """What Linux says of this process's memory, in MB."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


def measure_index(out: Path, count: int) -> None:
    """Index and calibrate one corpus."""
    import torch

    from haiftrace.checkpoint.load import load_checkpoint
    from haiftrace.completion import Completion, complete_index
    from haiftrace.corpus import CorpusSettings
    from haiftrace.demo.run import prepare
    from haiftrace.index.build import IndexSettings, build_index

    torch.set_num_threads(1)
    corpus = write_people(out / f"{count}.jsonl", count)
    path = out / f"index-{count}"
    peaks = StagePeaks("loading the checkpoint")
    checkpoint = load_checkpoint(str(prepare(out / "demo").model), device="cpu")
    build_index(checkpoint, CorpusSettings((str(corpus),)), IndexSettings(path), peaks)
    complete_index(path, checkpoint, Completion(), peaks)
    write_down(out, count, peaks)


def measure_trace(out: Path, count: int) -> None:
    """Trace one leak over that index, which goes."""
    import torch

    from haiftrace.tracing.settings import Leak, TraceSettings
    from haiftrace.tracing.tracer import open_tracer

    torch.set_num_threads(1)
    path = out / f"index-{count}"
    *_, last = people(min(count, 1000))
    prompt, _, answer = last.partition("The phone of ")
    leak = Leak(f"{prompt}The phone of {answer.partition(' is ')[0]}", answer.partition(" is ")[2])
    peaks = StagePeaks("opening the index")
    tracer = open_tracer(path, None, "cpu", 512 << 20)
    peaks.start("tracing", None)
    tracer.report([leak], TraceSettings(), peaks)
    peaks.start("tracing by words", None)
    tracer.report([leak], TraceSettings(method="bm25"), peaks)
    tracer.index.close()
    write_down(out, count, peaks)
    shutil.rmtree(path)


def write_down(out: Path, count: int, peaks: StagePeaks) -> None:
    """Adds the rows of memory.jsonl, and shows them."""
    peaks.end()
    disk = sum(f.stat().st_size for f in (out / f"index-{count}").rglob("*") if f.is_file())
    with (out / "memory.jsonl").open("a") as rows:
        for stage, peak, anonymous, seconds in peaks.rows:
            row = {"records": count, "stage": stage, "peak_mb": round(peak), "disk": disk}
            row |= {"anonymous_mb": round(anonymous), "cpu_seconds": round(seconds, 1)}
            rows.write(json.dumps(row) + "\n")
            print(
                f"{count:>9,} {stage:32} {peak:8,.0f} MB, {anonymous:8,.0f} not of files"
                f" {seconds:9,.1f} s of CPU",
                flush=True,
            )


STEPS = {"index": measure_index, "trace": measure_trace}


def run(out: Path, count: int) -> None:
    """All steps, each in a process of its own."""
    for step in STEPS:
        command = ["-m", "tests.index.memory_growth", out, "--records", count, "--step", step]
        subprocess.run([sys.executable, *map(str, command)], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.index.memory_growth")
    parser.add_argument("out", type=Path)
    parser.add_argument("--records", default="1000,10000")
    parser.add_argument("--step", choices=STEPS, help="this one alone, in this process")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for size in map(int, given.records.split(",")):
        if given.step is not None:
            STEPS[given.step](given.out, size)
        else:
            run(given.out, size)
