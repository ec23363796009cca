"""One record window as the store takes and gives it, and as rows of the two Parquet tables.

Shape letters: T tokens of the window, D dimensions of a window's vector, K of a token's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.errors import IndexStoreError
from haiftrace.store.manifest import Layout
from haiftrace.store.parquet import fixed_size_lists, list_of
from haiftrace.store.token_codes import code_arrays, code_columns

if TYPE_CHECKING:
    import pyarrow as pa

# A window's token vectors are read by row groups: small enough that one window costs little.
TOKEN_ROW_GROUP = 1024

OPTIONAL_COLUMNS = ("content_hash", "group")
"""Columns of records/ with strings that may be missing."""

# Columns that hold one number a window, by their type; the extra columns are float64.
SCALAR_COLUMNS: dict[str, str] = {
    "record": "int64",
    "start": "int64",
    "window": "int32",
    "windows": "int32",
    "length": "int32",
    "label_count": "int32",
    "loss": "float64",
    "grad_norm": "float64",
    "haif_norm": "float64",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
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
        grad_norm: norm of the gradient of that mean, ‖(1/m) Σ_j g_j‖.
        haif_norm: ‖s‖, s = Σ_j A(g_j).
        token_loss: [T] float32, nats; only values at labels are kept, the others read as 0.
        token_grad_norm: [T] float64, ‖g_j‖; likewise.
        token_vectors: [T, K], projected g_j/‖g_j‖, kept as `token_codes` says; likewise; None where
            there are none.
        extra: the values of the settings' `extra_columns`.
        content_hash: SHA-256 (hex) of the whole record's text; None where it was not given.
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
    grad_norm: float
    haif_norm: float
    token_loss: np.ndarray
    token_grad_norm: np.ndarray
    token_vectors: np.ndarray | None = None
    extra: dict[str, float] = field(default_factory=dict)
    content_hash: str | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowRow(Window):
    """A window to be stored; `vector` is its projected unit HAIF vector, [D]."""

    vector: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredWindow(Window):
    """A window read back.

    Attributes:
        row: its number in the index, from 0.
        record: number of its record in the index, from 0 (ids need not be unique).
        vector: [D] in the stored type, or None where it was not asked for.
    """

    row: int
    record: int
    vector: np.ndarray | None = None


def record_schema(layout: Layout) -> pa.Schema:
    """Columns of the files in records/."""
    import pyarrow as pa

    vector_type = getattr(pa, layout.vector_dtype)()
    columns: list[tuple[str, Any]] = [
        ("id", pa.string()),
        ("path", pa.string()),
        ("text", pa.string()),
        ("token_ids", list_of(pa.int32())),
        ("offset_starts", list_of(pa.int32())),
        ("offset_ends", list_of(pa.int32())),
        ("labels", list_of(pa.bool_())),
        *((name, getattr(pa, kind)()) for name, kind in SCALAR_COLUMNS.items()),
        *((name, pa.float64()) for name in layout.extra_columns),
        ("vector", list_of(vector_type, layout.projection_dim)),
    ]
    names = [name for name, _ in columns]
    if len({*names, "line", *OPTIONAL_COLUMNS}) != len(names) + 1 + len(OPTIONAL_COLUMNS):
        raise ValueError("settings['extra_columns'] repeats the name of a column")
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns]
    optional = [pa.field(name, pa.string()) for name in OPTIONAL_COLUMNS]
    return pa.schema([*fields, pa.field("line", pa.int64()), *optional])


def token_schema(layout: Layout) -> pa.Schema:
    """Columns of the files in tokens/: one row a label token."""
    import pyarrow as pa

    columns: list[tuple[str, Any]] = [
        ("row", pa.int64()),
        ("position", pa.int32()),
        ("token_id", pa.int32()),
        ("loss", pa.float32()),
        ("grad_norm", pa.float64()),
    ]
    if layout.token_vectors:
        columns += code_columns(layout.token_vectors)
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


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
        "vector": row.vector.shape == (layout.projection_dim,),
        "token_vectors": (row.token_vectors is None and count == 0)
        or (row.token_vectors is not None and row.token_vectors.shape == (length, count)),
        "extra": set(row.extra) == set(layout.extra_columns),
    }
    wrong = [name for name, fits in shapes.items() if not fits]
    if wrong:
        raise ValueError(f"window row does not fit the index: {', '.join(wrong)}")

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

    labels = np.asarray(row.labels, dtype=bool)
    numbers = [row.loss, row.grad_norm, row.haif_norm, *row.extra.values()]
    arrays: list[np.ndarray] = [
        np.asarray(numbers, dtype=np.float64),
        row.vector.astype(layout.vector_dtype),
        row.token_loss[labels].astype(np.float32),
        row.token_grad_norm[labels],
    ]
    if row.token_vectors is not None:
        arrays.append(row.token_vectors[labels].astype(np.float32))
    if not all(np.isfinite(array).all() for array in arrays):
        raise IndexStoreError(
            f"The loss or the gradient of the record at {place} is not a finite number.",
            "Check the checkpoint for broken weights, or index it in float32.",
        )


def record_batch(rows: Sequence[WindowRow], record: int, layout: Layout) -> pa.RecordBatch:
    """The rows of records/ for all windows of corpus record number `record`."""
    import pyarrow as pa

    schema = record_schema(layout)
    vectors = np.stack([row.vector.astype(layout.vector_dtype) for row in rows])
    computed: dict[str, list[Any]] = {
        "record": [record] * len(rows),
        "length": [len(row.token_ids) for row in rows],
        "label_count": [int(np.count_nonzero(row.labels)) for row in rows],
        "offset_starts": [[start for start, _ in row.offsets] for row in rows],
        "offset_ends": [[end for _, end in row.offsets] for row in rows],
        **{name: [row.extra[name] for row in rows] for name in layout.extra_columns},
    }
    arrays = []
    for column in schema:
        name = column.name
        if name == "vector":
            arrays.append(fixed_size_lists(vectors, column.type))
        else:
            values = computed[name] if name in computed else [getattr(row, name) for row in rows]
            arrays.append(pa.array(values, column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def token_batch(rows: Sequence[WindowRow], first_row: int, layout: Layout) -> pa.RecordBatch:
    """The rows of tokens/ for the label tokens of `rows`, windows `first_row` and following."""
    import pyarrow as pa

    schema = token_schema(layout)
    where = [np.flatnonzero(row.labels) for row in rows]
    counts = [len(positions) for positions in where]

    def at_labels(arrays: Sequence[Any]) -> np.ndarray:
        pairs = zip(arrays, where, strict=True)
        return np.concatenate([np.asarray(array)[positions] for array, positions in pairs])

    values: dict[str, np.ndarray] = {
        "row": np.repeat(np.arange(first_row, first_row + len(rows)), counts),
        "position": np.concatenate(where),
        "token_id": at_labels([np.asarray(row.token_ids, dtype=np.int64) for row in rows]),
        "loss": at_labels([row.token_loss for row in rows]),
        "grad_norm": at_labels([row.token_grad_norm for row in rows]),
    }
    arrays = {
        name: pa.array(plain.astype(schema.field(name).type.to_pandas_dtype()))
        for name, plain in values.items()
    }
    if layout.token_vectors:
        arrays |= code_arrays(at_labels([row.token_vectors for row in rows]))
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)
