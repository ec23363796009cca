"""Use case: records are taken out of a complete index, as a deletion request asks for.

They are masked at once, and given to nobody from then on; compacting removes their texts and
vectors from every file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace import corpus as corpora
from haiftrace.errors import CorpusError, UsageError
from haiftrace.index.corpus_comparison import compare_corpus
from haiftrace.scoring.freshness import indexed_corpora
from haiftrace.store import DroppedRecord, Index, Revision

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint


@dataclass(frozen=True)
class Masking:
    """What a list of ids came to.

    Attributes:
        masked: records that are masked now and were not before.
        already: ids whose records were masked before.
        unknown_lines: lines of the list, from 1, whose id no record of the index has.
    """

    masked: int
    already: int
    unknown_lines: tuple[int, ...]


@dataclass(frozen=True)
class Compaction:
    """What compacting came to.

    Attributes:
        removed: records whose rows are in no file any more.
        renewed: whether the index was bound to its corpus as it is now.
        stale: the corpus holds other records than the index, which trace refuses.
    """

    removed: int
    renewed: bool
    stale: bool


def mask_ids(path: Path, list_file: Path) -> Masking:
    """Mask the records whose ids a file lists, one a line.

    Raises:
        UsageError: the file cannot be read, or no record has any of the ids.
        IndexStoreError: there is no complete index, it is damaged, or no record would be left.
    """
    ids = _read_ids(list_file)
    with Revision(path) as revision, Index.open(path, verify=False) as index:
        masked_before = {entry.record for entry in revision.manifest.dropped}
        chosen: list[DroppedRecord] = []
        matched: set[str] = set()
        already = 0
        for name, record in _stored_records(index):
            if name not in ids:
                continue
            matched.add(name)
            if record.record in masked_before:
                already += 1
            else:
                chosen.append(record)
        if not matched:
            raise UsageError(
                f"No record of the index {path} has an id that {list_file} lists.",
                "Write one id a line, as `haiftrace trace` shows it.",
            )
        if chosen:
            revision.mask(chosen)
    unknown = sorted(line for name, line in ids.items() if name not in matched)
    return Masking(len(chosen), already, tuple(unknown))


def compact(path: Path, load: Callable[[Index], Checkpoint]) -> Compaction:
    """Remove masked records from every file, and bind the index to its corpus as it is now.

    The latter only where the corpus was changed, and holds the very records of the index: so the
    records that were dropped may be removed from it.

    Args:
        path: of the index.
        load: gives the index's checkpoint, where the corpus has to be read.

    Raises:
        HaiftraceError: the index is damaged, or the checkpoint cannot be loaded.
    """
    with Revision(path) as revision:
        removed = len(revision.manifest.dropped)
        revision.compact()
        with Index.open(path, verify=False) as index:
            parts = indexed_corpora(index)
            try:
                fingerprints = [corpora.fingerprint(part.settings) for part in parts]
            except CorpusError:  # not there: trace takes the index's own texts
                return Compaction(removed, renewed=False, stale=False)
            if fingerprints == [part.fingerprint for part in parts]:
                return Compaction(removed, renewed=False, stale=False)
            differences = compare_corpus(index, load(index))
        if not differences.same_records:
            return Compaction(removed, renewed=False, stale=True)
        revision.renew_corpus(fingerprints, differences.moved)
        return Compaction(removed, renewed=True, stale=False)


def _read_ids(list_file: Path) -> dict[str, int]:
    try:
        lines = list_file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(
            f"The list of ids {list_file} cannot be read: {reason}.", "Write one id a line."
        ) from None
    ids = {line.strip(): number for number, line in enumerate(lines, 1) if line.strip()}
    if not ids:
        raise UsageError(f"The list of ids {list_file} is empty.", "Write one id a line.")
    return ids


def _stored_records(index: Index) -> Iterator[tuple[str, DroppedRecord]]:
    """Every stored record with its id, masked ones too."""
    names = ["id", "record", "label_count"]
    row = 0
    pending: tuple[str, DroppedRecord] | None = None
    for table in index.shard_tables(names, masked=True):
        columns = (table.column(name).to_pylist() for name in names)
        for name, record, labels in zip(*columns, strict=True):
            if pending is not None and pending[1].record == record:
                so_far = pending[1]
                grown = DroppedRecord(
                    record, so_far.first_row, so_far.windows + 1, so_far.label_tokens + labels
                )
                pending = (name, grown)
            else:
                if pending is not None:
                    yield pending
                pending = (name, DroppedRecord(record, row, 1, labels))
            row += 1
    if pending is not None:
        yield pending
