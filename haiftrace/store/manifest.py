"""manifest.json: what an index was made from, how, and which files belong to it.

The manifest is the single truth about an index: a file that it does not name does not exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from haiftrace.store.durable import replace_durably

FORMAT = "haiftrace-index"
FORMAT_VERSION = 3
MANIFEST_NAME = "manifest.json"
TOKEN_FAISS_NAME = "tokens.faiss"

SUPPLEMENT_NAME = re.compile(r"[a-z][a-z0-9-]*")

REBUILD_HINT = "Run the same `haiftrace index` command with --overwrite to build it again."


@dataclass(frozen=True)
class FileEntry:
    """One file of the index: relative name, SHA-256, size in bytes, number of rows in it."""

    file: str
    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True)
class ShardEntry:
    """One Parquet file of record windows, and the vectors of its tokens for the time being.

    Attributes:
        records: the file with a row for every record window.
        tokens: the file with a row for every label token of those windows, from which the index
            over tokens is built; None once that is done, and where no token vectors are kept.
        label_tokens: how many label tokens the windows have.
        record_count: how many corpus records the windows come from.
        cursor: how many corpus records had been read to their end when the shard was closed,
            those that gave no window included.
    """

    records: FileEntry
    tokens: FileEntry | None
    label_tokens: int
    record_count: int
    cursor: int


@dataclass(frozen=True)
class SupplementEntry:
    """What a method keeps in the index (see `supplements`).

    Attributes:
        settings: what its numbers depend on, beside the index itself.
        files: in order, as far as they are durable.
        complete: whether these are all.
    """

    settings: dict[str, Any]
    files: tuple[FileEntry, ...] = ()
    complete: bool = False


@dataclass(frozen=True)
class Totals:
    """Sizes of the index: corpus records with a window, windows, label tokens."""

    records: int = 0
    windows: int = 0
    label_tokens: int = 0


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value of JSON is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class Layout:
    """What an index keeps, as its settings say it.

    Attributes:
        token_vectors: K, dimensions of a token's vector; 0 where none are kept.
    """

    token_vectors: int

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Layout:
        """Read `token_vectors`.

        Raises:
            ValueError: it is missing or out of range.
        """
        tokens = settings.get("token_vectors")
        if not is_count(tokens):
            raise ValueError("settings['token_vectors'] must be an integer, 0 for none")
        if tokens % 8:
            raise ValueError("settings['token_vectors'] must be a multiple of 8: a bit each")
        return cls(tokens)


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        settings: how the index was made; must agree for a run to be resumed.
        fingerprints: of weights, tokenizer and corpus; must agree likewise.
        model: about the checkpoint, as the caller gave it (not compared).
        extra: what the caller gave at the end (not compared).
        supplements: by name (not compared).
        created, finished: times in ISO 8601; `finished` is None until the index is complete.
        token_faiss: the search index over label tokens; None until the index is complete, and
            where no token vectors are kept.
    """

    tool_version: str
    created: str
    settings: dict[str, Any]
    fingerprints: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    shards: tuple[ShardEntry, ...] = ()
    complete: bool = False
    finished: str | None = None
    token_faiss: FileEntry | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    supplements: dict[str, SupplementEntry] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @cached_property
    def totals(self) -> Totals:
        """Sums over the shards."""
        return Totals(
            records=sum(shard.record_count for shard in self.shards),
            windows=sum(shard.records.rows for shard in self.shards),
            label_tokens=sum(shard.label_tokens for shard in self.shards),
        )

    @property
    def layout(self) -> Layout:
        """The shape of the rows."""
        return Layout.from_settings(self.settings)

    def files(self) -> list[FileEntry]:
        """Every file of the index but the manifest and the supplements'."""
        named = [entry for shard in self.shards for entry in (shard.records, shard.tokens)]
        return [entry for entry in (*named, self.token_faiss) if entry is not None]

    def supplement_files(self) -> list[FileEntry]:
        """Every file of the supplements."""
        return [entry for supplement in self.supplements.values() for entry in supplement.files]

    def encode(self) -> bytes:
        """The JSON text: sorted keys, indented, ASCII (a path may hold undecodable bytes)."""
        content = {"format": FORMAT, "totals": asdict(self.totals), **asdict(self)}
        return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()

    def write(self, root: Path) -> None:
        """Replace the manifest of the index at `root`, durably."""
        text = self.encode()
        replace_durably(root / MANIFEST_NAME, lambda sink: sink.write(text))


def shard_file(folder: str, number: int) -> str:
    """Relative name of a shard's file; `folder` is "records" or "tokens"."""
    return f"{folder}/{number:05d}.parquet"


def supplement_file(name: str, number: int, kind: str) -> str:
    """Relative name of a supplement's file; `kind` is "parquet" or "safetensors"."""
    return f"supplements/{name}/{number:05d}.{kind}"


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON keeps of `values`, so that it can be compared with what was read back.

    Raises:
        ValueError, TypeError: something in it is not JSON (NaN and infinities included).
    """
    return dict(json.loads(json.dumps(dict(values), allow_nan=False)))
