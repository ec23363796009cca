"""Windows with plausible numbers, for the tests of the store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haiftrace.store import IndexWriter, StoredWindow, WindowRow

SETTINGS: dict[str, Any] = {
    "projection_dim": 8,
    "vector_dtype": "float16",
    "token_vectors": 4,
    "scope": "linear",
}
FINGERPRINTS = {"weights": "w1", "tokenizer": "t1", "corpus": "c1"}


def settings(**changes: Any) -> dict[str, Any]:
    return {**SETTINGS, **changes}


def make_row(number: int, config: dict[str, Any] = SETTINGS, **changes: Any) -> WindowRow:
    """The same window for the same number: 2 to 7 tokens, the first one no label."""
    rng = np.random.default_rng(number)
    length = 2 + number % 6
    vector = rng.standard_normal(config["projection_dim"])
    dim = config["token_vectors"]
    values: dict[str, Any] = {
        "id": f"id-{number}",
        "path": "corpus/ünïcode.jsonl",
        "line": number + 1,
        "start": 0,
        "window": 0,
        "windows": 1,
        "text": f"Zoë {number} 例え 🙂 é\n\0end",
        "token_ids": rng.integers(0, 50_000, length).tolist(),
        "offsets": [(2 * i, 2 * i + 2) for i in range(length)],
        "labels": [False] + [True] * (length - 1),
        "loss": float(rng.random()),
        "grad_norm": float(rng.random() * 100),
        "haif_norm": float(rng.random() * 10),
        "vector": (vector / np.linalg.norm(vector)).astype(np.float32),
        "token_loss": rng.random(length).astype(np.float32),
        "token_grad_norm": rng.random(length) * 1e3,
        "token_vectors": rng.standard_normal((length, dim)).astype(np.float16) if dim else None,
        "extra": {name: float(rng.random()) for name in config.get("extra_columns", ())},
    }
    return WindowRow(**{**values, **changes})


def make_records(count: int, config: dict[str, Any] = SETTINGS) -> list[list[WindowRow]]:
    """Records; every third has two windows."""
    records = []
    for number in range(count):
        windows = 2 if number % 3 == 2 else 1
        records.append(
            [
                make_row(10 * number + w, config, id=f"id-{number}", window=w, windows=windows)
                for w in range(windows)
            ]
        )
    return records


def open_writer(path: Path, config: dict[str, Any] = SETTINGS, **options: Any) -> IndexWriter:
    options = {"shard_rows": 3, **options}
    return IndexWriter.create_or_resume(path, config, FINGERPRINTS, **options)


def write_index(
    path: Path, records: list[list[WindowRow]], config: dict[str, Any] = SETTINGS, **options: Any
) -> None:
    """What the index command does: go on after the cursor, and finish."""
    with open_writer(path, config, **options) as writer:
        if writer.already_complete:
            return
        for number in range(writer.resume_after.cursor, len(records)):
            writer.append_record(records[number], cursor=number + 1)
        writer.finish()


def contents(path: Path) -> dict[str, bytes]:
    """Every data file of an index by its relative name."""
    files = [file for file in path.rglob("*") if file.is_file()]
    skipped = {"manifest.json", ".lock"}
    return {str(f.relative_to(path)): f.read_bytes() for f in files if f.name not in skipped}


PLAIN = ("id", "path", "line", "start", "window", "windows", "text", "token_ids", "offsets")
NUMBERS = ("labels", "loss", "grad_norm", "haif_norm", "extra")


def assert_same(stored: StoredWindow, row: WindowRow, config: dict[str, Any]) -> None:
    """What was read is what was written, vectors included."""
    for name in PLAIN + NUMBERS:
        assert getattr(stored, name) == getattr(row, name), name
    labels = np.array(row.labels, dtype=bool)
    np.testing.assert_array_equal(stored.token_loss, np.where(labels, row.token_loss, 0))
    np.testing.assert_array_equal(stored.token_grad_norm, np.where(labels, row.token_grad_norm, 0))
    assert stored.token_loss.dtype == np.float32
    assert stored.token_grad_norm.dtype == np.float64
    assert stored.vector is not None
    assert stored.vector.dtype == config["vector_dtype"]
    np.testing.assert_array_equal(stored.vector, row.vector.astype(config["vector_dtype"]))
    if row.token_vectors is None:
        assert stored.token_vectors is None
    else:
        assert stored.token_vectors is not None
        assert stored.token_vectors.dtype == np.float32
        expected = np.where(labels[:, None], row.token_vectors.astype(float), 0)
        half_a_step = np.abs(expected).max(1, keepdims=True) / 127 / 2
        assert (np.abs(stored.token_vectors - expected) <= half_a_step * (1 + 1e-5)).all()


@pytest.fixture(autouse=True, scope="module")
def quick_fsync() -> Iterator[None]:
    """Waiting for a real disk proves nothing; that fsync is called has a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
