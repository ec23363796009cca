"""Use case: the records of further corpus files are added to a complete index.

They are indexed by themselves first, under the settings and the whitening of the index, in a
directory inside it, where an interrupted run goes on; then they take their places in one step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace import corpus as corpora
from haiftrace.corpus import CorpusSettings
from haiftrace.errors import IndexStoreError, StaleIndexError, UsageError
from haiftrace.index.build import IndexSettings, announce, planner_of
from haiftrace.index.census import Reader, Reservoir
from haiftrace.index.fill import Filling, fill
from haiftrace.index.outcome import IndexOutcome
from haiftrace.progress import Progress
from haiftrace.scoring.freshness import check_fresh, indexed_corpora
from haiftrace.scoring.indexed_gradients import (
    WHITENING_WINDOWS,
    TokenGradients,
    choose_gradients,
)
from haiftrace.scoring.layerwise.similarity import WHITENING, layers_of
from haiftrace.store import FLAT, Index, IndexWriter, Revision

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.checkpoint.load import Checkpoint


def append_records(
    path: Path, checkpoint: Checkpoint, paths: Sequence[str], memory: int, progress: Progress
) -> IndexOutcome:
    """Add the records of corpus files to the index at `path`; continues an interrupted run.

    They are read as the first corpus was, all of them. Supplements that were computed from the
    rows go, whitening stays: the vectors of old and new records can be compared.

    Args:
        paths: files, globs and directories.
        memory: bytes that one backward pass may take, approximately.

    Raises:
        HaiftraceError: whatever is wrong with index, checkpoint or corpus, a record whose id the
            index has already included.
    """
    began = time.monotonic()
    with Revision(path) as revision, Index.open(path, verify=False) as index:
        check_fresh(index, checkpoint)
        settings = _settings(index, revision.pending, memory)
        chosen = choose_gradients(checkpoint, index.settings["scope"], memory)
        _check_gradients(index, chosen)
        corpus = _corpus(index, paths)
        fingerprint = corpora.fingerprint(corpus)
        if any(part.fingerprint == fingerprint for part in indexed_corpora(index)):
            revision.discard_pending()
            return IndexOutcome(index.manifest.totals, 0, 0, time.monotonic() - began, True)
        reader = Reader(checkpoint, corpus, index.settings["context"], settings.append_eos)
        progress.start("reading the corpus", None)
        _refuse_known(index, reader)
        planner = planner_of(checkpoint, chosen, settings)
        census = reader.census(Reservoir(WHITENING_WINDOWS, settings.seed), planner, progress)
        described = {
            **index.settings,
            "faiss": FLAT,  # they are searched once they are in the index
            "corpus": {**index.settings["corpus"], **corpus.kept(), "paths": list(corpus.paths)},
        }
        fingerprints = {**index.fingerprints, "corpus": fingerprint}
        with _writer(settings, described, fingerprints) as writer:
            if not writer.already_complete:
                announce(census, reader.report, settings, progress)
                _keep_whitening(index, writer)
                fill(writer, Filling(reader, chosen, settings, census), census.shards, progress)
                writer.finish()
        revision.append(corpus.paths, fingerprint)
        totals = revision.manifest.totals
    left_out = census.without_label + reader.report.empty
    return IndexOutcome(totals, left_out, reader.report.bad, time.monotonic() - began)


def _settings(index: Index, pending: Path, memory: int) -> IndexSettings:
    kept = index.settings
    settings = IndexSettings(
        output=pending,
        parameters=kept["scope"],
        context=kept["context"],
        append_eos=kept["append_eos"],
        token_vectors=kept["token_vectors"],
        seed=kept["seed"],
        shard_records=kept["shard_records"],
        memory=memory,
    )
    damping = kept["whitening_damping"]
    return settings if damping is None else replace(settings, whitening_damping=damping)


def _check_gradients(index: Index, chosen: TokenGradients) -> None:
    kept = (index.settings["gradients"], index.settings["layers"])
    if (chosen.kind, layers_of(chosen.similarity)) != kept:
        raise StaleIndexError(
            f"The index {index.path} was made by another version of haiftrace, with other token"
            " gradients than the model has now.",
            "Run the same `haiftrace index` command with --overwrite to build it again.",
        )


def _corpus(index: Index, paths: Sequence[str]) -> CorpusSettings:
    first = indexed_corpora(index)[0].settings
    absolute = tuple(str(Path(path).absolute()) for path in paths)
    return replace(first, paths=absolute, limit=None, sample_records=None, seed=0)


def _refuse_known(index: Index, reader: Reader) -> None:
    known: set[int] = set()
    for table in index.shard_tables(["id"], masked=True):
        known.update(map(hash, table.column("id").to_pylist()))
    for record in corpora.read_records(reader.corpus):
        if hash(record.id) in known:
            raise UsageError(
                f"The record at {record.place} has an id that the index {index.path} has already.",
                "Append files with new records only; after a record was dropped, run `haiftrace"
                " index --compact` first.",
            )


def _writer(
    settings: IndexSettings, described: dict[str, Any], fingerprints: dict[str, Any]
) -> IndexWriter:
    def opened(overwrite: bool) -> IndexWriter:
        return IndexWriter.create_or_resume(
            settings.output,
            described,
            fingerprints,
            overwrite,
        )

    try:
        return opened(overwrite=False)
    except IndexStoreError:  # what is left of the appending of other files
        return opened(overwrite=True)


def _keep_whitening(index: Index, writer: IndexWriter) -> None:
    entry = index.supplement(WHITENING)
    if entry is None or writer.stored_tensors(WHITENING) is not None:
        return
    matrices: dict[str, Tensor] = {}
    for tensors, _ in index.supplement_tensors(WHITENING):
        matrices |= tensors
    writer.keep_tensors(WHITENING, entry.settings, matrices)
