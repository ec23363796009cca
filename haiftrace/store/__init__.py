"""The index on disk: private, atomic, resumable. All that is public is named here."""

from haiftrace.store.claim import difference
from haiftrace.store.inverted_file import AUTO, FLAT, check_factory
from haiftrace.store.manifest import (
    FORMAT_VERSION,
    AppendedCorpus,
    DroppedRecord,
    FileEntry,
    InvertedEntry,
    Layout,
    Manifest,
    ShardEntry,
    SupplementEntry,
    Totals,
)
from haiftrace.store.manifest_reading import read_manifest
from haiftrace.store.reader import Index
from haiftrace.store.remote_shards import fetch_begun, send_staged, take_staged
from haiftrace.store.revision import Revision
from haiftrace.store.rows import SCALAR_COLUMNS, IndexedWindow, StoredWindow, WindowRow
from haiftrace.store.shard_buffer import ShardBuffer, StagedShard
from haiftrace.store.shard_copy import copied_shard
from haiftrace.store.supplements import SupplementWriter
from haiftrace.store.token_codes import encode_signs
from haiftrace.store.writer import IndexWriter, kept_tensors

__all__ = [
    "AUTO",
    "FLAT",
    "FORMAT_VERSION",
    "SCALAR_COLUMNS",
    "AppendedCorpus",
    "DroppedRecord",
    "FileEntry",
    "Index",
    "IndexWriter",
    "IndexedWindow",
    "InvertedEntry",
    "Layout",
    "Manifest",
    "Revision",
    "ShardBuffer",
    "ShardEntry",
    "StagedShard",
    "StoredWindow",
    "SupplementEntry",
    "SupplementWriter",
    "Totals",
    "WindowRow",
    "check_factory",
    "copied_shard",
    "difference",
    "encode_signs",
    "fetch_begun",
    "kept_tensors",
    "read_manifest",
    "send_staged",
    "take_staged",
]
