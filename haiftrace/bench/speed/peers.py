"""Other libraries over the same checkpoint and records, as whole processes of their environment."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haiftrace.bench.speed.clock import ProcessCost, ProcessFailure, run_process
from haiftrace.bench.speed.models import write_corpus
from haiftrace.errors import UsageError

NOT_INSTALLED = "not installed"
_KRONFLUENCE = Path(__file__).with_name("kronfluence_factors.py")
_DATTRI = Path(__file__).with_name("dattri_dots.py")
_LONGEST = 80
# An absolute path up to its last part; not the slashes of an address.
_DIRECTORIES = re.compile(r"(?<![\w:/.])/(?:[^\s/'\"]+/)+")
_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
versions = {}
for name in sys.argv[1:]:
    try:
        versions[name] = version(name)
    except PackageNotFoundError:
        versions[name] = None
print(json.dumps(versions))
"""


@dataclass(frozen=True)
class PeerRun:
    """What a peer's command goes over.

    Attributes:
        python: the interpreter of the peer's environment.
        model: the checkpoint.
        corpus, query: JSONL files with a field `text`; the query is the corpus's first record.
        tokens: of a record.
        kept: an empty directory for what the command keeps.
        set_up: a directory that does not exist yet, for what `Peer.set_up` makes.
    """

    python: str
    model: Path
    corpus: Path
    query: Path
    tokens: int
    kept: Path
    set_up: Path


Command = Callable[[PeerRun], Sequence[str]]


@dataclass(frozen=True)
class Peer:
    """One command of another library.

    Attributes:
        title: library and command, for the table.
        distribution: the package that must be installed.
        what: it computes.
        command: that is measured.
        set_up: that has to run before, measured apart.
    """

    title: str
    distribution: str
    what: str
    command: Command
    set_up: Command | None = None


def _bergson(run: PeerRun, command: str, out: Path, dataset: Path) -> Sequence[str]:
    return (
        *(run.python, "-m", "bergson", command, str(out), "--model", str(run.model)),
        *("--dataset", str(dataset), "--projection_dim", "16", "--nproc_per_node", "1"),
        *("--token_batch_size", str(max(run.tokens, 1024))),
    )


def _bergson_build(run: PeerRun) -> Sequence[str]:
    return (*_bergson(run, "build", run.kept / "built", run.corpus), "--precision", "fp32")


def _bergson_query(run: PeerRun) -> Sequence[str]:
    return (*_bergson(run, "build", run.set_up, run.query), "--precision", "fp32")


def _bergson_score(run: PeerRun) -> Sequence[str]:
    return (
        *_bergson(run, "score", run.kept / "scores", run.corpus),
        *("--query_path", str(run.set_up), "--index_cfg.precision", "fp32"),
    )


def _script(path: Path) -> Command:
    return lambda run: (run.python, str(path), str(run.model), str(run.corpus), str(run.kept))


PEERS: Mapping[str, Peer] = {
    "bergson-build": Peer(
        "bergson build",
        "bergson",
        "keeps each record's gradient, 16 × 16 of a linear map",
        _bergson_build,
    ),
    "bergson-score": Peer(
        "bergson score",
        "bergson",
        "scores of one query, 16 × 16 of a linear map",
        _bergson_score,
        _bergson_query,
    ),
    "kronfluence": Peer(
        "kronfluence",
        "kronfluence",
        "EK-FAC factors and scores of one query, not projected",
        _script(_KRONFLUENCE),
    ),
    "dattri-llm": Peer(
        "dattri-llm",
        "dattri-llm",
        "scores of one query, gradient dots, not projected",
        _script(_DATTRI),
    ),
}
DISTRIBUTIONS = tuple(dict.fromkeys(peer.distribution for peer in PEERS.values()))


def peer_versions(python: str) -> Mapping[str, str | None]:
    """The version of each of `DISTRIBUTIONS` in an interpreter's environment, None where absent.

    Raises:
        UsageError: the interpreter does not run.
    """
    try:
        asked = subprocess.run(
            [python, "-c", _VERSIONS, *DISTRIBUTIONS], capture_output=True, check=True
        )
        versions: dict[str, str | None] = json.loads(asked.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        raise UsageError(
            f"--peer-python {python} cannot be run.",
            f"Give the interpreter of an environment with {', '.join(DISTRIBUTIONS)},"
            " or with some of them.",
        ) from None
    return versions


def absent_peer(name: str, tokens: int, records: int) -> Mapping[str, Any]:
    """The row of a peer that is not installed."""
    return {**_about(name, tokens, records), "version": None, "error": NOT_INSTALLED}


def measure_peer(
    name: str,
    python: str,
    model: Path,
    tokens: int,
    records: int,
    threads: int,
    directory: Path,
) -> Mapping[str, Any]:
    """What one peer takes for the corpus that `Processes.measure` indexes.

    Returns:
        peer, title, what, records, tokens, and cpu_seconds, wall_seconds, peak_megabytes,
        megabytes (of what it keeps), set_up (the same three figures, where it needs one), or an
        `error` in a few words where it fails on this model.
    """
    peer, about = PEERS[name], _about(name, tokens, records)
    corpus, query, kept = (directory / part for part in ("corpus.jsonl", "query.jsonl", "kept"))
    write_corpus(model, tokens, records, corpus)
    with corpus.open(encoding="utf-8") as lines:
        query.write_text(next(lines), encoding="utf-8")
    kept.mkdir()
    run = PeerRun(python, model, corpus, query, tokens, kept, directory / "set-up")
    log = directory / "log.txt"
    try:
        if peer.set_up is not None:
            about["set_up"] = _figures(run_process(peer.set_up(run), threads, log))
        cost = run_process(peer.command(run), threads, log)
    except ProcessFailure as failure:
        return {**about, "error": short_failure(failure)}
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    return {**about, **_figures(cost), "megabytes": size / 2**20}


def short_failure(failure: ProcessFailure) -> str:
    """A process's last line without the machine's directories, in at most 80 characters."""
    if failure.status < 0:
        return f"ended by signal {-failure.status}"
    line = _DIRECTORIES.sub("", failure.last_line) or f"status {failure.status}, no message"
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1].rstrip() + "…"


def _about(name: str, tokens: int, records: int) -> dict[str, Any]:
    peer = PEERS[name]
    about = {"peer": name, "title": peer.title, "what": peer.what}
    return {**about, "records": records, "tokens": tokens}


def _figures(cost: ProcessCost) -> dict[str, float]:
    return {
        "cpu_seconds": cost.cpu_seconds,
        "wall_seconds": cost.wall_seconds,
        "peak_megabytes": cost.peak_bytes / 2**20,
    }
