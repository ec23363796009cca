"""Reading an index: windows by row number, scalar columns, and the shortlist."""

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
    FAISS_NAME,
    REBUILD_HINT,
    TOKEN_FAISS_NAME,
    Layout,
    Manifest,
    ShardEntry,
    SupplementEntry,
    check_files,
    read_manifest,
)
from haiftrace.store.parquet import open_parquet, read_columns, vectors_of
from haiftrace.store.quantile import streamed_quantile
from haiftrace.store.rows import (
    OPTIONAL_COLUMNS,
    SCALAR_COLUMNS,
    StoredWindow,
    record_schema,
)
from haiftrace.store.shortlist import Shortlist
from haiftrace.store.supplements import SupplementRows, read_tensors
from haiftrace.store.token_codes import read_token_vectors
from haiftrace.store.token_search import TokenSearch

if TYPE_CHECKING:
    from torch import Tensor

_SHARDS_KEPT = 4
_ROW_GROUPS_KEPT = 4


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
                for entry in (shard.records, shard.tokens):
                    open_parquet(root / entry.file, entry.rows).close()
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

    def iter_windows(
        self,
        rows: Iterable[int] | None = None,
        *,
        vectors: bool = False,
        token_vectors: bool = False,
    ) -> Iterator[StoredWindow]:
        """Give windows in the order of `rows`; in ascending order each shard is read once.

        Args:
            rows: row numbers from 0; None for all.
            vectors: with each window's `vector`.
            token_vectors: with its `token_vectors`; reads only the row groups that hold them.

        Raises:
            IndexError: no such row.
            IndexStoreError: the index holds no token vectors, or is damaged.
        """
        if token_vectors and not self.layout.token_vectors:
            raise IndexStoreError(
                f"The index {self.path} holds no token vectors.",
                "Make one that does with `haiftrace index --token-vectors 1024`.",
            )
        for row in range(len(self)) if rows is None else rows:
            number = operator.index(row)
            if not 0 <= number < len(self):
                raise IndexError(f"row {number} of an index with {len(self)} windows")
            shard = int(np.searchsorted(self._starts, number, side="right")) - 1
            yield self._shard(shard).window(number, vectors, token_vectors)

    def column(self, name: str) -> np.ndarray:
        """One number a window, [N]: a key of `SCALAR_COLUMNS`, or an extra column.

        Raises:
            KeyError: the index has no such column of numbers.
        """
        if name not in SCALAR_COLUMNS and name not in self.layout.extra_columns:
            raise KeyError(name)
        parts = []
        for shard in self.manifest.shards:
            path = self.path / shard.records.file
            with open_parquet(path, shard.records.rows) as file:
                parts.append(read_columns(path, file, [name]).column(name).to_numpy())
        return np.concatenate(parts)

    def token_norm_quantile(self, quantile: float) -> float:
        """The quantile of ‖g_j‖ over all label tokens, exact; memory does not grow with them."""

        def chunks() -> Iterator[np.ndarray]:
            for shard in self.manifest.shards:
                path = self.path / shard.tokens.file
                with open_parquet(path, shard.tokens.rows) as file:
                    for group in range(file.metadata.num_row_groups):
                        table = read_columns(path, file, ["grad_norm"], group)
                        yield table.column("grad_norm").to_numpy()

        return streamed_quantile(chunks, quantile)

    def shortlist(self, query_vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The windows whose vectors have the largest inner products with the query's.

        Args:
            query_vector: [D] finite numbers.
            k: how many, at least 1; all where the index has fewer.

        Returns:
            Row numbers [k] int64 and inner products [k] float32, best first, ties by row.
        """
        return self._flat.search(query_vector, k)

    def vectors_inner_products(self, query_vector: np.ndarray) -> np.ndarray:
        """Inner products of every window's vector with the query's [D]: [N] float32."""
        return self._flat.inner_products(query_vector)

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

    def _read_supplement(self, name: str, shard: int) -> SupplementRows:
        entry = self.manifest.supplements[name].files[shard]
        check_files(self.path, [entry], checksums=True)
        return SupplementRows(self.path, entry)

    def close(self) -> None:
        """Close the files."""
        while self._shards:
            self._shards.popitem()[1].close()
        for name in ("_flat", "token_search"):
            self.__dict__.pop(name, None)

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

    @cached_property
    def _flat(self) -> Shortlist:
        return Shortlist(self.path / FAISS_NAME, self.layout.projection_dim, len(self))

    def _shard(self, number: int) -> _Shard:
        shard = self._shards.pop(number, None)
        if shard is None:
            entry = self.manifest.shards[number]
            shard = _Shard(self.path, entry, int(self._starts[number]), self.layout)
            if len(self._shards) >= _SHARDS_KEPT:
                self._shards.popitem(last=False)[1].close()
        self._shards[number] = shard
        return shard


class _Shard:
    """One pair of Parquet files: all but the vectors in memory, those read when asked for."""

    def __init__(self, root: Path, entry: ShardEntry, first_row: int, layout: Layout) -> None:
        self._first_row = first_row
        self._layout = layout
        self._records_path = root / entry.records.file
        self._tokens_path = root / entry.tokens.file
        self._records_file = open_parquet(self._records_path, entry.records.rows)
        self._tokens_file = open_parquet(self._tokens_path, entry.tokens.rows)
        names = [name for name in record_schema(layout).names if name != "vector"]
        table = read_columns(self._records_path, self._records_file, names).combine_chunks()
        self._columns = {name: table.column(name) for name in names}
        tokens = read_columns(self._tokens_path, self._tokens_file, ["loss", "grad_norm"])
        self._token_loss = tokens.column("loss").to_numpy()
        self._token_grad_norm = tokens.column("grad_norm").to_numpy()
        counts = self._columns["label_count"].to_numpy()
        self._token_starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if self._token_starts[-1] != entry.tokens.rows:
            raise IndexStoreError(
                f"The index is damaged: {self._records_path} has "
                f"{self._token_starts[-1]} label tokens and {self._tokens_path} has "
                f"{entry.tokens.rows}.",
                REBUILD_HINT,
            )
        self._row_group = lru_cache(maxsize=_ROW_GROUPS_KEPT)(self._read_row_group)

    def close(self) -> None:
        self._records_file.close()
        self._tokens_file.close()

    def window(self, row: int, vectors: bool, token_vectors: bool) -> StoredWindow:
        at = row - self._first_row
        first, last = int(self._token_starts[at]), int(self._token_starts[at + 1])
        labels = self._numbers("labels", at).astype(bool)

        def spread(values: np.ndarray) -> np.ndarray:
            full = np.zeros((len(labels), *values.shape[1:]), dtype=values.dtype)
            full[labels] = values
            return full

        starts, ends = self._numbers("offset_starts", at), self._numbers("offset_ends", at)
        return StoredWindow(
            row=row,
            **{
                name: self._columns[name][at].as_py()
                for name in (
                    *("record", "id", "path", "line", "start", "window", "windows", "text"),
                    *("loss", "grad_norm", "haif_norm"),
                    *OPTIONAL_COLUMNS,
                )
            },
            token_ids=self._numbers("token_ids", at).tolist(),
            offsets=list(zip(starts.tolist(), ends.tolist(), strict=True)),
            labels=labels.tolist(),
            extra={name: self._columns[name][at].as_py() for name in self._layout.extra_columns},
            vector=self._vectors[at].copy() if vectors else None,
            token_loss=spread(self._token_loss[first:last]),
            token_grad_norm=spread(self._token_grad_norm[first:last]),
            token_vectors=spread(self._token_vectors(first, last)) if token_vectors else None,
        )

    def _numbers(self, name: str, at: int) -> np.ndarray:
        values: np.ndarray = self._columns[name][at].values.to_numpy(zero_copy_only=False)
        return values

    @cached_property
    def _vectors(self) -> np.ndarray:
        table = read_columns(self._records_path, self._records_file, ["vector"])
        return vectors_of(table.column("vector"))

    def _token_vectors(self, first: int, last: int) -> np.ndarray:
        if first == last:
            return np.zeros((0, self._layout.token_vectors), dtype=np.float32)
        size = self._tokens_file.metadata.row_group(0).num_rows
        groups = range(first // size, (last - 1) // size + 1)
        rows = np.concatenate([self._row_group(group) for group in groups])
        return rows[first - groups[0] * size : last - groups[0] * size]

    def _read_row_group(self, group: int) -> np.ndarray:
        return read_token_vectors(self._tokens_path, self._tokens_file, group)
