"""The index on disk: private, atomic, resumable. All that is public is named here."""

from haiftrace.store.manifest import (
    FORMAT_VERSION,
    AppendedCorpus,
    DroppedRecord,
    FileEntry,
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
    "FORMAT_VERSION",
    "SCALAR_COLUMNS",
    "SHARD_ROWS",
    "AppendedCorpus",
    "DroppedRecord",
    "FileEntry",
    "Index",
    "IndexWriter",
    "IndexedWindow",
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
    "encode_signs",
]
