"""Use case: corpus × gradient engine -> index on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace import corpus as corpora
from haiftrace.corpus import CorpusSettings, ReadReport, Record
from haiftrace.corpus.files import plain
from haiftrace.errors import CorpusError, UsageError
from haiftrace.progress import Progress, duration, size
from haiftrace.scopes import DEFAULT_SCOPE, parameter_count, select_parameters
from haiftrace.store import IndexWriter, Totals, WindowRow
from haiftrace.window_rows import window_rows
from haiftrace.windows import Window, windows_of

if TYPE_CHECKING:
    from haiftrace.checkpoint import Checkpoint
    from haiftrace.engine import GradientEngine

READ_AHEAD = 16
"""Records read ahead, so that windows of like length share a batch."""

BATCH_TOKENS = {"cpu": 256, "cuda": 4096}
"""Padded tokens of one batch of windows."""

SECONDS_BETWEEN_SHARDS = 300.0
"""A shard is closed at least this often, so that an interruption loses little."""

LONGEST_WINDOW = 1024
"""Default window of a model whose context is longer: the cost of a window grows with its square."""


@dataclass(frozen=True)
class IndexSettings:
    """How an index is made; what changes its numbers is kept in the manifest.

    Attributes:
        output: the index directory.
        parameters: the scope of the traced parameters (see `haiftrace.scopes`).
        context: tokens of a window; the model's context, at most 1024, when None.
        append_eos: end every record with the end-of-text token.
        projection_dim: dimensions of a record's projected HAIF vector.
        token_vectors: dimensions of a token's projected gradient; 0 keeps none.
        seed: of the projections.
        overwrite: replace another index in that directory.
        memory: bytes that one backward pass may take, approximately.
    """

    output: Path
    parameters: str = DEFAULT_SCOPE
    context: int | None = None
    append_eos: bool = False
    projection_dim: int = 2048
    token_vectors: int = 0
    seed: int = 0
    overwrite: bool = False
    memory: int = 512 << 20


@dataclass(frozen=True)
class IndexOutcome:
    """What came of it.

    Attributes:
        totals: records, windows and label tokens of the index.
        left_out: records without a label (a single token), and empty ones.
        bad_lines: lines left out as unreadable.
        seconds: of this run.
        already_complete: True where the directory held this very index already.
    """

    totals: Totals
    left_out: int
    bad_lines: int
    seconds: float
    already_complete: bool = False


@dataclass
class _Census:
    """What a first pass through the corpus counts; time is proportional to `work`, Σ T²."""

    records: int = 0
    windows: int = 0
    labels: int = 0
    tokens: int = 0
    without_label: int = 0
    grouped: int = 0
    characters: int = 0
    work: float = 0.0


def build_index(
    checkpoint: Checkpoint, corpus: CorpusSettings, settings: IndexSettings, progress: Progress
) -> IndexOutcome:
    """Index a corpus under a checkpoint; continues an interrupted run of the same command.

    Raises:
        HaiftraceError: whatever is wrong with corpus, checkpoint, settings or the directory.
    """
    from haiftrace.engine import DIMENSION_STEP, GradientEngine

    for name, value in (("projection", settings.projection_dim), ("token", settings.token_vectors)):
        if value < 0 or value % DIMENSION_STEP or (name == "projection" and not value):
            raise UsageError(
                f"{value} dimensions do not work for {name} vectors: it takes a multiple of"
                f" {DIMENSION_STEP}.",
                "Use --projection-dim 2048 and --token-vectors 0 (which keeps none) or 1024.",
            )
    began = time.monotonic()
    names = select_parameters(checkpoint.model, settings.parameters)
    context = _context(checkpoint, settings)
    reader = _Reader(checkpoint, corpus, context, settings.append_eos)
    progress.start("reading the corpus", None)
    fingerprints = {
        "weights": checkpoint.fingerprint,
        "tokenizer": checkpoint.tokenizer_fingerprint,
        "corpus": corpora.fingerprint(corpus),
    }
    census = reader.census(progress)
    kept = _manifest_settings(checkpoint, corpus, settings, context)
    with IndexWriter.create_or_resume(
        settings.output,
        kept,
        fingerprints,
        settings.overwrite,
        model=_about(checkpoint, names),
    ) as writer:
        if writer.already_complete:
            return IndexOutcome(writer.totals, 0, 0, time.monotonic() - began, True)
        engine = GradientEngine(checkpoint.model, names, settings.memory)
        for note in (*checkpoint.notes, *engine.notes):
            progress.say(f"Note: {note}.")
        _announce(census, reader.report, settings, progress)
        _fill(writer, reader, engine, settings, census, progress)
        totals = writer.finish(
            {"left_out": census.without_label + reader.report.empty, "bad": reader.report.bad}
        )
    left_out = census.without_label + reader.report.empty
    return IndexOutcome(totals, left_out, reader.report.bad, time.monotonic() - began)


def _context(checkpoint: Checkpoint, settings: IndexSettings) -> int:
    limit = checkpoint.context
    if settings.context is not None:
        if settings.context < 2 or (limit is not None and settings.context > limit):
            raise UsageError(
                f"A window of {settings.context} tokens does not fit the model: it takes 2 to"
                f" {limit or 'any number of'} tokens.",
                "Leave --context out to take the model's own.",
            )
        return settings.context
    return min(limit or LONGEST_WINDOW, LONGEST_WINDOW)


def _manifest_settings(
    checkpoint: Checkpoint, corpus: CorpusSettings, settings: IndexSettings, context: int
) -> dict[str, Any]:
    return {
        "model_path": str(checkpoint.path),
        "dtype": checkpoint.dtype,
        "context": context,
        "append_eos": settings.append_eos,
        "projection_dim": settings.projection_dim,
        "vector_dtype": "float16",
        "token_vectors": settings.token_vectors,
        "seed": settings.seed,
        "scope": settings.parameters,
        "corpus": {
            "paths": [str(Path(path).absolute()) for path in corpus.paths],
            "text_field": corpus.text_field,
            "id_field": corpus.id_field,
            "loss_on": corpus.loss_on,
            "skip_bad_lines": corpus.skip_bad_lines,
            **({"group_field": corpus.group_field} if corpus.group_field is not None else {}),
        },
    }


def _about(checkpoint: Checkpoint, names: list[str]) -> dict[str, Any]:
    return {
        "architecture": checkpoint.architecture,
        "parameters": checkpoint.parameters,
        "traced_parameters": parameter_count(checkpoint.model, names),
    }


class _Reader:
    """The corpus as windows, read twice: once to count, once to work."""

    def __init__(
        self, checkpoint: Checkpoint, corpus: CorpusSettings, context: int, append_eos: bool
    ) -> None:
        self._checkpoint = checkpoint
        self._corpus = corpus
        self._context = context
        self._append_eos = append_eos
        self.report = ReadReport()

    def records(self) -> Iterator[tuple[Record, list[Window]]]:
        self.report = ReadReport()
        for record in corpora.read_records(self._corpus, self.report):
            windows = windows_of(
                record,
                self._checkpoint.tokenizer,
                self._context,
                self._corpus.loss_on,
                self._append_eos,
            )
            for window in windows:
                if max(window.token_ids) >= self._checkpoint.vocabulary:
                    raise CorpusError(
                        f"{record.path}:{record.line}: the record holds a special token that the"
                        " model's embedding has no row for.",
                        "Remove that marker from the record.",
                    )
            yield record, windows

    def census(self, progress: Progress) -> _Census:
        census = _Census()
        for record, windows in self.records():
            progress.advance(1, records=1, tokens=sum(len(w.token_ids) for w in windows))
            census.records += bool(windows)
            census.without_label += not windows
            census.grouped += record.group is not None
            census.windows += len(windows)
            census.characters += len(record.text)
            for window in windows:
                census.tokens += len(window.token_ids)
                census.labels += sum(window.labels)
                census.work += _work(window)
        if not census.windows:
            raise CorpusError(
                f"No record of the corpus has a label: all {census.without_label} have a single"
                " token, or no response to put the loss on.",
                "Check --text-field and --loss-on.",
            )
        if self._corpus.group_field is not None and not census.grouped:
            raise CorpusError(
                f"No record of the corpus has the group field '{plain(self._corpus.group_field)}'.",
                "Name the field that records on the same subject share with --group-field.",
            )
        return census


def _work(window: Window) -> float:
    return float(len(window.token_ids)) * sum(window.labels)


def _announce(
    census: _Census, report: ReadReport, settings: IndexSettings, progress: Progress
) -> None:
    window_bytes = 6 * settings.projection_dim + 400
    token_bytes = 3 * settings.token_vectors // 2 + 40
    disk = census.windows * window_bytes + census.labels * token_bytes + 2 * census.characters
    windows = f" in {census.windows:,} windows" if census.windows != census.records else ""
    progress.say(
        f"Indexing {census.records:,} records{windows}, {census.labels:,} label tokens;"
        f" about {size(disk)} on disk."
    )
    if report.bad:
        progress.say(
            f"Left out {report.bad:,} lines that are no record (--skip-bad-lines):"
            f" {'; '.join(report.bad_places)}."
        )
    if report.empty or census.without_label:
        progress.say(
            f"Left out {report.empty:,} empty records and {census.without_label:,} without a token"
            " to predict."
        )


def _fill(
    writer: IndexWriter,
    reader: _Reader,
    engine: GradientEngine,
    settings: IndexSettings,
    census: _Census,
    progress: Progress,
) -> None:
    record_projector = engine.projector(settings.projection_dim, settings.seed)
    token_projector = (
        engine.projector(settings.token_vectors, settings.seed) if settings.token_vectors else None
    )
    numbered = enumerate((windows for _, windows in reader.records()), start=1)
    left = census.work
    if writer.resume_after.cursor:
        progress.say(f"Going on after {writer.resume_after.records:,} records indexed before.")
        left -= sum(
            _work(window)
            for _, windows in islice(numbered, writer.resume_after.cursor)
            for window in windows
        )
    progress.start("indexing", left)
    began = flushed = time.monotonic()
    work, estimated = 0.0, False
    for ahead in _read_ahead(numbered):
        windows = [window for _, windows in ahead for window in windows]
        rows: dict[int, WindowRow] = {}
        for batch in _batches(windows, engine.device.type):
            rows |= window_rows(batch, engine, record_projector, token_projector)
            progress.advance(
                sum(map(_work, batch)),
                records=sum(w.window == 0 for w in batch),
                tokens=sum(len(w.token_ids) for w in batch),
            )
            work += sum(map(_work, batch))
            seconds = time.monotonic() - began
            if not estimated and seconds > 2:
                estimated = True
                progress.say(f"This takes about {duration(seconds * left / work)}.")
        for cursor, record_windows in ahead:
            if record_windows:
                writer.append_record([rows[id(w)] for w in record_windows], cursor)
        if time.monotonic() - flushed > SECONDS_BETWEEN_SHARDS:
            writer.flush(cursor=ahead[-1][0])
            flushed = time.monotonic()
    writer.flush()


def _read_ahead(
    numbered: Iterator[tuple[int, list[Window]]],
) -> Iterator[list[tuple[int, list[Window]]]]:
    """Lists of (records read so far, windows of the last of them)."""
    while ahead := list(islice(numbered, READ_AHEAD)):
        yield ahead


def _batches(windows: list[Window], device: str) -> Iterator[list[Window]]:
    """Windows of like length together, so that little is padded."""
    batch: list[Window] = []
    for window in sorted(windows, key=lambda w: len(w.token_ids)):
        if batch and (len(batch) + 1) * len(window.token_ids) > BATCH_TOKENS[device]:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
