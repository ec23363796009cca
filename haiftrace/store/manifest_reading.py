"""Reading manifest.json, and comparing files with it: what is damaged or foreign is refused."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from haiftrace.errors import DamagedIndexError
from haiftrace.store.basis import check_basis
from haiftrace.store.durable import sha256_of
from haiftrace.store.manifest import (
    DIGEST,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_NAME,
    REBUILD_HINT,
    SUPPLEMENT_NAME,
    AppendedCorpus,
    DroppedRecord,
    FileEntry,
    InvertedEntry,
    Manifest,
    ShardEntry,
    SupplementEntry,
    digest_of,
    is_count,
    shard_file,
    supplement_file,
    token_faiss_file,
    token_ivf_file,
)


def read_manifest(root: Path) -> Manifest | None:
    """Read the manifest of the index at `root`; None where there is none.

    Raises:
        DamagedIndexError: it is not readable, not JSON, not haiftrace's, of another format, not
            what was written (by its digest), or lacks something.
    """
    path = root / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamagedIndexError(f"{path} cannot be read: {error.strerror}.") from error
    return parse_manifest(text, root)


def parse_manifest(text: bytes, root: Path) -> Manifest:
    """The manifest that a text is.

    Args:
        root: of its index, for what is said of it.

    Raises:
        DamagedIndexError: as of `read_manifest`.
    """
    path = root / MANIFEST_NAME
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # neither UTF-8 nor JSON
        raise DamagedIndexError(
            f"{path} is not valid JSON, so nothing in {root} can be trusted.",
            "Remove the directory yourself if it is an index that you no longer need, then run "
            "`haiftrace index` again, or give another directory with -o.",
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DamagedIndexError(
            f"{path} was not written by haiftrace, or is damaged: {root} is not an index.",
            "Give the directory of an index, or another output directory with -o.",
        )
    version = content.get("format_version")
    if is_count(version) and version > FORMAT_VERSION:
        raise DamagedIndexError(
            f"The index {root} ({MANIFEST_NAME}) has format {version}, made by haiftrace "
            f"{content.get('tool_version')}; this version reads format {FORMAT_VERSION}.",
            "Upgrade haiftrace, or make another index with -o.",
        )
    if is_count(version) and 0 < version < FORMAT_VERSION:
        raise DamagedIndexError(
            f"The index {root} ({MANIFEST_NAME}) has format {version}, made by an earlier haiftrace"
            f" ({content.get('tool_version')}); this version reads format {FORMAT_VERSION}.",
            "Make it anew with `haiftrace index --overwrite`, from the same checkpoint and corpus.",
        )
    try:
        if version != FORMAT_VERSION:
            raise ValueError("format_version is not a known one")
        if content.pop(DIGEST, None) != digest_of(content):
            raise ValueError("its content does not match its own digest")
        return _decode(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        detail = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DamagedIndexError(f"{path} is damaged: {detail}.", REBUILD_HINT) from error


def check_files(root: Path, entries: list[FileEntry], *, checksums: bool) -> None:
    """Compare files with their entries: existence and size, and the checksum on request.

    Raises:
        DamagedIndexError: naming the first file that differs.
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
            raise damaged_file(root, entry, damage)


def damaged_file(root: Path, entry: FileEntry, damage: str) -> DamagedIndexError:
    """The error that names a file, and the command that makes it again."""
    hint = REBUILD_HINT
    folder, name, *_ = *Path(entry.file).parts, ""
    if folder == "supplements" and name != "whitening":  # the rows depend on that
        hint = (
            f"Run `{shlex.join(['haiftrace', 'index', '-o', str(root)])}` with the --method or"
            f" --calibrate that made {name}: what is damaged is computed again."
        )
    return DamagedIndexError(f"The index is damaged: {root / entry.file} {damage}.", hint)


def _decode(content: dict[str, Any]) -> Manifest:
    generation = _count(content["generation"], "generation")
    generations = range(min(generation, 1 << 16) + 1)
    complete = _typed(content["complete"], bool, "complete")
    shards = _shards(_typed(content["shards"], list, "shards"), generations, complete)
    finished, token_faiss = content["finished"], content["token_faiss"]
    manifest = Manifest(
        tool_version=_typed(content["tool_version"], str, "tool_version"),
        created=_typed(content["created"], str, "created"),
        settings=_typed(content["settings"], dict, "settings"),
        fingerprints=_typed(content["fingerprints"], dict, "fingerprints"),
        model=_typed(content["model"], dict, "model"),
        shards=tuple(shards),
        complete=complete,
        finished=None if finished is None else _typed(finished, str, "finished"),
        token_faiss=None
        if token_faiss is None
        else _file_entry(token_faiss, {token_faiss_file(g) for g in generations}),
        token_ivf=_inverted(content.get("token_ivf"), {token_ivf_file(g) for g in generations}),
        extra=_typed(content["extra"], dict, "extra"),
        supplements=_supplements(content["supplements"]),
        appended=tuple(map(_appended, _typed(content["appended"], list, "appended"))),
        dropped=tuple(map(_dropped, _typed(content["dropped"], list, "dropped"))),
        generation=generation,
    )
    if asdict(manifest.totals) != content["totals"]:
        raise ValueError("totals do not agree with the shards' row counts")
    _check_token_files(manifest)
    _check_dropped(manifest)
    check_basis(manifest)
    return manifest


def _shards(content: list[Any], generations: range, complete: bool) -> list[ShardEntry]:
    """In order: all that there are where the index is complete, else some of them."""
    shards: list[ShardEntry] = []
    for place, shard in enumerate(content):
        number = place
        if not complete:
            matched = re.fullmatch(r"records/(\d{5,9})\.parquet", str(shard["records"]["file"]))
            number = -1 if matched is None else int(matched[1])
            if number <= (shards[-1].number if shards else -1):
                raise ValueError("its shards are not in order")
        tokens = shard["tokens"]
        shards.append(
            ShardEntry(
                records=_file_entry(
                    shard["records"], {shard_file("records", number, g) for g in generations}
                ),
                tokens=None
                if tokens is None
                else _file_entry(tokens, {shard_file("tokens", number)}),
                label_tokens=_count(shard["label_tokens"], "label_tokens"),
                record_count=_count(shard["record_count"], "record_count"),
                cursor=_count(shard["cursor"], "cursor"),
            )
        )
    return shards


def _check_token_files(manifest: Manifest) -> None:
    """The vectors of tokens are with the shards, or in the search index of a complete index."""
    vectors = manifest.layout.token_vectors > 0
    if manifest.complete and not manifest.shards:
        raise ValueError("it is marked complete and lacks files")
    for shard in manifest.shards:
        staged = vectors and not manifest.complete
        if (shard.tokens is not None) != staged:
            raise ValueError("the token vectors of a shard are not in their place")
        if shard.tokens is not None and shard.tokens.rows != shard.label_tokens:
            raise ValueError("a shard's files do not agree in the number of its tokens")
    searched, labels = manifest.token_faiss, manifest.stored_totals.label_tokens
    if (searched is not None) != (manifest.complete and vectors and labels > 0):
        raise ValueError("the search index of tokens is not in its place")
    inverted = manifest.token_ivf
    if inverted is not None and (searched is None or inverted.file.rows != searched.rows):
        raise ValueError("the inverted file of tokens has another number of rows than the shards")
    if searched is not None and searched.rows != labels:
        raise ValueError("the search index of tokens has another number of rows than the shards")


def _check_dropped(manifest: Manifest) -> None:
    after_row = after_record = 0
    for dropped in manifest.dropped:
        if dropped.first_row < after_row or dropped.record < after_record or not dropped.windows:
            raise ValueError("the masked records are not in order")
        after_row, after_record = dropped.first_row + dropped.windows, dropped.record + 1
    stored = manifest.stored_totals
    if after_row > stored.windows or after_record > stored.records:
        raise ValueError("a masked record is not in the index")
    if manifest.dropped and (not manifest.complete or manifest.totals.windows <= 0):
        raise ValueError("no record is left")


def _dropped(content: Any) -> DroppedRecord:
    names = ("record", "first_row", "windows", "label_tokens")
    return DroppedRecord(**{name: _count(content[name], name) for name in names})


def _appended(content: Any) -> AppendedCorpus:
    return AppendedCorpus(
        paths=tuple(
            _typed(path, str, "a path") for path in _typed(content["paths"], list, "paths")
        ),
        fingerprint=_typed(content["fingerprint"], str, "fingerprint"),
        first_record=_count(content["first_record"], "first_record"),
    )


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
            files.append(_file_entry(file, {supplement_file(name, number, kind)}))
        entries[name] = SupplementEntry(
            settings=_typed(entry["settings"], dict, "settings"),
            files=tuple(files),
            complete=_typed(entry["complete"], bool, "complete"),
            basis=_typed(entry["basis"], dict, "basis"),
        )
    return entries


def _file_entry(content: Any, expected: set[str]) -> FileEntry:
    # Only names of our own making: a manifest must not lead outside its directory.
    if content["file"] not in expected:
        raise ValueError(f"{min(expected, key=len)} is not in its place")
    return FileEntry(
        file=content["file"],
        sha256=_typed(content["sha256"], str, "sha256"),
        bytes=_count(content["bytes"], "bytes"),
        rows=_count(content["rows"], "rows"),
    )


def _inverted(content: Any, expected: set[str]) -> InvertedEntry | None:
    if content is None:
        return None
    probes = _count(content["probes"], "probes")
    recall = _typed(content["recall"], float, "recall")
    if not probes or not 0 <= recall <= 1:
        raise ValueError("the inverted file of tokens has no valid recall")
    factory = _typed(content["factory"], str, "factory")
    return InvertedEntry(_file_entry(content["file"], expected), factory, probes, recall)


def _typed(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is not of type {kind.__name__}")
    return value


def _count(value: Any, name: str) -> int:
    if not is_count(value):
        raise ValueError(f"{name} is not a count")
    return int(value)
