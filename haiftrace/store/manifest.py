"""manifest.json: what an index was made from, how, and which files belong to it.

The manifest is the single truth about an index: a file that it does not name does not exist. It
holds the checksum of every file that it names, and a digest of itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from haiftrace.store.durable import replace_durably

FORMAT = "haiftrace-index"
FORMAT_VERSION = 4
MANIFEST_NAME = "manifest.json"
DIGEST = "digest"
"""The manifest's key for the digest of all its others."""
PENDING = ".appending"
"""The directory in an index in which records that are to be added are indexed first."""

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
class InvertedEntry:
    """The inverted file over label tokens (see `inverted_file`).

    Attributes:
        factory: FAISS's string for it.
        probes: cells that are searched for a query.
        recall: share of the 256 tokens that are nearest by a scan of all, as measured.
    """

    file: FileEntry
    factory: str
    probes: int
    recall: float


@dataclass(frozen=True)
class ShardEntry:
    """One Parquet file of record windows, and the vectors of its tokens for the time being.

    An unfinished index may lack shards that come before others; a complete one has them all.

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

    @property
    def number(self) -> int:
        """Of the shard in its index, from 0; a part of its files' names."""
        return int(re.split(r"[/.-]", self.records.file)[1])

    @property
    def files(self) -> list[FileEntry]:
        """Its files."""
        return [entry for entry in (self.records, self.tokens) if entry is not None]


@dataclass(frozen=True)
class SupplementEntry:
    """What a method keeps in the index (see `supplements`).

    Attributes:
        settings: what its numbers depend on, beside the index itself.
        files: in order, as far as they are durable.
        complete: whether these are all.
        basis: digests of what it was computed from, by name (see `basis`).
    """

    settings: dict[str, Any]
    files: tuple[FileEntry, ...] = ()
    complete: bool = False
    basis: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DroppedRecord:
    """A record that is masked: its rows are in the files, and nobody is given them.

    Attributes:
        record: its number among the stored records.
        first_row: number of its first window among the stored ones.
        windows, label_tokens: how many it has.
    """

    record: int
    first_row: int
    windows: int
    label_tokens: int


@dataclass(frozen=True)
class AppendedCorpus:
    """Corpus files whose records were added to a complete index.

    Attributes:
        paths: as `settings["corpus"]` has those of the first.
        fingerprint: of them.
        first_record: number of their first record among the stored ones.
    """

    paths: tuple[str, ...]
    fingerprint: str
    first_record: int


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
        token_ivf: the inverted file over them; None where all of them are scanned.
        appended: corpus files whose records were added later, in order.
        dropped: masked records, in order.
        generation: how often files of the complete index were replaced or added to; it is a part
            of the names of files written since.
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
    token_ivf: InvertedEntry | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    supplements: dict[str, SupplementEntry] = field(default_factory=dict)
    appended: tuple[AppendedCorpus, ...] = ()
    dropped: tuple[DroppedRecord, ...] = ()
    generation: int = 0
    format_version: int = FORMAT_VERSION

    @cached_property
    def totals(self) -> Totals:
        """Sums over the shards, without the masked records."""
        stored = self.stored_totals
        return Totals(
            records=stored.records - len(self.dropped),
            windows=stored.windows - sum(dropped.windows for dropped in self.dropped),
            label_tokens=stored.label_tokens - sum(d.label_tokens for d in self.dropped),
        )

    @cached_property
    def stored_totals(self) -> Totals:
        """Sums over the shards, masked records included."""
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
        named = [entry for shard in self.shards for entry in shard.files]
        ivf = None if self.token_ivf is None else self.token_ivf.file
        return [*named, *(entry for entry in (self.token_faiss, ivf) if entry is not None)]

    def supplement_files(self) -> list[FileEntry]:
        """Every file of the supplements."""
        return [entry for supplement in self.supplements.values() for entry in supplement.files]

    def encode(self) -> bytes:
        """The JSON text: sorted keys, indented, ASCII (a path may hold undecodable bytes)."""
        content = {"format": FORMAT, "totals": asdict(self.totals), **asdict(self)}
        content[DIGEST] = digest_of(content)
        return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()

    def write(self, root: Path) -> None:
        """Replace the manifest of the index at `root`, durably."""
        text = self.encode()
        replace_durably(root / MANIFEST_NAME, lambda sink: sink.write(text))
        if root in _followers:
            _followers[root](self, text)


_followers: dict[Path, Callable[[Manifest, bytes], None]] = {}


@contextmanager
def followed(root: Path, follow: Callable[[Manifest, bytes], None]) -> Iterator[None]:
    """Inside the block, `follow` is given every manifest, and its text, that is written to `root`.

    It stands on the disk then, and so do all files that it names.
    """
    _followers[root] = follow
    try:
        yield
    finally:
        del _followers[root]


def shard_file(folder: str, number: int, generation: int = 0) -> str:
    """Relative name of a shard's file; `folder` is "records" or "tokens"."""
    return f"{folder}/{number:05d}{_suffix(generation)}.parquet"


def token_faiss_file(generation: int = 0) -> str:
    """Relative name of the search index over tokens."""
    return f"tokens{_suffix(generation)}.faiss"


def token_ivf_file(generation: int = 0) -> str:
    """Relative name of the inverted file over tokens."""
    return f"tokens-ivf{_suffix(generation)}.faiss"


TOKEN_FAISS_FILE = re.compile(r"\.?tokens(-ivf)?(-[1-9]\d*)?\.faiss(\.tmp)?|\.tokens-ivf\.\d+\.tmp")
"""Names of the search indexes over tokens in any generation, and of their parts."""


def _suffix(generation: int) -> str:
    # A file that replaces another has a new name: until the manifest names it, the old one counts.
    return f"-{generation}" if generation else ""


def supplement_file(name: str, number: int, kind: str) -> str:
    """Relative name of a supplement's file; `kind` is "parquet" or "safetensors"."""
    return f"supplements/{name}/{number:05d}.{kind}"


def digest_of(content: Any) -> str:
    """SHA-256 (hex) of JSON values, whatever their order and spacing in a file.

    Raises:
        ValueError: NaN or an infinity, which is not JSON.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON keeps of `values`, so that it can be compared with what was read back.

    Raises:
        ValueError, TypeError: something in it is not JSON (NaN and infinities included).
    """
    return dict(json.loads(json.dumps(dict(values), allow_nan=False)))
