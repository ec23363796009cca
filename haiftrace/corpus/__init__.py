"""The training corpus: which files it is, and the stream of records in them."""

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
    "CorpusSettings",
    "LossOn",
    "ReadReport",
    "Record",
    "corpus_files",
    "fingerprint",
    "read_records",
]
