"""The bench: for each model the engine's operations by length, whole processes, and the peers."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from haiftrace.bench.harness.results import WORK_NAME, check_installed, check_out, versions
from haiftrace.bench.harness.stages import Stages
from haiftrace.bench.speed.clock import run_process
from haiftrace.bench.speed.models import SpeedModel, find_model
from haiftrace.bench.speed.operations import OperationSettings
from haiftrace.bench.speed.peers import PEERS, absent_peer, measure_peer, peer_versions
from haiftrace.bench.speed.processes import Processes, ProcessSettings
from haiftrace.device import DTYPES, choose_device
from haiftrace.errors import UsageError
from haiftrace.progress import Progress

CORPUS_TOKENS = 2**14
"""Tokens of a corpus that commands go over, at most; of larger models fewer (see `_records`)."""
SMALL = 20_000_000
"""Parameters of the largest model that is audited too, and whose full gradients are taken."""
_FILE = "measured.json"


@dataclass(frozen=True)
class SpeedSettings:
    """What to measure.

    Attributes:
        models: names of shapes or directories of checkpoints.
        lengths: tokens of a record, ascending.
        rounds: how often operations and processes take turns, at most.
        seconds: after which no further round of a length's operations begins.
        device, dtype: as `haiftrace.device` reads them; the commands choose their own dtype.
        threads: of a CPU.
        peer_python: the interpreter of an environment with the peers; none are run without it.
    """

    models: tuple[str, ...]
    lengths: tuple[int, ...]
    rounds: int = 5
    seconds: float = 60.0
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 1
    peer_python: str | None = None


@dataclass(frozen=True)
class SpeedOutcome:
    """All that was measured.

    Attributes:
        operations: by model and length, as `measure_operations` gives them.
        processes: by model and length, as `Processes.measure` gives them.
        peers: by model, length and peer, as `measure_peer` gives them.
        seconds: how long this run took.
    """

    settings: SpeedSettings
    operations: tuple[Mapping[str, Any], ...]
    processes: tuple[Mapping[str, Any], ...]
    peers: tuple[Mapping[str, Any], ...]
    seconds: float


def numbers(text: str) -> tuple[int, ...]:
    """`64,128` -> (64, 128), ascending and each once.

    Raises:
        UsageError: something else stands there.
    """
    try:
        return tuple(sorted({int(number) for number in text.split(",")}))
    except ValueError:
        raise UsageError(
            f"--lengths {text} are not numbers with commas between.", "Use for example 64,128,512."
        ) from None


def run_speed(settings: SpeedSettings, out: Path, progress: Progress) -> SpeedOutcome:
    """Measures what is not measured yet; finished stages below `out` are kept.

    Raises:
        UsageError: settings that make no sense.
        HaiftraceError: a process ended with an error.
        OutputError: `out` cannot be written or holds other things.
    """
    began = time.monotonic()
    _check(settings)
    python = settings.peer_python
    of_peers = peer_versions(python) if python else {}
    check_installed("matplotlib", "pandas")
    check_out(out)
    operations, processes, peers = [], [], []
    with Stages(out / WORK_NAME, versions("torch", "transformers"), progress) as stages:
        for name in settings.models:
            directory = out / WORK_NAME / ".model.tmp"
            shutil.rmtree(directory, ignore_errors=True)
            bench = _ModelBench(find_model(name, directory), name, settings, stages, progress)
            operations += [bench.operations(tokens) for tokens in settings.lengths]
            of_processes = [bench.processes(tokens) for tokens in settings.lengths]
            processes += of_processes
            if python:
                peers += [
                    bench.peer(
                        name,
                        of_peers[peer.distribution],
                        of_length["tokens"],
                        of_length["records"],
                    )
                    for of_length in of_processes
                    for name, peer in PEERS.items()
                ]
            shutil.rmtree(directory, ignore_errors=True)
    return SpeedOutcome(
        settings, tuple(operations), tuple(processes), tuple(peers), time.monotonic() - began
    )


class _ModelBench:
    """The stages of one model."""

    def __init__(
        self,
        model: SpeedModel,
        name: str,
        settings: SpeedSettings,
        stages: Stages,
        progress: Progress,
    ) -> None:
        self._model = model
        self._settings = settings
        self._stages = stages
        self._progress = progress
        self._parameters = _parameter_count(model.path)
        self._common = {
            "model": str(Path(name).resolve()) if Path(name).is_dir() else name,
            **{key: asdict(settings)[key] for key in ("rounds", "seconds", "device", "threads")},
        }

    def operations(self, tokens: int) -> Mapping[str, Any]:
        """Of the engine, on records of one length."""
        settings = OperationSettings(
            model=str(self._model.path),
            tokens=tokens,
            device=self._settings.device,
            dtype=self._settings.dtype,
            threads=self._settings.threads,
            rounds=self._settings.rounds,
            seconds=self._settings.seconds,
            full=self._parameters < SMALL or tokens <= 128,
        )

        def measure(directory: Path) -> Mapping[str, Any]:
            log = directory / "log.txt"
            module = "haiftrace.bench.speed.operations"
            command = [sys.executable, "-W", "ignore", "-m", module, json.dumps(asdict(settings))]
            run_process(command, settings.threads, log)
            measured: dict[str, Any] = json.loads(log.read_text("utf-8").splitlines()[-1])
            return {**measured, "model": self._model.name}

        return self._stage("operations", tokens, measure, dtype=settings.dtype)

    def processes(self, tokens: int) -> Mapping[str, Any]:
        """Commands over a corpus of records of one length."""
        device = str(choose_device(self._settings.device))
        settings = ProcessSettings(device, self._settings.threads, min(3, self._settings.rounds))
        records = _records(self._parameters, tokens)

        def measure(directory: Path) -> Mapping[str, Any]:
            processes = Processes(self._model, settings, directory)
            measured = processes.measure(tokens, records, audit=self._parameters < SMALL)
            return {"model": self._model.name, **measured}

        return self._stage("processes", tokens, measure, records=records)

    def peer(self, name: str, version: str | None, tokens: int, records: int) -> Mapping[str, Any]:
        """Another library over the same records; `version` is None where it is not installed."""
        python = self._settings.peer_python
        assert python is not None
        if version is None:
            return {"model": self._model.name, **absent_peer(name, tokens, records)}

        def measure(directory: Path) -> Mapping[str, Any]:
            measured = measure_peer(
                name, python, self._model.path, tokens, records, self._settings.threads, directory
            )
            return {"model": self._model.name, "version": version, **measured}

        about = {"python": python, "version": version, "what": PEERS[name].what}
        return self._stage(name, tokens, measure, records=records, **about)

    def _stage(
        self, name: str, tokens: int, measure: Callable[[Path], Mapping[str, Any]], **more: Any
    ) -> Mapping[str, Any]:
        def write(directory: Path) -> None:
            self._progress.start(f"{self._model.name}, {tokens} tokens: {name}", None)
            measured = measure(directory)
            for path in directory.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            (directory / _FILE).write_text(json.dumps(measured), encoding="utf-8")

        kept = self._stages.stage(name, {**self._common, "tokens": tokens, **more}, write)
        measured: dict[str, Any] = json.loads((kept.path / _FILE).read_text("utf-8"))
        return measured


def _records(parameters: int, tokens: int) -> int:
    """Records of a corpus that take about as long to index whatever the model's size."""
    affordable = CORPUS_TOKENS * min(1.0, 1e7 / parameters) ** 0.5
    return max(4, round(affordable / tokens))


def _parameter_count(path: Path) -> int:
    """Numbers in the weights of a directory, by the headers of its files."""
    from math import prod

    from safetensors import safe_open

    total = 0
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="np") as weights:
            names = weights.keys()
            total += sum(prod(weights.get_slice(name).get_shape()) for name in names)
    return total


def _check(settings: SpeedSettings) -> None:
    if not settings.models or not settings.lengths:
        raise UsageError("Nothing to measure.", "Give --models and --lengths.")
    if min(settings.lengths) < 16:
        raise UsageError("--lengths are of 16 tokens at least.", "Use for example 64,128,512.")
    if settings.dtype not in DTYPES:
        raise UsageError(
            f"No such dtype: {settings.dtype!r}.", f"Choose one of {', '.join(DTYPES)}."
        )
    choose_device(settings.device)
