"""The training corpus: which files it is, and the stream of records in them."""

from haiftrace.corpus.files import CorpusFile, find_files
from haiftrace.corpus.formats import Row, read_rows
from haiftrace.corpus.records import (
    CorpusSettings,
    LossOn,
    ReadReport,
    Record,
    corpus_files,
    fingerprint,
    read_records,
)

__all__ = [
    "CorpusFile",
    "CorpusSettings",
    "LossOn",
    "ReadReport",
    "Record",
    "Row",
    "corpus_files",
    "find_files",
    "fingerprint",
    "read_records",
    "read_rows",
]
