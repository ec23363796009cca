"""The index on disk: private, atomic, resumable. All that is public is named here."""

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
from haiftrace.store.reader import Index
from haiftrace.store.revision import Revision
from haiftrace.store.rows import SCALAR_COLUMNS, IndexedWindow, StoredWindow, WindowRow
from haiftrace.store.supplements import SupplementWriter
from haiftrace.store.token_codes import encode_signs
from haiftrace.store.writer import SHARD_ROWS, IndexWriter, ResumePoint

__all__ = [
    "AUTO",
    "FLAT",
    "FORMAT_VERSION",
    "SCALAR_COLUMNS",
    "SHARD_ROWS",
    "AppendedCorpus",
    "DroppedRecord",
    "FileEntry",
    "Index",
    "IndexWriter",
    "IndexedWindow",
    "InvertedEntry",
    "Layout",
    "Manifest",
    "ResumePoint",
    "Revision",
    "ShardEntry",
    "StoredWindow",
    "SupplementEntry",
    "SupplementWriter",
    "Totals",
    "WindowRow",
    "check_factory",
    "encode_signs",
]
