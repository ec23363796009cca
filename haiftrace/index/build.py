"""Use case: corpus × token gradients -> index on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from haiftrace import corpus as corpora
from haiftrace.corpus import CorpusSettings, ReadReport
from haiftrace.corpus.windows import Window
from haiftrace.errors import UsageError
from haiftrace.index.census import Census, Reader, Reservoir
from haiftrace.index.measure import window_rows
from haiftrace.parameters.scopes import parameter_count
from haiftrace.progress import Pace, Progress, size
from haiftrace.scoring.indexed_gradients import (
    WHITENING_TOKENS,
    WHITENING_WINDOWS,
    TokenGradients,
    choose_gradients,
    found_whitening,
    whitened,
)
from haiftrace.scoring.layerwise.similarity import WHITENING, layers_of
from haiftrace.store import SHARD_ROWS, IndexWriter, Totals, WindowRow

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.engine import TokenSimilarity

Item = TypeVar("Item")

READ_AHEAD = 64
"""Records read ahead, so that windows of like length share a batch. They share a shard too: the
numbers of a window depend in their last bits on the others of its batch, and a resumed run begins
after a shard."""

READ_AHEAD_TOKENS = 1 << 14
"""Tokens of such records: those of long ones are as many."""

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Padded tokens of one batch of windows."""

SECONDS_BETWEEN_SHARDS = 300.0
"""A shard is closed at least this often, so that an interruption loses little."""

LONGEST_WINDOW = 1024
"""Default window of a model whose context is longer."""

WHITENING_SHARE = 0.4
"""What whitening costs a token, beside the work that indexing it takes."""


@dataclass(frozen=True)
class IndexSettings:
    """How an index is made; what changes its numbers is kept in the manifest.

    Attributes:
        output: the index directory.
        parameters: the scope of full gradients (see `haiftrace.parameters.scopes`); one that works
            when None.
        context: tokens of a window; the model's context, at most 1024, when None.
        append_eos: end every record with the end-of-text token.
        token_vectors: dimensions of a token's projected gradient; 0 keeps none.
        whitening_damping: λ of the whitening of direct gradients.
        seed: of the projection and of the sample that whitening is found from.
        shard_records: a file of records is closed when it has so many; windows count where a record
            has several.
        overwrite: replace another index in that directory.
        memory: bytes that one backward pass may take, approximately.
    """

    output: Path
    parameters: str | None = None
    context: int | None = None
    append_eos: bool = False
    token_vectors: int = 2048
    whitening_damping: float = 0.1
    seed: int = 0
    shard_records: int = SHARD_ROWS
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


def build_index(
    checkpoint: Checkpoint, corpus: CorpusSettings, settings: IndexSettings, progress: Progress
) -> IndexOutcome:
    """Index a corpus under a checkpoint; continues an interrupted run of the same command.

    Raises:
        HaiftraceError: whatever is wrong with corpus, checkpoint, settings or the directory.
    """
    _check(settings)
    if settings.append_eos and corpus.ids_field is not None:
        raise UsageError(
            "--append-eos would add a token to sequences that --ids-field traces as they were"
            " trained.",
            "Leave --append-eos out.",
        )
    began = time.monotonic()
    context = _context(checkpoint, settings)
    chosen = choose_gradients(checkpoint, settings.parameters, settings.memory)
    reader = Reader(checkpoint, corpus, context, settings.append_eos)
    progress.start("reading the corpus", None)
    fingerprints = {
        "weights": checkpoint.fingerprint,
        "tokenizer": checkpoint.tokenizer_fingerprint,
        "corpus": corpora.fingerprint(corpus),
    }
    census = reader.census(Reservoir(WHITENING_WINDOWS, settings.seed), progress)
    kept = _manifest_settings(checkpoint, corpus, settings, context, chosen)
    with IndexWriter.create_or_resume(
        settings.output,
        kept,
        fingerprints,
        settings.overwrite,
        model=_about(checkpoint, chosen.names),
        shard_rows=settings.shard_records,
    ) as writer:
        if writer.already_complete:
            return IndexOutcome(writer.totals, 0, 0, time.monotonic() - began, True)
        notes = (*checkpoint.notes, chosen.note, *chosen.similarity.notes)
        for note in filter(None, notes):
            progress.say(f"Note: {note}.")
        announce(census, reader.report, settings, progress)
        fill(writer, reader, chosen, settings, census, progress)
        totals = writer.finish(
            {"left_out": census.without_label + reader.report.empty, "bad": reader.report.bad}
        )
    left_out = census.without_label + reader.report.empty
    return IndexOutcome(totals, left_out, reader.report.bad, time.monotonic() - began)


def _check(settings: IndexSettings) -> None:
    from haiftrace.engine import DIMENSION_STEP

    if settings.token_vectors < 0 or settings.token_vectors % DIMENSION_STEP:
        raise UsageError(
            f"{settings.token_vectors} dimensions do not work for token vectors: it takes a"
            f" multiple of {DIMENSION_STEP}.",
            "Use --token-vectors 2048, or 0, which keeps none.",
        )
    if not 0 < settings.whitening_damping < math.inf:
        raise UsageError(
            f"{settings.whitening_damping:g} is no damping of the whitening: it takes a positive"
            " number.",
            "Leave --whitening-damping out for 0.1.",
        )
    if settings.shard_records < 1:
        raise UsageError(
            f"A file of {settings.shard_records} records holds none.",
            "Leave --shard-records out for 512.",
        )


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
    checkpoint: Checkpoint,
    corpus: CorpusSettings,
    settings: IndexSettings,
    context: int,
    chosen: TokenGradients,
) -> dict[str, Any]:
    return {
        "model_path": str(checkpoint.path),
        **({} if checkpoint.base is None else {"base_model": str(checkpoint.base)}),
        "dtype": checkpoint.dtype,
        "context": context,
        "append_eos": settings.append_eos,
        "gradients": chosen.kind,
        "layers": layers_of(chosen.similarity),
        "token_vectors": settings.token_vectors,
        "whitening_damping": settings.whitening_damping if chosen.kind == "direct" else None,
        "seed": settings.seed,
        "shard_records": settings.shard_records,
        "scope": chosen.scope,
        "corpus": {
            "paths": [str(Path(path).absolute()) for path in corpus.paths],
            **corpus.kept(),
        },
    }


def _about(checkpoint: Checkpoint, names: list[str]) -> dict[str, Any]:
    return {
        "architecture": checkpoint.architecture,
        "parameters": checkpoint.parameters,
        "traced_parameters": parameter_count(checkpoint.model, names),
    }


def announce(
    census: Census, report: ReadReport, settings: IndexSettings, progress: Progress
) -> None:
    """Say what is indexed, how much room it takes, and what is left out."""
    disk = census.windows * 100 + census.labels * (settings.token_vectors / 8 + 16)
    disk += census.characters / 2
    windows = f" in {census.windows:,} windows" if census.windows != census.records else ""
    progress.say(
        f"Indexing {census.records:,} records{windows}, {census.labels:,} label tokens;"
        f" about {size(int(disk))} on disk."
    )
    for note in report.notes:
        progress.say(f"Note: {note}.")
    read_as = [f"{count:,} as {shown}" for shown, count in report.layouts.items()]
    if read_as != [f"{report.records:,} as text (field 'text')"] and read_as:
        progress.say(f"Records read: {', '.join(read_as)}.")
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


def fill(
    writer: IndexWriter,
    reader: Reader,
    chosen: TokenGradients,
    settings: IndexSettings,
    census: Census,
    progress: Progress,
) -> None:
    """Index what the reader gives into the writer, after what is durable there already."""

    def work_of(window: Window) -> float:
        """A pass a window, or a token of it."""
        passes = 1 if chosen.kind == "direct" else sum(window.labels)
        return float(len(window.token_ids)) * passes

    numbered = enumerate((windows for _, windows in reader.records()), start=1)
    left = census.squared if chosen.kind == "full" else float(census.tokens)
    if writer.resume_after.cursor:
        progress.say(f"Going on after {writer.resume_after.records:,} records indexed before.")
        done = islice(numbered, writer.resume_after.cursor)
        left -= sum(work_of(window) for _, windows in done for window in windows)
    similarity, pace = _whitened(writer, chosen, settings, census, left, progress)
    flushed = time.monotonic()
    for ahead in _read_ahead(numbered, min(READ_AHEAD, settings.shard_records)):
        windows = [window for _, windows in ahead for window in windows]
        rows: dict[int, WindowRow] = {}
        for batch in _batched(windows, _length, similarity.device.type):
            rows |= window_rows(batch, similarity, settings.token_vectors, settings.seed)
            pace.advance(
                sum(map(work_of, batch)),
                records=sum(w.window == 0 for w in batch),
                tokens=sum(len(w.token_ids) for w in batch),
            )
        records = [
            ([rows[id(window)] for window in windows], cursor)
            for cursor, windows in ahead
            if windows
        ]
        if records:
            # Those after it in the list have no label, and are not to be read again.
            records[-1] = (records[-1][0], ahead[-1][0])
            writer.append_records(records)
        if time.monotonic() - flushed > SECONDS_BETWEEN_SHARDS:
            writer.flush(cursor=ahead[-1][0])
            flushed = time.monotonic()
    writer.flush()


def _whitened(
    writer: IndexWriter,
    chosen: TokenGradients,
    settings: IndexSettings,
    census: Census,
    left: float,
    progress: Progress,
) -> tuple[TokenSimilarity, Pace]:
    """The token gradients with their whitening, which an interrupted run left or is kept now.

    Args:
        left: work of the windows that are to be indexed.
    """
    from haiftrace.engine import DirectGradients

    if not isinstance(chosen.similarity, DirectGradients):
        return chosen.similarity, Pace("indexing", left, progress)
    matrices = writer.stored_tensors(WHITENING)
    if matrices is not None:
        return whitened(chosen.similarity, matrices), Pace("indexing", left, progress)
    sample = census.sample.sample(WHITENING_TOKENS)
    tokens = sum(map(len, sample))
    pace = Pace("indexing", left + WHITENING_SHARE * tokens, progress)

    def passed(batch: Sequence[list[int]]) -> None:
        pace.advance(WHITENING_SHARE * sum(map(len, batch)), 0, 0)

    batches = _batched(sample, len, chosen.similarity.device.type)
    matrices = found_whitening(chosen.similarity, batches, settings.whitening_damping, passed)
    about = {"windows": len(sample), "tokens": tokens, "damping": settings.whitening_damping}
    writer.keep_tensors(WHITENING, about, matrices)
    return whitened(chosen.similarity, matrices), pace


def _read_ahead(
    numbered: Iterator[tuple[int, list[Window]]], records: int
) -> Iterator[list[tuple[int, list[Window]]]]:
    """Lists of (records read so far, windows of the last of them).

    Args:
        records: in a list, at most.
    """
    ahead: list[tuple[int, list[Window]]] = []
    tokens = 0
    for number, windows in numbered:
        ahead.append((number, windows))
        tokens += sum(len(window.token_ids) for window in windows)
        if len(ahead) == records or tokens >= READ_AHEAD_TOKENS:
            yield ahead
            ahead, tokens = [], 0
    if ahead:
        yield ahead


def _length(window: Window) -> int:
    return len(window.token_ids)


def _batched(
    items: Sequence[Item], length: Callable[[Item], int], device: str
) -> Iterator[list[Item]]:
    """Those of like length together, so that little is padded."""
    batch: list[Item] = []
    for item in sorted(items, key=length):
        if batch and (len(batch) + 1) * length(item) > BATCH_TOKENS[device]:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
