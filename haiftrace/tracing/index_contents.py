"""What an index holds, how it was made, and what can be traced over it: from its manifest alone.

Neither the checkpoint nor torch is needed, but for the power of a calibration, whose samples are
read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from haiftrace.calibration.null_distribution import (
    ALPHA,
    FORMAT,
    calibration_name,
    read_samples,
)
from haiftrace.methods import METHODS, Method
from haiftrace.scoring.gradient.norms import norm_supplements
from haiftrace.scoring.gradient.stored_factors import SUPPLEMENT as FACTORS
from haiftrace.scoring.holder_search import VALUE_KEYS
from haiftrace.scoring.trajectory.sums import SUPPLEMENT as ATTIF_NORMS
from haiftrace.store import Index

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Calibration:
    """The control queries that a method's verdicts compare with.

    Attributes:
        controls: how many have a null sample.
        alpha: the error rate at which the power is given.
        power: share of the controls with their source there that clear alpha, by tokens of the
            response; empty where they are too few for that.
        current: whether this version of haiftrace can use them.
    """

    controls: int
    alpha: float
    power: dict[int, float]
    current: bool = True


@dataclass(frozen=True)
class MethodState:
    """What a trace by a method finds in the index.

    Attributes:
        name: of the method.
        kept, missing: the supplements that it uses, those here and those that a trace computes
            for its candidates.
        needs: what a trace must be given beside the index; "" for nothing.
        calibration: None without one.
        verdicts: whether the method has verdicts at all.
    """

    name: str
    kept: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    needs: str = ""
    calibration: Calibration | None = None
    verdicts: bool = True


@dataclass(frozen=True)
class IndexContents:
    """All of it.

    Attributes:
        path: of the index.
        format_version, tool_version, created, finished: of its manifest.
        model: path, base (of an adapter), architecture, parameters, traced_parameters, dtype,
            fingerprint, tokenizer, and whether it is where it was.
        corpus: paths, appended paths, fingerprint, and how it was read.
        counts: records, windows, label_tokens, left_out, bad, dropped.
        settings: what changes the index's numbers.
        methods: the state of each.
        bytes_by_part: of its files.
        seconds: that indexing took, of the run that completed it; None where it does not say.
        resumed: whether earlier runs had done a part.
    """

    path: str
    format_version: int
    tool_version: str
    created: str
    finished: str | None
    model: dict[str, Any]
    corpus: dict[str, Any]
    counts: dict[str, int]
    settings: dict[str, Any]
    methods: tuple[MethodState, ...]
    bytes_by_part: dict[str, int]
    seconds: float | None = None
    resumed: bool = False
    schema_version: int = SCHEMA_VERSION

    @property
    def size(self) -> int:
        """Bytes of all files that the manifest names."""
        return sum(self.bytes_by_part.values())

    @property
    def bytes_per_token(self) -> float:
        """Bytes a label token, supplements included."""
        return self.size / max(1, self.counts["label_tokens"])

    def as_dict(self) -> dict[str, Any]:
        """As `haiftrace show --json` writes it."""
        costs = {"bytes": self.size, "bytes_per_token": round(self.bytes_per_token, 1)}
        return {**asdict(self), **costs}


def index_contents(index: Index) -> IndexContents:
    """What an opened index holds."""
    manifest, settings = index.manifest, dict(index.settings)
    corpus = dict(settings.pop("corpus"))
    model_path = settings.pop("model_path")
    base = settings.pop("base_model", None)
    extra = manifest.extra
    return IndexContents(
        path=index.place,
        format_version=manifest.format_version,
        tool_version=manifest.tool_version,
        created=manifest.created,
        finished=manifest.finished,
        model={
            "path": model_path,
            "base": base,
            **manifest.model,
            "dtype": settings.pop("dtype"),
            "fingerprint": index.fingerprints["weights"],
            "tokenizer": index.fingerprints["tokenizer"],
            "there": Path(model_path).exists(),
        },
        corpus={
            "paths": corpus.pop("paths"),
            "appended": [path for each in manifest.appended for path in each.paths],
            "fingerprint": index.fingerprints["corpus"],
            **corpus,
        },
        counts={
            **asdict(manifest.totals),
            "left_out": int(extra.get("left_out", 0)),
            "bad": int(extra.get("bad", 0)),
            "dropped": len(manifest.dropped),
        },
        settings=settings,
        methods=tuple(_state(index, method) for method in METHODS.values()),
        bytes_by_part=dict(_parts(index)),
        seconds=extra.get("seconds"),
        resumed=bool(extra.get("resumed", False)),
    )


def _state(index: Index, method: Method) -> MethodState:
    wanted = list(norm_supplements(method))
    if method.curvature == FACTORS:
        wanted.insert(0, FACTORS)
    if method.follows_run and method.adjusted:
        wanted.append(ATTIF_NORMS)
    kept = tuple(name for name in wanted if index.supplement(name) is not None)
    return MethodState(
        method.name,
        kept,
        tuple(name for name in wanted if name not in kept),
        "--checkpoints" if method.follows_run else "",
        _calibration(index, method),
        method.has_verdicts and method.no_calibration is None,
    )


def _calibration(index: Index, method: Method) -> Calibration | None:
    entry = index.supplement(calibration_name(method.name))
    if entry is None:
        return None
    if entry.settings.get("format") != FORMAT:
        return Calibration(int(entry.settings.get("controls", 0)), ALPHA, {}, current=False)
    samples = read_samples(index, method.name)
    return Calibration(samples.count, ALPHA, samples.powers())


def _parts(index: Index) -> Iterator[tuple[str, int]]:
    """The bytes of each part of the index, by its name."""
    manifest = index.manifest
    yield "records", sum(shard.records.bytes for shard in manifest.shards)
    if manifest.token_faiss is not None:
        yield "token vectors", manifest.token_faiss.bytes
    for name, entry in sorted(manifest.supplements.items()):
        shown = "value look-up" if name == VALUE_KEYS else name
        yield shown, sum(file.bytes for file in entry.files)
