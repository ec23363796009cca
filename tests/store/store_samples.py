"""Windows with plausible numbers, for the tests of the store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haiftrace.store import IndexWriter, StoredWindow, WindowRow
from haiftrace.store.token_codes import decode_signs, encode_signs

SETTINGS: dict[str, Any] = {"token_vectors": 8, "scope": "linear"}
FINGERPRINTS = {"weights": "w1", "tokenizer": "t1", "corpus": "c1"}


def settings(**changes: Any) -> dict[str, Any]:
    return {**SETTINGS, **changes}


def make_row(number: int, config: dict[str, Any] = SETTINGS, **changes: Any) -> WindowRow:
    """The same window for the same number: 2 to 7 tokens, the first one no label."""
    rng = np.random.default_rng(number)
    length = 2 + number % 6
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
        "token_loss": rng.random(length).astype(np.float32),
        "token_grad_norm": rng.random(length) * 1e3,
        "token_codes": encode_signs(rng.standard_normal((length, dim))) if dim else None,
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


def assert_same(stored: StoredWindow, row: WindowRow) -> None:
    """What was read is what was written."""
    for name in (*PLAIN, "labels", "loss"):
        assert getattr(stored, name) == getattr(row, name), name
    labels = np.array(row.labels, dtype=bool)
    for name in ("token_loss", "token_grad_norm"):
        values = getattr(stored, name)
        assert values.dtype == np.float32
        right = np.where(labels, getattr(row, name), 0).astype(np.float32)
        np.testing.assert_array_equal(values, right)


def label_vectors(rows: list[WindowRow]) -> np.ndarray:
    """[tokens, K] the vectors of the label tokens as an unfinished index keeps them."""
    return decode_signs(np.concatenate([row.token_codes[np.array(row.labels)] for row in rows]))


@pytest.fixture(autouse=True, scope="module")
def quick_fsync() -> Iterator[None]:
    """Waiting for a real disk proves nothing; that fsync is called has a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
