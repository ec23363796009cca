"""Whole processes as a user starts them: index, trace, audit, beside a training epoch."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haiftrace.bench.speed.clock import ProcessCost, Spread, run_process
from haiftrace.bench.speed.models import SpeedModel, write_corpus, write_probes

PROBES = 100
PROMPT_WORDS = 8
CANDIDATES = 32
HELP, EPOCH, INDEX = "haiftrace --help", "training epoch", "index"
CALIBRATE, TRACE, AUDIT = "index --calibrate", "trace", f"trace --prompts, {PROBES} probes"


@dataclass(frozen=True)
class ProcessSettings:
    """How commands are run.

    Attributes:
        device: as `haiftrace.device` reads it.
        threads: of a CPU.
        rounds: how often index and epoch take turns.
    """

    device: str
    threads: int
    rounds: int


class Processes:
    """Runs the commands on one model and corpus in a directory.

    Args:
        directory: an empty one, for the corpus, the indexes and the logs.
    """

    def __init__(self, model: SpeedModel, settings: ProcessSettings, directory: Path) -> None:
        self._model = model
        self._settings = settings
        self._directory = directory

    def measure(self, tokens: int, records: int, audit: bool) -> dict[str, Any]:
        """What each command takes for a corpus of `records` records of `tokens` tokens.

        Args:
            audit: whether the index is calibrated and audited too, which takes some times as long.

        Returns:
            processes: by command, medians of CPU and wall seconds and the greatest peak of memory;
            index_per_epoch: of CPU seconds, by round; steps: of one trace, in seconds;
            bytes_a_token, label_tokens.
        """
        corpus, probes = self._directory / "corpus.jsonl", self._directory / "probes.jsonl"
        write_corpus(self._model.path, tokens, records, corpus)
        write_probes(corpus, PROBES, PROMPT_WORDS, probes)
        index = self._directory / "index"
        costs: dict[str, list[ProcessCost]] = {HELP: [self._haiftrace("--help")]}
        for _ in range(self._settings.rounds):
            costs.setdefault(EPOCH, []).append(self._epoch(corpus))
            shutil.rmtree(index, ignore_errors=True)
            costs.setdefault(INDEX, []).append(self._index(corpus, index))
        if audit:
            costs[CALIBRATE] = [
                self._haiftrace("index", "-o", str(index), "--calibrate", "200", *self._run())
            ]
            costs[AUDIT] = [self._trace(index, "--prompts", str(probes))]
        first = json.loads(probes.read_text("utf-8").splitlines()[0])
        costs[TRACE] = [self._trace(index, first["prompt"], "--response", first["response"])]
        steps = self._steps(index, probes)
        manifest = json.loads((index / "manifest.json").read_text("utf-8"))
        label_tokens = manifest["totals"]["label_tokens"]
        size = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
        return {
            "records": records,
            "tokens": tokens,
            "label_tokens": label_tokens,
            "processes": {name: _row(each) for name, each in costs.items()},
            "index_per_epoch": Spread.of(
                [
                    index.cpu_seconds / epoch.cpu_seconds
                    for index, epoch in zip(costs[INDEX], costs[EPOCH], strict=True)
                ]
            ).row(),
            "steps": steps,
            "bytes_a_token": size / label_tokens,
        }

    def _epoch(self, corpus: Path) -> ProcessCost:
        threads, device = str(self._settings.threads), self._settings.device
        module = "haiftrace.bench.speed.epoch"
        return self._python("-m", module, str(self._model.path), str(corpus), threads, device)

    def _index(self, corpus: Path, index: Path) -> ProcessCost:
        return self._haiftrace(
            *("index", "--model", str(self._model.path), "--corpus", str(corpus)),
            *("-o", str(index), "--calibrate", "0", *self._run()),
        )

    def _trace(self, index: Path, *asked: str) -> ProcessCost:
        return self._haiftrace(
            "trace", *asked, "--index", str(index), *self._run(), status=(0, 1, 3)
        )

    def _steps(self, index: Path, probes: Path) -> dict[str, float]:
        settings = self._settings
        log = self._directory / "steps.log"
        command = ["-m", "haiftrace.bench.speed.trace_steps", str(index), str(self._model.path)]
        command += [str(probes), str(settings.threads), settings.device, str(CANDIDATES)]
        run_process([sys.executable, "-W", "ignore", *command], settings.threads, log)
        steps: dict[str, float] = json.loads(log.read_text("utf-8").splitlines()[-1])
        return steps

    def _run(self) -> Sequence[str]:
        return ("--device", self._settings.device, "--quiet")

    def _haiftrace(self, *arguments: str, status: Sequence[int] = (0,)) -> ProcessCost:
        return self._python("-m", "haiftrace", *arguments, status=status)

    def _python(self, *arguments: str, status: Sequence[int] = (0,)) -> ProcessCost:
        log = self._directory / "process.log"
        return run_process([sys.executable, *arguments], self._settings.threads, log, status)


def _row(costs: Sequence[ProcessCost]) -> dict[str, float]:
    return {
        "cpu_seconds": Spread.of([cost.cpu_seconds for cost in costs]).median,
        "wall_seconds": Spread.of([cost.wall_seconds for cost in costs]).median,
        "peak_megabytes": max(cost.peak_bytes for cost in costs) / 2**20,
        "runs": len(costs),
    }
