"""Use case: query × index × method -> findings. FAISS proposes, exact forward mode disposes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haiftrace import __version__
from haiftrace import corpus as corpora
from haiftrace.corpus import CorpusSettings
from haiftrace.errors import CorpusError, StaleIndexError, UsageError
from haiftrace.findings import (
    Finding,
    IndexInfo,
    ModelInfo,
    RecordEvidence,
    Report,
    ResponseToken,
    Source,
    TokenEvidence,
)
from haiftrace.methods import DEFAULT_METHOD, Method, WindowNorms, find_method
from haiftrace.progress import Progress
from haiftrace.query import Asking, Query, ask, given
from haiftrace.store import Index, StoredWindow

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.checkpoint import Checkpoint
    from haiftrace.engine import GradientEngine

BATCH_TOKENS = {"cpu": 512, "cuda": 8192}
"""Padded tokens of one batch of windows to be scored."""

READ_AHEAD = 256
"""Windows read together, of which those of like length share a batch."""

WEAK_LOSS = 3.0
"""Mean loss in nats above which the model would hardly say the response (under 5 % a token)."""


@dataclass(frozen=True)
class TraceSettings:
    """What to trace with.

    Attributes:
        method: name in the registry.
        candidates: windows that the search proposes for exact scoring.
        exact: score every window instead.
        top: records in the result.
        asking: how prompt and response become one string.
    """

    method: str = DEFAULT_METHOD
    candidates: int = 256
    exact: bool = False
    top: int = 10
    asking: Asking = field(default_factory=Asking)


@dataclass(frozen=True)
class Leak:
    """A prompt and, where it is known, the response to be traced and the part of it."""

    prompt: str
    response: str | None = None
    span: str | None = None


@dataclass(frozen=True)
class _Scored:
    window: StoredWindow
    score: float
    cosine: float
    evidence: np.ndarray


class Tracer:
    """An index and its checkpoint, opened together for one trace or several.

    Args:
        index: the opened index.
        checkpoint: the model it was made from.

    Raises:
        StaleIndexError: the index was made from another checkpoint, tokenizer or corpus.
    """

    def __init__(self, index: Index, checkpoint: Checkpoint, memory: int = 512 << 20) -> None:
        from haiftrace.engine import GradientEngine
        from haiftrace.scopes import select_parameters

        _check_fresh(index, checkpoint)
        self.notes = _check_corpus(index)
        self.index = index
        self.checkpoint = checkpoint
        names = select_parameters(checkpoint.model, index.settings["scope"])
        self.engine: GradientEngine = GradientEngine(checkpoint.model, names, memory)

    def report(
        self, leaks: Sequence[Leak], settings: TraceSettings, progress: Progress, command: str = ""
    ) -> Report:
        """Traces each leak. Raises UsageError for a leak that cannot be traced."""
        began = time.monotonic()
        findings = tuple(self.trace(leak, settings, progress) for leak in leaks)
        index, checkpoint = self.index, self.checkpoint
        about = index.manifest.model
        totals = index.manifest.totals
        return Report(
            model=ModelInfo(
                path=str(checkpoint.path),
                architecture=checkpoint.architecture,
                parameters=checkpoint.parameters,
                traced_parameters=about["traced_parameters"],
                dtype=checkpoint.dtype,
                fingerprint=checkpoint.fingerprint,
            ),
            index=IndexInfo(
                path=str(index.path),
                records=totals.records,
                windows=totals.windows,
                tokens=totals.label_tokens,
                scope=index.settings["scope"],
                corpus_fingerprint=index.fingerprints["corpus"],
            ),
            findings=findings,
            tool_version=__version__,
            command=command,
            seconds=time.monotonic() - began,
            settings={
                "method": settings.method,
                "candidates": settings.candidates,
                "exact": settings.exact,
                "top": settings.top,
            },
        )

    def trace(self, leak: Leak, settings: TraceSettings, progress: Progress) -> Finding:
        """One leak: the records that made the response likelier, best first."""
        from haiftrace.engine import make_batch

        method = find_method(settings.method)
        if settings.candidates < 1 or settings.top < 1:
            raise UsageError("--candidates and --top take a number of at least 1.")
        asking = settings.asking
        if leak.response is None:
            query = ask(self.checkpoint, leak.prompt, asking, leak.span)
        else:
            query = given(self.checkpoint, leak.prompt, leak.response, asking, leak.span)
        batch = make_batch([query.token_ids], [query.labels], self.engine.device)
        losses = self.engine.losses(batch)[0]
        weights_BT = batch.labels_BT.double() / batch.labels_BT.sum()
        mean_loss = float((losses * weights_BT[0]).sum())
        gradient = self.engine.gradient(batch, weights_BT)
        query_norm = sum(float(g.double().pow(2).sum()) for g in gradient.values()) ** 0.5
        rows, notes = self._candidates(gradient, method, settings)
        best = self._score(rows, gradient, query_norm, method, settings.top, progress)
        return Finding(
            prompt=query.prompt,
            response=query.response,
            method=method.name,
            records=tuple(_record(rank, scored) for rank, scored in enumerate(best, start=1)),
            response_tokens=_response_tokens(query, losses),
            mean_loss=mean_loss,
            generated=query.generated,
            span=query.span,
            exhaustive=len(rows) == len(self.index),
            scored=len(rows),
            notes=(*self.notes, *self.engine.notes, *query.notes, *notes, *_weakness(mean_loss)),
        )

    def _candidates(
        self, gradient: dict[str, Tensor], method: Method, settings: TraceSettings
    ) -> tuple[np.ndarray, list[str]]:
        """Rows to be scored exactly, in ascending order, and what to say of them."""
        everything = np.arange(len(self.index))
        if settings.exact or settings.candidates >= len(everything):
            return everything, []
        column = method.shortlist_column
        if column is None:
            note = f"the index holds no vector that fits {method.name}: every record was scored"
            return everything, [note]
        layout = self.index.layout
        projector = self.engine.projector(layout.projection_dim, self.index.settings["seed"])
        vector = self.engine.project(gradient, projector)
        # Only ranks matter; a unit vector keeps tiny gradients within float32.
        vector = (vector.double() / vector.double().norm().clamp_min(1e-300)).float().cpu().numpy()
        if column:
            products = self.index.vectors_inner_products(vector) * self.index.column(column)
            rows = np.argsort(-products, kind="stable")[: settings.candidates]
        else:
            rows, _ = self.index.shortlist(vector, settings.candidates)
        return np.sort(rows), []

    def _score(
        self,
        rows: np.ndarray,
        gradient: dict[str, Tensor],
        query_norm: float,
        method: Method,
        top: int,
        progress: Progress,
    ) -> list[_Scored]:
        """The `top` best records by their best window, exact; memory holds about twice as many."""
        best: dict[int, _Scored] = {}
        # A unit direction keeps the products of tiny gradients within the model's precision.
        direction = {
            name: (grad.double() / max(query_norm, 1e-300)).to(grad.dtype)
            for name, grad in gradient.items()
        }
        progress.start("scoring", float(len(rows)))
        for windows in self._batches(rows):
            for scored in self._exact(windows, direction, query_norm, method):
                known = best.get(scored.window.record)
                if known is None or scored.score > known.score:
                    best[scored.window.record] = scored
            if len(best) > 2 * top + 64:
                best = dict(sorted(best.items(), key=_order)[:top])
            progress.advance(
                len(windows), records=len(windows), tokens=sum(len(w.token_ids) for w in windows)
            )
        return [scored for _, scored in sorted(best.items(), key=_order)[:top]]

    def _batches(self, rows: np.ndarray) -> Iterator[list[StoredWindow]]:
        """Windows of like length together, so that little is padded; a shard is read once."""
        most = BATCH_TOKENS[self.engine.device.type]
        for start in range(0, len(rows), READ_AHEAD):
            batch: list[StoredWindow] = []
            near = self.index.iter_windows(rows[start : start + READ_AHEAD])
            for window in sorted(near, key=lambda w: len(w.token_ids)):
                if batch and (len(batch) + 1) * len(window.token_ids) > most:
                    yield batch
                    batch = []
                batch.append(window)
            yield batch

    def _exact(
        self,
        windows: list[StoredWindow],
        direction: dict[str, Tensor],
        query_norm: float,
        method: Method,
    ) -> Iterator[_Scored]:
        from haiftrace.engine import make_batch

        ids, labels = [w.token_ids for w in windows], [w.labels for w in windows]
        batch = make_batch(ids, labels, self.engine.device)
        _, dots_QBT = self.engine.directional(batch, [direction])
        dots_BT = dots_QBT[0].cpu().numpy() * query_norm
        for window, dots_T in zip(windows, dots_BT, strict=True):
            norms = WindowNorms(
                labels=np.asarray(window.labels),
                token_norms=window.token_grad_norm,
                grad_norm=window.grad_norm,
                haif_norm=window.haif_norm,
            )
            evidence = method.evidence(dots_T[: len(window.token_ids)], norms, query_norm)
            score = float(evidence.sum())
            yield _Scored(window, score, method.cosine(score, norms, query_norm), evidence)


def open_tracer(index: str | Path, model: str | None, device: str) -> Tracer:
    """Opens an index and the checkpoint it was made from, or the one given instead.

    Raises:
        HaiftraceError: either cannot be opened, or they do not belong together.
    """
    opened = Index.open(index, verify=False)
    from haiftrace.checkpoint import checkpoint_fingerprint, load_checkpoint

    path = model or opened.settings["model_path"]
    if Path(path).is_dir() and checkpoint_fingerprint(Path(path)) != opened.fingerprints["weights"]:
        raise _stale(opened, "checkpoint", path)
    checkpoint = load_checkpoint(path, dtype=opened.settings["dtype"], device=device)
    return Tracer(opened, checkpoint)


def _order(item: tuple[int, _Scored]) -> tuple[float, int]:
    return -item[1].score, item[0]


def _stale(index: Index, what: str, path: object) -> StaleIndexError:
    return StaleIndexError(
        f"The index {index.path} was made from another {what} than {path}.",
        "Index the present one with `haiftrace index --overwrite`, or name the right one.",
    )


def _check_fresh(index: Index, checkpoint: Checkpoint) -> None:
    if index.fingerprints["weights"] != checkpoint.fingerprint:
        raise _stale(index, "checkpoint", checkpoint.path)
    if index.fingerprints["tokenizer"] != checkpoint.tokenizer_fingerprint:
        raise _stale(index, "tokenizer", checkpoint.path)


def _check_corpus(index: Index) -> tuple[str, ...]:
    """Refuses a changed corpus; a missing one is worth a note, since the index has the texts."""
    kept = dict(index.settings["corpus"])
    paths = tuple(kept.pop("paths"))
    try:
        now = corpora.fingerprint(CorpusSettings(paths=paths, **kept))
    except CorpusError:
        return ("the corpus is not where it was indexed; the texts are the index's own",)
    if now != index.fingerprints["corpus"]:
        raise _stale(index, "corpus", ", ".join(paths))
    return ()


def _weakness(mean_loss: float) -> tuple[str, ...]:
    if mean_loss <= WEAK_LOSS:
        return ()
    return (
        f"the model would hardly say this (mean loss {mean_loss:.2f} nats a token): the trace is"
        " weak evidence",
    )


def _response_tokens(query: Query, losses: Tensor) -> tuple[ResponseToken, ...]:
    return tuple(
        ResponseToken(position, query.token_ids[position], query.pieces[position], float(loss))
        for position, loss in enumerate(losses.tolist())
        if query.labels[position]
    )


def _record(rank: int, scored: _Scored) -> RecordEvidence:
    window = scored.window
    tokens = tuple(
        TokenEvidence(
            position=window.start + i,
            token_id=int(window.token_ids[i]),
            text=window.text[start:end],
            start=start,
            end=end,
            loss=float(window.token_loss[i]),
            grad_norm=float(window.token_grad_norm[i]),
            evidence=float(scored.evidence[i]),
        )
        for i, (start, end) in enumerate(window.offsets)
    )
    return RecordEvidence(
        rank=rank,
        id=window.id,
        source=Source(window.path, window.line),
        score=scored.score,
        cosine=scored.cosine,
        text=window.text,
        tokens=tokens,
        window_start=window.start,
        windows=window.windows,
    )
