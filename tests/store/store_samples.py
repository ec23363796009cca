"""Windows with plausible numbers, for the tests of the store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haiftrace.store import IndexWriter, ShardBuffer, StoredWindow, Totals, WindowRow
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


class Appender:
    """An index writer that is given record after record, and makes shards of so many windows."""

    def __init__(self, writer: IndexWriter, shard_rows: int) -> None:
        self.writer = writer
        self._shard_rows = shard_rows
        self._number = self._record = 0
        self._begin()

    def _begin(self) -> None:
        self._buffer = ShardBuffer(self.writer.root, self.writer.manifest.layout)

    def append_record(self, rows: Sequence[WindowRow]) -> None:
        self._buffer.append(rows)
        if self._buffer.size[1] >= self._shard_rows:
            self.flush()

    def flush(self) -> None:
        """The records so far as a shard, where the index does not hold it already."""
        records = self._buffer.size[0]
        if not records:
            return
        after = self._record + records
        if self._number not in self.writer.shard_numbers:
            self.writer.add_shard(self._buffer.write(self._number, self._record, after))
        self._number, self._record = self._number + 1, after
        self._begin()

    def finish(self, extra: dict[str, Any] | None = None) -> Totals:
        self.flush()
        return self.writer.finish(extra)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.writer, name)

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.writer.close()


def open_writer(
    path: Path, config: dict[str, Any] = SETTINGS, shard_rows: int = 3, **options: Any
) -> Appender:
    writer = IndexWriter.create_or_resume(path, config, FINGERPRINTS, **options)
    return Appender(writer, shard_rows)


def write_index(
    path: Path, records: list[list[WindowRow]], config: dict[str, Any] = SETTINGS, **options: Any
) -> None:
    """What the index command does: make the shards that are missing, and finish."""
    with open_writer(path, config, **options) as writer:
        if writer.already_complete:
            return
        for rows in records:
            writer.append_record(rows)
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
