"""The index on disk: private, atomic, resumable. All that is public is named here."""

from haiftrace.store.manifest import (
    FORMAT_VERSION,
    FileEntry,
    Layout,
    Manifest,
    ShardEntry,
    SupplementEntry,
    Totals,
)
from haiftrace.store.reader import Index
from haiftrace.store.rows import SCALAR_COLUMNS, IndexedWindow, StoredWindow, WindowRow
from haiftrace.store.supplements import SupplementWriter
from haiftrace.store.token_codes import encode_signs
from haiftrace.store.writer import IndexWriter, ResumePoint

__all__ = [
    "FORMAT_VERSION",
    "SCALAR_COLUMNS",
    "FileEntry",
    "Index",
    "IndexWriter",
    "IndexedWindow",
    "Layout",
    "Manifest",
    "ResumePoint",
    "ShardEntry",
    "StoredWindow",
    "SupplementEntry",
    "SupplementWriter",
    "Totals",
    "WindowRow",
    "encode_signs",
]
