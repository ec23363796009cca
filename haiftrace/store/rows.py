"""One record window as the store takes and gives it, and as rows of its Parquet tables.

Shape letters: T tokens of the window, m labels of the window, K dimensions of a token's vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.errors import IndexStoreError
from haiftrace.store.manifest import Layout
from haiftrace.store.parquet import list_of, lists

if TYPE_CHECKING:
    import pyarrow as pa

OPTIONAL_COLUMNS = ("content_hash", "group")
"""Columns of strings that may be missing."""

# Columns that hold one number a window, by their type.
SCALAR_COLUMNS: dict[str, str] = {
    "record": "int64",
    "start": "int64",
    "window": "int32",
    "windows": "int32",
    "length": "int32",
    "label_count": "int32",
    "loss": "float64",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class IndexedWindow:
    """What is known of one window of a record.

    Attributes:
        id: the record's id.
        path, line: where the record stands in the corpus; `line` is None in files without lines.
        start: position in the record of the window's first token.
        window, windows: number of this window, from 0, and how many the record has.
        text: the characters that the window covers.
        token_ids: T vocabulary ids.
        offsets: T pairs of character offsets (start, end).
        labels: T flags, True where the token's loss counts.
        loss: mean over the labels of the cross-entropy, in nats.
        token_loss: [T] nats; only values at labels are kept, the others read as 0. Kept in float32.
        token_grad_norm: [T] norm of the token gradients that the index was made with; likewise.
        content_hash: SHA-256 (hex) of the record's text; None where it was not given.
        group: the value of the record's group field; None without one.
    """

    id: str
    path: str
    line: int | None
    start: int
    window: int
    windows: int
    text: str
    token_ids: list[int]
    offsets: list[tuple[int, int]]
    labels: list[bool]
    loss: float
    token_loss: np.ndarray
    token_grad_norm: np.ndarray
    content_hash: str | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowRow(IndexedWindow):
    """A window to be stored.

    Attributes:
        token_codes: [T, K/8] uint8, projected unit gradients as `token_codes` encodes them; looked
            at only at labels. None where the index keeps none.
    """

    token_codes: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredWindow(IndexedWindow):
    """A window read back.

    Attributes:
        row: its number in the index, from 0.
        record: number of its record in the index, from 0 (ids need not be unique).
    """

    row: int
    record: int


def record_schema() -> pa.Schema:
    """Columns of the files in records/."""
    import pyarrow as pa

    columns: list[tuple[str, Any]] = [
        ("id", pa.string()),
        ("path", pa.string()),
        ("text", pa.string()),
        ("token_ids", list_of(pa.int32())),
        ("offset_starts", list_of(pa.int32())),
        ("offset_ends", list_of(pa.int32())),
        ("labels", list_of(pa.bool_())),
        ("token_loss", list_of(pa.float32())),
        ("token_norm", list_of(pa.float32())),
        *((name, getattr(pa, kind)()) for name, kind in SCALAR_COLUMNS.items()),
    ]
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns]
    optional = [pa.field(name, pa.string()) for name in OPTIONAL_COLUMNS]
    return pa.schema([*fields, pa.field("line", pa.int64()), *optional])


def check_path(root: Path) -> None:
    """Refuse the name of a directory that not every library that reads an index could open.

    Raises:
        IndexStoreError: it is not valid UTF-8.
    """
    try:
        str(root).encode()
    except UnicodeEncodeError:
        shown = str(root).encode(errors="replace").decode()
        raise IndexStoreError(
            f"The path {shown} is not valid UTF-8, and an index cannot be kept there.",
            "Give another directory with -o (--index for `haiftrace trace`).",
        ) from None


def check_row(row: WindowRow, layout: Layout) -> None:
    """Refuse what must not enter an index.

    Raises:
        IndexStoreError: a value is not finite, or a string is not valid Unicode.
        ValueError: shapes or columns do not fit (a mistake of the caller).
    """
    length, count = len(row.token_ids), layout.token_vectors
    shapes = {
        "offsets": (len(row.offsets) == length),
        "labels": (len(row.labels) == length),
        "token_loss": row.token_loss.shape == (length,),
        "token_grad_norm": row.token_grad_norm.shape == (length,),
        "token_codes": (row.token_codes is None and count == 0)
        or (row.token_codes is not None and row.token_codes.shape == (length, count // 8)),
    }
    misfits = [name for name, fits in shapes.items() if not fits]
    if misfits:
        raise ValueError(f"window row does not fit the index: {', '.join(misfits)}")

    place = row.path if row.line is None else f"{row.path}:{row.line}"
    place = place.encode(errors="replace").decode()
    for name in ("id", "path", "text", "group"):
        try:
            (getattr(row, name) or "").encode()
        except UnicodeEncodeError:
            raise IndexStoreError(
                f"The {name} of the record at {place} holds a code point that is no character (a "
                "lone surrogate), and cannot be stored.",
                "Repair the record, or leave it out of the corpus.",
            ) from None

    arrays: list[np.ndarray] = [np.array([row.loss]), *label_numbers(row)]
    if not all(np.isfinite(array).all() for array in arrays):
        raise IndexStoreError(
            f"The loss or the gradient of the record at {place} is not a finite number.",
            "Check the checkpoint for broken weights, or index it in float32.",
        )


def label_numbers(row: IndexedWindow) -> tuple[np.ndarray, np.ndarray]:
    """Losses and norms of the labels as they are kept, [m] float32 each."""
    labels = np.asarray(row.labels, dtype=bool)
    with np.errstate(over="ignore"):  # refused by `check_row`
        losses = np.asarray(row.token_loss)[labels].astype(np.float32)
        norms = np.asarray(row.token_grad_norm)[labels].astype(np.float32)
    return losses, norms


def record_batch(records: Iterable[tuple[int, Sequence[IndexedWindow]]]) -> pa.RecordBatch:
    """The rows of records/ for all windows of corpus records, given with their numbers."""
    import pyarrow as pa

    numbered = [(number, row) for number, rows in records for row in rows]
    rows = [row for _, row in numbered]
    numbers = [label_numbers(row) for row in rows]
    spans = [np.asarray(row.offsets, dtype=np.int32).reshape(-1, 2) for row in rows]
    lists_of: dict[str, Sequence[Any]] = {
        "token_ids": [row.token_ids for row in rows],
        "offset_starts": [span[:, 0] for span in spans],
        "offset_ends": [span[:, 1] for span in spans],
        "labels": [row.labels for row in rows],
        "token_loss": [losses for losses, _ in numbers],
        "token_norm": [norms for _, norms in numbers],
    }
    computed: dict[str, list[Any]] = {
        "record": [number for number, _ in numbered],
        "length": [len(row.token_ids) for row in rows],
        "label_count": [len(losses) for losses, _ in numbers],
    }
    arrays = []
    schema = record_schema()
    for column in schema:
        name = column.name
        if name in lists_of:
            arrays.append(lists(lists_of[name], column.type))
        else:
            values = computed[name] if name in computed else [getattr(row, name) for row in rows]
            arrays.append(pa.array(values, column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
