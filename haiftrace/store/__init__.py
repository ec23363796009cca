"""The index on disk: private, atomic, resumable. This page is the whole public surface."""

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
from haiftrace.store.rows import SCALAR_COLUMNS, StoredWindow, Window, WindowRow
from haiftrace.store.supplements import SupplementWriter
from haiftrace.store.token_codes import encoded
from haiftrace.store.writer import IndexWriter, ResumePoint

__all__ = [
    "FORMAT_VERSION",
    "SCALAR_COLUMNS",
    "FileEntry",
    "Index",
    "IndexWriter",
    "Layout",
    "Manifest",
    "ResumePoint",
    "ShardEntry",
    "StoredWindow",
    "SupplementEntry",
    "SupplementWriter",
    "Totals",
    "Window",
    "WindowRow",
    "encoded",
]
