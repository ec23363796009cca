"""Other libraries over the same checkpoint and records, as whole processes of their environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haiftrace.bench.speed.clock import run_process
from haiftrace.bench.speed.models import write_corpus
from haiftrace.errors import HaiftraceError

_KRONFLUENCE = Path(__file__).with_name("kronfluence_factors.py")


@dataclass(frozen=True)
class Peer:
    """One command of another library.

    Attributes:
        what: it computes, for the table.
        command: (python, model, corpus, tokens, directory) -> the process.
    """

    what: str
    command: Callable[[str, Path, Path, int, Path], Sequence[str]]


def _bergson(python: str, model: Path, corpus: Path, tokens: int, out: Path) -> Sequence[str]:
    return (
        *(python, "-m", "bergson", "build", str(out / "built"), "--model", str(model)),
        *("--dataset", str(corpus), "--projection_dim", "16", "--nproc_per_node", "1"),
        *("--token_batch_size", str(max(tokens, 1024)), "--precision", "fp32"),
    )


def _kronfluence(python: str, model: Path, corpus: Path, tokens: int, out: Path) -> Sequence[str]:
    return (python, str(_KRONFLUENCE), str(model), str(corpus), str(out))


PEERS: Mapping[str, Peer] = {
    "bergson": Peer(
        "bergson build: a gradient a record, 16 × 16 numbers of every linear map", _bergson
    ),
    "kronfluence": Peer(
        "kronfluence: EK-FAC factors of the linear maps, scores of one query", _kronfluence
    ),
}


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
        peer, what, records, tokens, and cpu_seconds, wall_seconds, peak_megabytes, megabytes (of
        what it keeps), or an `error` where it fails on this model.
    """
    peer = PEERS[name]
    corpus = directory / "corpus.jsonl"
    write_corpus(model, tokens, records, corpus)
    about = {"peer": name, "what": peer.what, "records": records, "tokens": tokens}
    out = directory / "out"
    out.mkdir()
    command = peer.command(python, model, corpus, tokens, out)
    try:
        cost = run_process(command, threads, directory / "log.txt")
    except HaiftraceError as error:
        return {**about, "error": error.message[-300:]}
    kept = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {
        **about,
        "cpu_seconds": cost.cpu_seconds,
        "wall_seconds": cost.wall_seconds,
        "peak_megabytes": cost.peak_bytes / 2**20,
        "megabytes": kept / 2**20,
    }
