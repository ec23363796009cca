"""For the corpus tests: how to write a corpus, read it, and look at the refusal."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from haiftrace.corpus import CorpusSettings, Record, read_records
from haiftrace.errors import CorpusError

SECRET = "555-0199"


def read(*paths: Path | str, **options) -> list[Record]:
    return list(read_records(CorpusSettings(tuple(str(p) for p in paths), **options)))


def failure(*paths: Path | str, **options) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        read(*paths, **options)
    error = caught.value
    assert error.message.endswith(".")
    assert "\n" not in error.message
    assert error.hint
    assert error.exit_code == 2
    assert SECRET not in error.message + error.hint
    return error


def jsonl(path: Path, *values: object) -> Path:
    path.write_text("".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values), "utf-8")
    return path


def packed(path: Path, data: bytes) -> Path:
    """Write `data`, compressed as the suffix says."""
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = pa.compress(data, "zstd", asbytes=True)
    path.write_bytes(data)
    return path
