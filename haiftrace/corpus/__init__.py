"""The training corpus: which files it is, and the stream of records in them."""

from haiftrace.corpus.corpus_file import CorpusFile
from haiftrace.corpus.files import find_files
from haiftrace.corpus.formats import read_rows
from haiftrace.corpus.formats.rows import Row
from haiftrace.corpus.record_fields import Record
from haiftrace.corpus.records import ReadReport, read_records
from haiftrace.corpus.settings import (
    CorpusSettings,
    LossOn,
    RecordFormat,
    corpus_files,
    fingerprint,
)

__all__ = [
    "CorpusFile",
    "CorpusSettings",
    "LossOn",
    "ReadReport",
    "Record",
    "RecordFormat",
    "Row",
    "corpus_files",
    "find_files",
    "fingerprint",
    "read_records",
    "read_rows",
]
