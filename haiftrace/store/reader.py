"""Reading an index: windows by row number, columns of numbers, search over tokens."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from haiftrace.errors import IndexStoreError
from haiftrace.store.manifest import (
    REBUILD_HINT,
    TOKEN_FAISS_NAME,
    Layout,
    Manifest,
    ShardEntry,
    SupplementEntry,
)
from haiftrace.store.manifest_reading import check_files, read_manifest
from haiftrace.store.parquet import open_parquet, read_columns
from haiftrace.store.rows import (
    OPTIONAL_COLUMNS,
    SCALAR_COLUMNS,
    StoredWindow,
    record_schema,
)
from haiftrace.store.supplements import SupplementRows, read_tensors
from haiftrace.store.token_search import TokenSearch

if TYPE_CHECKING:
    from torch import Tensor

_SHARDS_KEPT = 4


class Index:
    """A finished index, open for reading. Only the last few shards used are in memory.

    Attributes:
        path: its directory.
        manifest: what it says of itself.
        layout: the shape of its rows.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Not for callers; see `open`."""
        self.path = path
        self.manifest = manifest
        self.layout: Layout = manifest.layout
        sizes = [shard.records.rows for shard in manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._shards: OrderedDict[int, _Shard] = OrderedDict()
        self._supplement_rows = lru_cache(maxsize=_SHARDS_KEPT)(self._read_supplement)

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> Index:
        """Open the index at `path`.

        Args:
            path: its directory.
            verify: read every file and compare its checksum and number of rows; without it, only
                sizes are compared, and the row counts of what is read.

        Raises:
            IndexStoreError: there is none, it is unfinished, or it is damaged.
        """
        root = Path(path)
        manifest = read_manifest(root)
        if manifest is None:
            what = f"{root} is not an index" if root.exists() else f"There is no index at {root}"
            raise IndexStoreError(
                f"{what}.",
                "Make one with `haiftrace index --model DIR --corpus FILE`, or give its "
                "directory with --index.",
            )
        if not manifest.complete:
            raise IndexStoreError(
                f"The index {root} is unfinished ({manifest.totals.windows} windows so far).",
                "Run the same `haiftrace index` command again: it goes on where it stopped.",
            )
        check_files(root, manifest.files(), checksums=verify)
        check_files(root, manifest.supplement_files(), checksums=False)
        if verify:
            for shard in manifest.shards:
                open_parquet(root / shard.records.file, shard.records.rows).close()
        return cls(root, manifest)

    def __len__(self) -> int:
        """The number of windows."""
        return int(self._starts[-1])

    @property
    def settings(self) -> dict[str, Any]:
        """How the index was made."""
        return self.manifest.settings

    @property
    def fingerprints(self) -> dict[str, Any]:
        """Of weights, tokenizer and corpus."""
        return self.manifest.fingerprints

    def iter_windows(self, rows: Iterable[int] | None = None) -> Iterator[StoredWindow]:
        """Give windows in the order of `rows`; in ascending order each shard is read once.

        Args:
            rows: row numbers from 0; None for all.

        Raises:
            IndexError: no such row.
            IndexStoreError: the index is damaged.
        """
        for row in range(len(self)) if rows is None else rows:
            number = operator.index(row)
            if not 0 <= number < len(self):
                raise IndexError(f"row {number} of an index with {len(self)} windows")
            shard = int(np.searchsorted(self._starts, number, side="right")) - 1
            yield self._shard(shard).window(number)

    def column(self, name: str) -> np.ndarray:
        """One number a window, [N]: a key of `SCALAR_COLUMNS`.

        Raises:
            KeyError: the index has no such column of numbers.
        """
        if name not in SCALAR_COLUMNS:
            raise KeyError(name)
        return np.concatenate([column.to_numpy() for column in self._read_column(name)])

    def label_losses(self) -> np.ndarray:
        """[all label tokens] float32: their losses in nats, those of a window together."""
        columns = self._read_column("token_loss")
        return np.concatenate([column.flatten().to_numpy() for column in columns])

    def _read_column(self, name: str) -> Iterator[Any]:
        for shard in self.manifest.shards:
            path = self.path / shard.records.file
            with open_parquet(path, shard.records.rows) as file:
                yield read_columns(path, file, [name]).column(name).combine_chunks()

    @cached_property
    def token_search(self) -> TokenSearch | None:
        """Search over label tokens; None where the index holds no token vectors for it.

        Raises:
            IndexStoreError: its file is damaged.
        """
        if self.manifest.token_faiss is None:
            return None
        path, dim = self.path / TOKEN_FAISS_NAME, self.layout.token_vectors
        return TokenSearch(path, dim, self.column("label_count"), self.manifest.token_faiss.rows)

    def shard_rows(self) -> list[range]:
        """The rows of each shard."""
        starts = self._starts.tolist()
        return [range(a, b) for a, b in pairwise(starts)]

    def supplement(self, name: str) -> SupplementEntry | None:
        """What the index has under that name, None where it is missing or unfinished."""
        entry = self.manifest.supplements.get(name)
        return entry if entry is not None and entry.complete else None

    def supplement_tensors(self, name: str) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
        """Tensors of each file of a supplement, and the strings that describe the file.

        Raises:
            IndexStoreError: a file is damaged.
        """
        files = self.manifest.supplements[name].files
        check_files(self.path, list(files), checksums=True)
        for entry in files:
            yield read_tensors(self.path, entry)

    def supplement_values(self, name: str, row: int) -> dict[str, float | np.ndarray]:
        """What a supplement keeps of a window: numbers by name, and arrays [m], one a label."""
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._supplement_rows(name, shard).values(row - int(self._starts[shard]))

    def supplement_column(self, name: str, column: str) -> Iterator[np.ndarray]:
        """All numbers that a supplement keeps in a column, a shard at a time, in order."""
        for shard in range(len(self.manifest.shards)):
            yield self._supplement_rows(name, shard).column(column)

    def _read_supplement(self, name: str, shard: int) -> SupplementRows:
        entry = self.manifest.supplements[name].files[shard]
        check_files(self.path, [entry], checksums=True)
        return SupplementRows(self.path, entry)

    def close(self) -> None:
        """Close the files."""
        self._shards.clear()
        self.__dict__.pop("token_search", None)

    def __enter__(self) -> Self:
        """Nothing but the index itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        self.close()

    def _shard(self, number: int) -> _Shard:
        shard = self._shards.pop(number, None)
        if shard is None:
            entry = self.manifest.shards[number]
            shard = _Shard(self.path, entry, int(self._starts[number]))
            if len(self._shards) >= _SHARDS_KEPT:
                self._shards.popitem(last=False)
        self._shards[number] = shard
        return shard


class _Shard:
    """One Parquet file of windows, in memory."""

    def __init__(self, root: Path, entry: ShardEntry, first_row: int) -> None:
        self._first_row = first_row
        path = root / entry.records.file
        names = record_schema().names
        with open_parquet(path, entry.records.rows) as file:
            table = read_columns(path, file, names).combine_chunks()
        self._columns = {name: table.column(name) for name in names}
        labels = int(self._columns["label_count"].to_numpy().sum())
        if labels != entry.label_tokens:
            raise IndexStoreError(
                f"The index is damaged: {path} has {labels} label tokens instead of"
                f" {entry.label_tokens}.",
                REBUILD_HINT,
            )

    def window(self, row: int) -> StoredWindow:
        at = row - self._first_row
        labels = self._numbers("labels", at).astype(bool)

        def spread(name: str) -> np.ndarray:
            full = np.zeros(len(labels), dtype=np.float32)
            full[labels] = self._numbers(name, at)
            return full

        starts, ends = self._numbers("offset_starts", at), self._numbers("offset_ends", at)
        return StoredWindow(
            row=row,
            **{
                name: self._columns[name][at].as_py()
                for name in (
                    *("record", "id", "path", "line", "start", "window", "windows", "text"),
                    "loss",
                    *OPTIONAL_COLUMNS,
                )
            },
            token_ids=self._numbers("token_ids", at).tolist(),
            offsets=list(zip(starts.tolist(), ends.tolist(), strict=True)),
            labels=labels.tolist(),
            token_loss=spread("token_loss"),
            token_grad_norm=spread("token_norm"),
        )

    def _numbers(self, name: str, at: int) -> np.ndarray:
        values: np.ndarray = self._columns[name][at].values.to_numpy(zero_copy_only=False)
        return values
