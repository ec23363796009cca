"""The records of an index beside those of its corpus as it is now: by id, never by their text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.index.census import Reader
from haiftrace.scoring.freshness import indexed_corpora
from haiftrace.store import Index

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint


@dataclass
class CorpusDifferences:
    """Names of records, as `id` or as `path:line` where they have no id of their own.

    Attributes:
        changed: in both, with another text.
        missing: in the index alone.
        added: in the corpus alone.
        moved: in both with the same text, and at another place: where they are now, by id.
    """

    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    moved: dict[str, tuple[str, int | None]] = field(default_factory=dict)

    @property
    def same_records(self) -> bool:
        """Whether both have the same records with the same texts."""
        return not (self.changed or self.missing or self.added)


@dataclass(frozen=True)
class _Kept:
    content_hash: str
    path: str
    line: int | None


def compare_corpus(index: Index, checkpoint: Checkpoint) -> CorpusDifferences:
    """Read the corpus once and compare it with the records that the index gives.

    Masked records are not in the index; in the corpus they count as added.

    Args:
        checkpoint: its tokenizer renders chats, and says which records have a label.

    Raises:
        CorpusError: the corpus cannot be read.
    """
    differences = CorpusDifferences()
    kept = dict(_kept_records(index))
    settings = index.settings
    for corpus in indexed_corpora(index):
        reader = Reader(checkpoint, corpus.settings, settings["context"], settings["append_eos"])
        for record, windows in reader.records():
            if not windows:
                continue
            before = kept.pop(record.id, None)
            if before is None:
                differences.added.append(record.id)
            elif before.content_hash != windows[0].content_hash:
                differences.changed.append(record.id)
            elif (Path(before.path).name, before.line) != (Path(record.path).name, record.line):
                differences.moved[record.id] = (record.path, record.line)
    differences.missing.extend(kept)
    return differences


def _kept_records(index: Index) -> Iterator[tuple[str, _Kept]]:
    names = ["id", "content_hash", "path", "line", "window"]
    for table in index.shard_tables(names):
        columns = (table.column(name).to_pylist() for name in names)
        for name, content_hash, path, line, window in zip(*columns, strict=True):
            if window == 0:
                yield name, _Kept(content_hash, path, line)
