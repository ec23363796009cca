"""Use case: everything that an index says is compared with its files, its sources and the engine.

Nothing is taken on trust: every file is read, whatever earlier runs have remembered of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haiftrace import corpus as corpora
from haiftrace.errors import HaiftraceError
from haiftrace.index.corpus_comparison import compare_corpus
from haiftrace.index.recomputation import recompute_sample
from haiftrace.progress import Progress, size
from haiftrace.scoring.freshness import indexed_corpora
from haiftrace.store import Index
from haiftrace.store.checked_files import CheckedFiles

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint

NAMES_SHOWN = 20
"""Records of a kind that are listed by name."""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        passed: whether it is as it should be; what could not be looked at is not.
        detail: what there is, or what is wrong.
        items: more lines: files, or records by their ids.
    """

    name: str
    passed: bool
    detail: str
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verification:
    """What came of it, in the order in which it was looked at."""

    path: Path
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether everything is as it should be."""
        return all(check.passed for check in self.checks)

    def lines(self) -> Iterator[str]:
        """The report as text; names in it are as they are in the corpus."""
        width = max(len(check.name) for check in self.checks)
        for check in self.checks:
            yield f"{check.name:{width}}  {'ok ' if check.passed else 'BAD'}  {check.detail}"
            yield from (f"{'':{width}}       {item}" for item in check.items)
        verdict = "can be trusted" if self.passed else "must not be used as it is"
        yield f"The index {self.path} {verdict}."


def verify_index(
    path: Path,
    load: Callable[[Index], Checkpoint],
    sample: int,
    seed: int,
    memory: int,
    progress: Progress,
) -> Verification:
    """Check the index at `path`.

    Args:
        load: gives the checkpoint to compare with, wherever it is.
        sample: windows that are computed again.
        seed: of that sample.
        memory: bytes that a pass may take.

    Raises:
        IndexStoreError: there is no complete index.
        DamagedIndexError: its manifest is damaged, so nothing else can be compared.
    """
    with Index.open(path, verify=False) as index:
        files = _files(index, progress)
        checks = [files]
        if files.passed:
            checks += [_guarded("rows", _rows, index), _guarded("search index", _vectors, index)]
        checkpoint, loading = _load(index, load)
        checks.append(loading)
        readable = all(check.passed for check in checks)
        if checkpoint is not None:
            checks.append(_corpus(index, checkpoint, progress))
            if readable:
                checks.append(_sample(index, checkpoint, sample, seed, memory, progress))
            else:
                checks.append(Check("sample", False, "not computed again: see above"))
    return Verification(path, tuple(checks))


def _files(index: Index, progress: Progress) -> Check:
    entries = [*index.manifest.files(), *index.manifest.supplement_files()]
    nbytes = sum(entry.bytes for entry in entries)
    progress.start("reading every file", float(nbytes))
    files = CheckedFiles(index.path, remembered=False)
    damages = files.damages(entries, lambda entry: progress.advance(float(entry.bytes)))
    if damages:
        named = tuple(f"{error.message} {error.hint}" for error in damages)
        return Check("checksums", False, f"{len(damages)} of {len(entries)} files", named)
    return Check("checksums", True, f"{len(entries):,} files, {size(nbytes)}, and the manifest")


def _guarded(name: str, check: Callable[[Index], Check], index: Index) -> Check:
    try:
        return check(index)
    except HaiftraceError as error:
        return Check(name, False, error.message)


def _rows(index: Index) -> Check:
    names = ["record", "label_count"]
    records = 0
    tables = index.shard_tables(names, masked=True)
    for shard, table in zip(index.manifest.shards, tables, strict=True):
        numbers = np.unique(table.column("record").to_numpy())
        labels = int(table.column("label_count").to_numpy().sum())
        expected = np.arange(records, records + shard.record_count)
        if not np.array_equal(numbers, expected) or labels != shard.label_tokens:
            return Check("rows", False, f"{shard.records.file} holds other records than it says")
        records += shard.record_count
    for window in index.iter_windows():  # reads every column of every row
        del window
    totals, masked = index.manifest.totals, len(index.manifest.dropped)
    dropped = f"; {masked:,} dropped, which --compact removes" if masked else ""
    return Check(
        "rows",
        True,
        f"{totals.records:,} records, {totals.windows:,} windows, {totals.label_tokens:,} label"
        f" tokens{dropped}",
    )


def _vectors(index: Index) -> Check:
    if index.token_search is None:
        return Check("search index", True, "none is kept")
    dim = index.layout.token_vectors
    detail = f"a vector of {dim:,} bits for every label token"
    inverted = index.manifest.token_ivf
    if inverted is not None:
        detail += f"; the inverted file {inverted.factory} gives {inverted.recall:.1%} of a scan's"
    return Check("search index", True, detail)


def _load(index: Index, load: Callable[[Index], Checkpoint]) -> tuple[Checkpoint | None, Check]:
    try:
        return load(index), Check("checkpoint", True, "the weights and tokenizer that were indexed")
    except HaiftraceError as error:
        return None, Check("checkpoint", False, error.message)


def _corpus(index: Index, checkpoint: Checkpoint, progress: Progress) -> Check:
    progress.start("reading the corpus", None)
    try:
        parts = indexed_corpora(index)
        if all(corpora.fingerprint(part.settings) == part.fingerprint for part in parts):
            return Check("corpus", True, "the files that were indexed")
        differences = compare_corpus(index, checkpoint)
    except HaiftraceError as error:
        return Check("corpus", False, error.message)
    items: list[str] = []
    for kind in ("changed", "missing", "added"):
        names: Sequence[str] = getattr(differences, kind)
        if names:
            more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
            items.append(f"{len(names):,} {kind}: {', '.join(names[:NAMES_SHOWN])}{more}")
    if differences.moved:
        items.append(f"{len(differences.moved):,} with the same text at another place")
    if not items:
        items.append("other files, with the same records")
    if differences.same_records:
        items.append(f"`haiftrace index --compact -o {index.path}` binds the index to them")
    return Check("corpus", False, "not the files that were indexed", tuple(items))


def _sample(
    index: Index,
    checkpoint: Checkpoint,
    count: int,
    seed: int,
    memory: int,
    progress: Progress,
) -> Check:
    try:
        outcome = recompute_sample(index, checkpoint, count, seed, memory, progress)
    except HaiftraceError as error:
        return Check("sample", False, error.message)
    detail = (
        f"{outcome.windows:,} windows computed again: losses differ by {outcome.losses:.1e}, norms"
        f" by {outcome.norms:.1e}"
    )
    if outcome.vectors is not None:
        detail += f", {outcome.vectors:.2%} of the vectors' bits agree"
    return Check("sample", not outcome.misfits, detail, tuple(outcome.misfits))
