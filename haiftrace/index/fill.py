"""The records of a corpus into an index: whitening once, then every shard that is not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.corpus.windows import Window
from haiftrace.index.census import Census, Reader
from haiftrace.index.plan import PlannedShard, work_of
from haiftrace.index.shard_maker import ShardMaker, batched
from haiftrace.index.workers import InProcess, ShardJob, Workforce
from haiftrace.progress import Pace, Progress
from haiftrace.scoring.indexed_gradients import (
    TokenGradients,
    corpus_whitening,
    whitened,
    whitening_tokens,
)
from haiftrace.scoring.layerwise.similarity import WHITENING
from haiftrace.store import IndexWriter, ShardEntry

if TYPE_CHECKING:
    from haiftrace.engine import TokenSimilarity
    from haiftrace.index.build import IndexSettings

WHITENING_SHARE = 0.4
"""What whitening costs a token, beside the work that indexing it takes."""


@dataclass(frozen=True)
class Filling:
    """What an index is filled from.

    Attributes:
        reader: of the corpus.
        chosen: the token gradients.
        settings: how the index is made.
        census: of the corpus.
        workforce: who makes the shards.
    """

    reader: Reader
    chosen: TokenGradients
    settings: IndexSettings
    census: Census
    workforce: Workforce = field(default_factory=InProcess)


def fill(
    writer: IndexWriter, filling: Filling, shards: Sequence[PlannedShard], progress: Progress
) -> None:
    """Make those of the shards that are not in the index yet.

    Raises:
        HaiftraceError: whatever is wrong with corpus, checkpoint, workers or the directory.
    """
    if not shards:  # a part of an index that has fewer shards than parts
        return
    planned = {shard.number: shard for shard in shards}
    unplanned = [
        entry.number
        for entry in writer.manifest.shards
        if not _fits(entry, planned.get(entry.number))
    ]
    if unplanned:  # begun on another kind of device, which has other shards
        writer.discard_shards(unplanned)
    durable = writer.shard_numbers
    missing = [shard for shard in shards if shard.number not in durable]
    if len(missing) < len(shards):
        records = sum(shard.records for shard in shards if shard.number in durable)
        progress.say(f"Going on after {records:,} records indexed before.")
    full = filling.chosen.kind == "full"
    similarity, pace = _whitened(writer, filling, sum(shard.work for shard in missing), progress)

    def passed(windows: Sequence[Window]) -> None:
        pace.advance(
            work_of(windows, full),
            records=sum(window.window == 0 for window in windows),
            tokens=sum(len(window.token_ids) for window in windows),
        )

    def done(shard: PlannedShard) -> None:
        pace.advance(shard.work, records=shard.records, tokens=shard.tokens)

    settings, reader = filling.settings, filling.reader
    layout = writer.manifest.layout
    maker = ShardMaker(
        writer.root, reader, similarity, layout, settings.seed, settings.shard_records
    )
    job = _job(writer, filling)
    with closing(filling.workforce.make(missing, maker, job, passed, done)) as made:
        for _, staged in made:
            writer.add_shard(staged)


def _fits(entry: ShardEntry, planned: PlannedShard | None) -> bool:
    held = (entry.record_count, entry.records.rows, entry.label_tokens, entry.cursor)
    return planned is not None and held == (
        planned.records,
        planned.windows,
        planned.labels,
        planned.after,
    )


def _job(writer: IndexWriter, filling: Filling) -> ShardJob:
    reader, settings = filling.reader, filling.settings
    checkpoint = reader.checkpoint
    return ShardJob(
        root=writer.root.absolute(),
        store=settings.store,
        directory=Path.cwd(),
        model=checkpoint.path,
        base_model=checkpoint.base,
        dtype=checkpoint.dtype,
        device=checkpoint.device,
        memory=settings.memory,
        scope=filling.chosen.scope,
        corpus=reader.corpus,
        context=reader.context,
        append_eos=reader.append_eos,
        token_vectors=settings.token_vectors,
        seed=settings.seed,
        shard_records=settings.shard_records,
        fingerprints=writer.manifest.fingerprints,
    )


def _whitened(
    writer: IndexWriter, filling: Filling, left: float, progress: Progress
) -> tuple[TokenSimilarity, Pace]:
    """The token gradients with their whitening, which an interrupted run left or is kept now.

    Args:
        left: work of the windows that are to be indexed.
    """
    from haiftrace.engine import DirectGradients

    similarity, damping = filling.chosen.similarity, filling.settings.whitening_damping
    if not isinstance(similarity, DirectGradients):
        return similarity, Pace("indexing", left, progress)
    matrices = writer.stored_tensors(WHITENING)
    if matrices is not None:
        return whitened(similarity, matrices), Pace("indexing", left, progress)
    sample = filling.census.sample.sample(whitening_tokens(similarity.input_width))
    tokens = sum(map(len, sample))
    pace = Pace("indexing", left + WHITENING_SHARE * tokens, progress)

    def passed(batch: Sequence[list[int]]) -> None:
        pace.advance(WHITENING_SHARE * sum(map(len, batch)), 0, 0)

    batches = batched(sample, len, similarity.device.type)
    matrices = corpus_whitening(similarity, batches, damping, passed)
    about = {"windows": len(sample), "tokens": tokens, "damping": damping}
    writer.keep_tensors(WHITENING, about, matrices)
    return whitened(similarity, matrices), pace
