"""What an index of up to 100,000 records costs: look-ups of values, disk, memory.

A corpus is the demo's kind of records, on ever other people; the demo's checkpoint, of 0.3 million
parameters, saw none of them. It is indexed and a value is traced by the command line, each in a
process of its own, whose largest memory counts. Then values of every kind are looked up, each in
the records' spelling and in another, and what is found is compared with what reading every record
finds.

`python -m tests.bench.lookup_scale OUT [--records 1000,10000,100000] [--controls 0] [--values 60]
[--token-vectors 2048]`: OUT is a directory for the corpora and indexes, and for costs.jsonl.
100,000 records take one core half an hour, or a third of that without token vectors (0), which
look-ups do not need; no value is traced then.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import haiftrace.demo
from haiftrace.privacy import ValueIndex
from haiftrace.scoring.holder_search import VALUE_KEYS, HolderSearch
from haiftrace.store import Index
from tests.bench.shortlist_scale import numbers
from tests.generators.demo_subjects import Question, make_subjects

CHECKPOINT = Path(haiftrace.demo.__file__).parent / "assets" / "checkpoint"
FIRST_SEED = 100
"""Of the people; the demo's own are of seed 7."""


def people() -> Iterator[tuple[str, list[Question]]]:
    """Texts without end; with each the questions that it answers word for word."""
    for seed in itertools.count(FIRST_SEED):
        records, questions = make_subjects(seed)
        for record in records:
            yield record.text, [q for q in questions if q.verbatim and record.id in q.records]


def write_corpus(path: Path, records: int) -> list[tuple[str, str]]:
    """A corpus, and the (kind, value) pairs that stand in it, each once, in its order."""
    values: dict[tuple[str, str], None] = {}
    with path.open("w", encoding="utf-8") as lines:
        for number, (text, questions) in enumerate(itertools.islice(people(), records)):
            lines.write(json.dumps({"id": f"r{number}", "text": text}) + "\n")
            values.update({(q.attribute, q.answer): None for q in questions})
    return list(values)


def respelled(kind: str, value: str) -> str:
    """Another spelling that counts as the same value."""
    if kind == "phone":
        return "+1 ({}) {} {}".format(*value.split("-"))
    if kind == "birth":
        month, day, year = value.replace(",", "").split()
        return f"{int(day):02d} {month[:3].upper()} {year}"
    return value.upper().replace("@", " @ ")


@dataclass(frozen=True)
class Run:
    """A command in a process of its own: its seconds of CPU time and its largest memory."""

    cpu_seconds: float
    peak_bytes: int


def measured(*arguments: object) -> Run:
    """`haiftrace ARGUMENTS`. Exit codes of a finding are as good as 0."""
    command = [sys.executable, "-m", "haiftrace", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1, 3):
        raise subprocess.CalledProcessError(process.returncode, command)
    return Run(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def size_of(path: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())


def look_up(path: Path, wanted: Sequence[str]) -> dict[str, Any]:
    """Milliseconds of CPU time: of the first look-up, of each further, of all in one call.

    Raises:
        AssertionError: what is found is not what reading every record finds.
    """
    with Index.open(path, verify=False) as index:
        search = HolderSearch(index)
        began = time.process_time()
        search.records(wanted[:1])
        first = time.process_time() - began
        times, holders = [], []
        for value in wanted:
            began = time.process_time()
            holders += search.records([value])
            times.append(time.process_time() - began)
        began = time.process_time()
        together = HolderSearch(index).records(wanted)
        all_at_once = time.process_time() - began
        assert together == holders
        assert holders == read_all(index, wanted)
    milliseconds = 1000 * np.array(times)
    return {
        "first_ms": round(1000 * first, 1),
        "median_ms": round(float(np.median(milliseconds)), 2),
        "largest_ms": round(float(milliseconds.max()), 2),
        "together_ms": round(1000 * all_at_once, 1),
        "values": len(wanted),
        "holders": sum(map(len, holders)),
        "without_holder": sum(not records for records in holders),
    }


def read_all(index: Index, values: Sequence[str]) -> list[list[int]]:
    """The holders by reading every record."""
    holders: list[set[int]] = [set() for _ in values]
    matching = ValueIndex(values)
    for window in index.iter_windows():
        for match in matching.find(window.text, words=True):
            holders[match.value].add(window.record)
    return [sorted(records) for records in holders]


def costs(
    out: Path, records: int, controls: int, values: int, vectors: int = 2048
) -> dict[str, Any]:
    """A row of costs.jsonl."""
    corpus, path = out / f"corpus-{records}.jsonl", out / f"index-{records}"
    held = write_corpus(corpus, records)
    shutil.rmtree(path, ignore_errors=True)
    indexed = measured(
        *("index", "--model", CHECKPOINT, "--corpus", corpus, "-o", path),
        *("--calibrate", controls, "--token-vectors", vectors),
    )
    chosen = random.Random(records).sample(held, min(values, len(held)))
    phone = next(value for kind, value in held if kind == "phone")
    trace: dict[str, Any] = {}
    if vectors:
        traced = measured("trace", "Call", "--response", f" me on {phone}.", "--index", path)
        trace["trace_cpu_seconds"] = round(traced.cpu_seconds, 1)
        trace["trace_peak_mb"] = round(traced.peak_bytes / 1e6)
    spelled = [value for _, value in chosen] + [respelled(*pair) for pair in chosen]
    return {
        "records": records,
        "controls": controls,
        "token_vectors": vectors,
        "characters_a_record": round(corpus.stat().st_size / records),
        "index_cpu_seconds": round(indexed.cpu_seconds),
        "index_peak_mb": round(indexed.peak_bytes / 1e6),
        **trace,
        "index_mb": round(size_of(path) / 1e6, 1),
        "keys_mb": round(size_of(path / "supplements" / VALUE_KEYS) / 1e6, 2),
        **look_up(path, spelled),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.lookup_scale")
    parser.add_argument("out", type=Path)
    parser.add_argument("--records", type=numbers, default=[1000, 10_000, 100_000])
    parser.add_argument("--controls", type=int, default=0)
    parser.add_argument("--values", type=int, default=60)
    parser.add_argument("--token-vectors", type=int, default=2048)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "costs.jsonl").open("a", encoding="utf-8") as file:
        for records in options.records:
            row = costs(
                options.out, records, options.controls, options.values, options.token_vectors
            )
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
