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

from haiftrace.errors import IndexStoreError
from haiftrace.store.durable import replace_durably, sha256_of

FORMAT = "haiftrace-index"
FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
FAISS_NAME = "records.faiss"
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
    """One pair of Parquet files.

    Attributes:
        records: the file with a row for every record window.
        tokens: the file with a row for every label token of those windows.
        record_count: how many corpus records the windows come from.
        cursor: how many corpus records had been read to their end when the shard was closed,
            those that gave no window included.
    """

    records: FileEntry
    tokens: FileEntry
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


@dataclass(frozen=True)
class Layout:
    """The shape of the rows, as the index's settings say it.

    Attributes:
        projection_dim: D, dimensions of a window's vector.
        vector_dtype: "float16" or "float32", how that vector is kept.
        token_vectors: K, dimensions of a token's vector; 0 where none are kept.
        extra_columns: names of further float64 columns, one value a window.
    """

    projection_dim: int
    vector_dtype: str
    token_vectors: int
    extra_columns: tuple[str, ...] = ()

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Layout:
        """Read `projection_dim`, `vector_dtype` and `token_vectors`.

        `extra_columns` may be missing.

        Raises:
            ValueError: one of them is missing or out of range.
        """
        dim, dtype = settings.get("projection_dim"), settings.get("vector_dtype")
        tokens, extra = settings.get("token_vectors"), settings.get("extra_columns", [])
        if not _is_count(dim) or dim < 1:
            raise ValueError("settings['projection_dim'] must be a positive integer")
        if dtype not in ("float16", "float32"):
            raise ValueError("settings['vector_dtype'] must be 'float16' or 'float32'")
        if not _is_count(tokens):
            raise ValueError("settings['token_vectors'] must be an integer, 0 for none")
        if not isinstance(extra, list | tuple) or not all(isinstance(n, str) for n in extra):
            raise ValueError("settings['extra_columns'] must be a list of names")
        return cls(dim, dtype, tokens, tuple(extra))


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        settings: how the index was made; must agree for a run to be resumed.
        fingerprints: of weights, tokenizer and corpus; must agree likewise.
        model: about the checkpoint, as the caller gave it (not compared).
        extra: what the caller gave at the end (not compared).
        supplements: by name, added once the index is complete (not compared).
        created, finished: times in ISO 8601; `finished` is None until the index is complete.
        faiss, token_faiss: the search indexes over windows and over label tokens; the latter is
            None where no token vectors are kept.
    """

    tool_version: str
    created: str
    settings: dict[str, Any]
    fingerprints: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    shards: tuple[ShardEntry, ...] = ()
    complete: bool = False
    finished: str | None = None
    faiss: FileEntry | None = None
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
            label_tokens=sum(shard.tokens.rows for shard in self.shards),
        )

    @property
    def layout(self) -> Layout:
        """The shape of the rows."""
        return Layout.from_settings(self.settings)

    def files(self) -> list[FileEntry]:
        """Every file of the index but the manifest and the supplements'."""
        files = [entry for shard in self.shards for entry in (shard.records, shard.tokens)]
        return [*files, *(entry for entry in (self.faiss, self.token_faiss) if entry is not None)]

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


def read_manifest(root: Path) -> Manifest | None:
    """Read the manifest of the index at `root`; None where there is none.

    Raises:
        IndexStoreError: it is not readable, not JSON, not haiftrace's, of a newer format, or
            lacks something.
    """
    path = root / MANIFEST_NAME
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise IndexStoreError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError):  # neither UTF-8 nor JSON
        raise IndexStoreError(
            f"{path} is not valid JSON, so nothing in {root} can be trusted.",
            "Remove the directory yourself if it is an index that you no longer need, then run "
            "`haiftrace index` again, or give another directory with -o.",
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise IndexStoreError(
            f"{path} was not written by haiftrace: {root} is not an index.",
            "Give the directory of an index, or another output directory with -o.",
        )
    version = content.get("format_version")
    if _is_count(version) and version > FORMAT_VERSION:
        raise IndexStoreError(
            f"The index {root} has format {version}, made by haiftrace "
            f"{content.get('tool_version')}; this version reads format {FORMAT_VERSION}.",
            "Upgrade haiftrace, or make another index with -o.",
        )
    if _is_count(version) and 0 < version < FORMAT_VERSION:
        raise IndexStoreError(
            f"The index {root} has format {version}, made by an earlier haiftrace"
            f" ({content.get('tool_version')}); this version reads format {FORMAT_VERSION}.",
            "Make it anew with `haiftrace index --overwrite`, from the same checkpoint and corpus.",
        )
    try:
        if version != FORMAT_VERSION:
            raise ValueError("format_version is not a known one")
        return _decode(content)
    except (ValueError, TypeError, KeyError) as error:
        detail = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise IndexStoreError(f"{path} is damaged: {detail}.", REBUILD_HINT) from error


def check_files(root: Path, entries: list[FileEntry], *, checksums: bool) -> None:
    """Compare files with their entries: existence and size, and the checksum if asked.

    Raises:
        IndexStoreError: naming the first file that differs.
    """
    for entry in entries:
        path = root / entry.file
        try:
            size = path.stat().st_size
            damage = ""
            if size != entry.bytes:
                damage = f"has {size} bytes instead of {entry.bytes}"
            elif checksums and sha256_of(path) != entry.sha256:
                damage = "does not match its checksum in the manifest"
        except FileNotFoundError:
            damage = "is missing"
        except OSError as error:
            damage = f"cannot be read ({error.strerror})"
        if damage:
            raise IndexStoreError(f"The index is damaged: {path} {damage}.", REBUILD_HINT)


def _decode(content: dict[str, Any]) -> Manifest:
    shards = []
    for number, shard in enumerate(_typed(content["shards"], list, "shards")):
        shards.append(
            ShardEntry(
                records=_file_entry(shard["records"], shard_file("records", number)),
                tokens=_file_entry(shard["tokens"], shard_file("tokens", number)),
                record_count=_count(shard["record_count"], "record_count"),
                cursor=_count(shard["cursor"], "cursor"),
            )
        )
    faiss, finished = content["faiss"], content["finished"]
    token_faiss = content.get("token_faiss")
    manifest = Manifest(
        tool_version=_typed(content["tool_version"], str, "tool_version"),
        created=_typed(content["created"], str, "created"),
        settings=_typed(content["settings"], dict, "settings"),
        fingerprints=_typed(content["fingerprints"], dict, "fingerprints"),
        model=_typed(content["model"], dict, "model"),
        shards=tuple(shards),
        complete=_typed(content["complete"], bool, "complete"),
        finished=None if finished is None else _typed(finished, str, "finished"),
        faiss=None if faiss is None else _file_entry(faiss, FAISS_NAME),
        token_faiss=None if token_faiss is None else _file_entry(token_faiss, TOKEN_FAISS_NAME),
        extra=_typed(content["extra"], dict, "extra"),
        supplements=_supplements(content.get("supplements", {})),
    )
    Layout.from_settings(manifest.settings)
    if asdict(manifest.totals) != content["totals"]:
        raise ValueError("totals do not agree with the shards' row counts")
    if manifest.complete and (manifest.faiss is None or not shards):
        raise ValueError("it is marked complete and lacks files")
    if manifest.faiss is not None and manifest.faiss.rows != manifest.totals.windows:
        raise ValueError("the search index has another number of rows than the shards")
    tokens = manifest.token_faiss
    if tokens is not None and tokens.rows != manifest.totals.label_tokens:
        raise ValueError("the search index of tokens has another number of rows than the shards")
    return manifest


def _supplements(content: Any) -> dict[str, SupplementEntry]:
    entries = {}
    for name, entry in _typed(content, dict, "supplements").items():
        if not SUPPLEMENT_NAME.fullmatch(name):
            raise ValueError("a supplement has no valid name")
        files = []
        for number, file in enumerate(_typed(entry["files"], list, "files")):
            kind = str(file["file"]).rpartition(".")[2]
            if kind not in ("parquet", "safetensors"):
                raise ValueError("a supplement's file is of no known kind")
            files.append(_file_entry(file, supplement_file(name, number, kind)))
        entries[name] = SupplementEntry(
            settings=_typed(entry["settings"], dict, "settings"),
            files=tuple(files),
            complete=_typed(entry["complete"], bool, "complete"),
        )
    return entries


def _file_entry(content: Any, expected: str) -> FileEntry:
    # Only names of our own making: a manifest must not lead outside its directory.
    if content["file"] != expected:
        raise ValueError(f"{expected} is not in its place")
    return FileEntry(
        file=expected,
        sha256=_typed(content["sha256"], str, "sha256"),
        bytes=_count(content["bytes"], "bytes"),
        rows=_count(content["rows"], "rows"),
    )


def _typed(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is not of type {kind.__name__}")
    return value


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count(value: Any, name: str) -> int:
    if not _is_count(value):
        raise ValueError(f"{name} is not a count")
    return int(value)
