"""Use case: corpus × token gradients -> index on disk."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace import corpus as corpora
from haiftrace.corpus import CorpusSettings, ReadReport
from haiftrace.corpus.files import shown_base
from haiftrace.corpus.training_form import TrainingForm
from haiftrace.errors import UsageError
from haiftrace.index.census import Census, Reader, Reservoir
from haiftrace.index.fill import Filling, fill
from haiftrace.index.outcome import IndexOutcome
from haiftrace.index.parts import Part
from haiftrace.index.plan import SHARD_RECORDS, ShardPlanner
from haiftrace.index.workers import InProcess, Workforce
from haiftrace.parameters.scopes import parameter_count
from haiftrace.progress import Progress, size
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.query.surprise import surprises
from haiftrace.scoring.indexed_gradients import (
    WHITENING_WINDOWS,
    TokenGradients,
    choose_gradients,
)
from haiftrace.scoring.layerwise.similarity import layers_of
from haiftrace.store import AUTO, FLAT, IndexWriter, InvertedEntry, Totals, check_factory

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint

LONGEST_WINDOW = 1024
"""Default window of a model whose context is longer."""
MEASURED_PROMPTS = 32
"""Prompts of the corpus whose losses are measured, to compare with what the model is asked."""


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
        faiss: factory string of the inverted file over token vectors; "auto" for one beyond
            4,000,000 tokens, "Flat" for none.
        shard_records: a file of records is closed when it has so many, or much work in it; windows
            count where a record has several.
        overwrite: replace another index in that directory.
        memory: bytes that one backward pass may take, approximately.
        part: make that part of the index alone; None for all of it.
        store: URI of the store that `output` is the working copy of; None where it is none.
    """

    output: Path
    parameters: str | None = None
    context: int | None = None
    append_eos: bool = False
    token_vectors: int = 2048
    whitening_damping: float = 0.1
    seed: int = 0
    faiss: str = AUTO
    shard_records: int = SHARD_RECORDS
    overwrite: bool = False
    memory: int = 512 << 20
    part: Part | None = None
    store: str | None = None


def build_index(
    checkpoint: Checkpoint,
    corpus: CorpusSettings,
    settings: IndexSettings,
    progress: Progress,
    workforce: Workforce | None = None,
) -> IndexOutcome:
    """Index a corpus under a checkpoint; continues an interrupted run of the same command.

    Args:
        workforce: who computes it, this process when None; the index is the same to the last bit.

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
    planner = planner_of(checkpoint, chosen, settings)
    census = reader.census(Reservoir(WHITENING_WINDOWS, settings.seed), planner, progress)
    report = reader.report
    left_out = census.without_label + report.empty
    kept = _manifest_settings(checkpoint, corpus, settings, context, chosen)
    shards, part = census.shards, settings.part
    if part is not None:
        kept["part"] = part.described(shards)
        numbers = part.range_of(len(shards))
        shards = shards[numbers.start : numbers.stop]
    with IndexWriter.create_or_resume(
        settings.output,
        kept,
        fingerprints,
        settings.overwrite,
        model=_about(checkpoint, chosen.names),
    ) as writer:
        if writer.already_complete:
            return IndexOutcome(writer.totals, 0, 0, time.monotonic() - began, True)
        notes = (*checkpoint.notes, chosen.note, *chosen.similarity.notes)
        for note in filter(None, notes):
            progress.say(f"Note: {note}.")
        resumed = writer.totals.windows > 0
        announce(census, report, settings, progress)
        if part is not None:
            count = sum(shard.records for shard in shards)
            progress.say(f"Part {part.number} of {part.of} has {count:,} of these records.")
        filling = Filling(reader, chosen, settings, census, workforce or InProcess())
        fill(writer, filling, shards, progress)
        extra = {
            "left_out": left_out,
            "bad": report.bad,
            "seconds": round(time.monotonic() - began, 1),
            "resumed": resumed,
            "form": _form(checkpoint, census).kept(),
        }
        if part is not None:
            totals = _leave(writer, extra)
        else:
            totals = writer.finish(extra)
            searched = _searched_by(settings.faiss, writer.manifest.token_ivf)
            if searched:
                progress.say(searched)
    return IndexOutcome(totals, left_out, report.bad, time.monotonic() - began)


def _leave(writer: IndexWriter, extra: dict[str, Any]) -> Totals:
    """A part is finished by who puts all of them together."""
    if not writer.manifest.extra:
        writer.keep_extra(extra)
    return writer.totals


def planner_of(
    checkpoint: Checkpoint, chosen: TokenGradients, settings: IndexSettings
) -> ShardPlanner:
    """Divides a corpus into the shards of an index."""
    return ShardPlanner(
        settings.shard_records,
        checkpoint.parameters,
        checkpoint.model.device.type,
        chosen.kind == "full",
        settings.token_vectors,
    )


def _form(checkpoint: Checkpoint, census: Census) -> TrainingForm:
    """How the corpus shows that the model is asked, with what its own prompts surprise it."""
    prompts = census.form.prompts[:MEASURED_PROMPTS]
    measured = surprises(checkpoint, prompts, PromptSettings())
    losses = sorted(round(surprise.prompt, 4) for surprise in measured if surprise is not None)
    return replace(census.form.form(), prompt_losses=tuple(losses))


def _check(settings: IndexSettings) -> None:
    from haiftrace.engine import DIMENSION_STEP

    if settings.token_vectors < 0 or settings.token_vectors % DIMENSION_STEP:
        raise UsageError(
            f"{settings.token_vectors} dimensions do not work for token vectors: it takes a"
            f" multiple of {DIMENSION_STEP}.",
            "Use --token-vectors 2048, or 0, which keeps none.",
        )
    check_factory(settings.faiss, settings.token_vectors)
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


def _searched_by(wanted: str, inverted: InvertedEntry | None) -> str:
    """What is to be said of the search over tokens; "" of a scan that nobody asked not to have."""
    if inverted is not None:
        return (
            f"Search by the inverted file {inverted.factory}, {inverted.probes:,} cells of it: it"
            f" gives {inverted.recall:.1%} of a token's 256 nearest."
        )
    if wanted in (AUTO, FLAT):
        return ""
    return f"Note: there are too few tokens to train {wanted} with; a search scans all of them."


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
    base = corpus.base or shown_base(corpus.paths)
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
        **({} if settings.faiss == AUTO else {"faiss": settings.faiss}),
        "scope": chosen.scope,
        "corpus": {
            "paths": [_absolute(path) for path in corpus.paths],
            **corpus.kept(),
            **({} if base is None else {"base": base}),
        },
    }


def _absolute(path: str) -> str:
    named = Path(path)
    return str(named.resolve() if ".." in named.parts else named.absolute())


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
