"""Reading an index: windows by row number, columns of numbers, search over tokens.

Every file is compared with its checksum before its content counts, and masked records are given to
nobody: rows and records are numbered as if they were not there.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from haiftrace.errors import DamagedIndexError, IndexStoreError
from haiftrace.store.checked_files import CheckedFiles
from haiftrace.store.inverted_file import InvertedFile
from haiftrace.store.live_rows import LiveRows
from haiftrace.store.manifest import (
    MANIFEST_NAME,
    REBUILD_HINT,
    FileEntry,
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
    check_path,
    record_schema,
)
from haiftrace.store.supplements import SupplementRows, read_tensors
from haiftrace.store.token_search import TokenSearch

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from torch import Tensor

_SHARDS_KEPT = 4


class Index:
    """A finished index, open for reading. Only the last few shards used are in memory.

    Attributes:
        path: its directory.
        place: what it is called in reports and commands.
        manifest: what it says of itself.
        layout: the shape of its rows.
    """

    def __init__(
        self, path: Path, manifest: Manifest, files: CheckedFiles, place: str | None = None
    ) -> None:
        """Not for callers; see `open`."""
        self.path = path
        self.place = str(path) if place is None else place
        self.manifest = manifest
        self.layout: Layout = manifest.layout
        self._files = files
        self._live = LiveRows(manifest)
        self._shards: OrderedDict[int, _Shard] = OrderedDict()
        self._supplement_rows = lru_cache(maxsize=_SHARDS_KEPT)(self._read_supplement)

    @classmethod
    def open(cls, path: str | Path, verify: bool = True, *, place: str | None = None) -> Index:
        """Open the index at `path`.

        Args:
            path: its directory.
            verify: compare every file's checksum and number of rows at once; without it, they are
                compared before the file's content first counts, and until then its size.
            place: what it is called in reports and commands; its directory when None.

        Raises:
            IndexStoreError: there is none, or it is unfinished.
            DamagedIndexError: a file is not what was written.
        """
        root = Path(path)
        check_path(root)
        manifest = read_manifest(root)
        if manifest is None:
            if (root / "records").is_dir():
                raise DamagedIndexError(
                    f"The index is damaged: {root / MANIFEST_NAME} is missing.", REBUILD_HINT
                )
            what = f"{root} is not an index" if root.exists() else f"There is no index at {root}"
            raise IndexStoreError(
                f"{what}.",
                "Make one with `haiftrace index --model DIR --corpus FILE`, or give its "
                "directory with --index.",
            )
        if not manifest.complete and "part" in manifest.settings:
            raise IndexStoreError(
                f"{root} is a part of an index.",
                "Put all parts together with `haiftrace index --merge 'PART*' -o DIR`, and give"
                " that directory with --index.",
            )
        if not manifest.complete:
            raise IndexStoreError(
                f"The index {root} is unfinished ({manifest.totals.windows} windows so far).",
                "Run the same `haiftrace index` command again: it goes on where it stopped.",
            )
        entries = [*manifest.files(), *manifest.supplement_files()]
        check_files(root, entries, checksums=False)
        files = CheckedFiles(root)
        if verify:
            files.check(entries)
            for shard in manifest.shards:
                open_parquet(root / shard.records.file, shard.records.rows).close()
        return cls(root, manifest, files, place)

    def __len__(self) -> int:
        """The number of windows."""
        return len(self._live)

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
            shard, at = self._live.place(number)
            yield self._shard(shard).window(at, number, self._live)

    def column(self, name: str) -> np.ndarray:
        """One number a window, [N]: a key of `SCALAR_COLUMNS`.

        Raises:
            KeyError: the index has no such column of numbers.
        """
        if name not in SCALAR_COLUMNS:
            raise KeyError(name)
        columns = [table.column(name).to_numpy() for table in self.shard_tables([name])]
        column = np.concatenate(columns)
        return self._live.record_numbers(column) if name == "record" else column

    def label_losses(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A shard at a time: [J] float32 losses of its label tokens in nats, those of a window
        together, and [windows] how many each window has.
        """
        for table in self.shard_tables(["token_loss", "label_count"]):
            losses = table.column("token_loss").combine_chunks().flatten().to_numpy()
            yield losses, table.column("label_count").to_numpy()

    def shard_tables(self, names: Sequence[str], *, masked: bool = False) -> Iterator[pa.Table]:
        """Columns of every shard's windows, in order; "record" has the numbers that are stored.

        Args:
            names: of columns (see `record_schema`).
            masked: give the windows of masked records too.

        Raises:
            DamagedIndexError: a file is not what was written.
        """
        shards = self.manifest.shards
        self._files.check([shard.records for shard in shards])
        for number, shard in enumerate(shards):
            with self._open_rows(shard.records) as file:
                table = read_columns(self.path / shard.records.file, file, names)
            live = None if masked else self._live.of_shard(number)
            yield table if live is None else table.filter(live)

    def _open_rows(self, entry: FileEntry) -> pq.ParquetFile:
        return open_parquet(self._files.path(entry), entry.rows)

    @cached_property
    def token_search(self) -> TokenSearch | None:
        """Search over label tokens; None where the index holds no token vectors for it.

        Raises:
            IndexStoreError: its file is damaged.
        """
        if self.manifest.token_faiss is None:
            return None
        entry = self.manifest.token_faiss
        path, dim = self._files.path(entry), self.layout.token_vectors
        tables = self.shard_tables(["label_count"], masked=True)
        counts = np.concatenate([table.column("label_count").to_numpy() for table in tables])
        inverted = None
        if (kept := self.manifest.token_ivf) is not None:
            inverted = InvertedFile(self._files.path(kept.file), kept.file.rows, kept.probes)
        return TokenSearch(path, dim, counts, entry.rows, self._live.mask, inverted)

    def stored_codes(self, row: int) -> np.ndarray | None:
        """[m, K/8] uint8: the codes of a window's label tokens; None where none are kept."""
        search = self.token_search
        return None if search is None else search.codes(self._live.stored(row))

    def shard_rows(self) -> list[range]:
        """The rows of each shard that has any."""
        return self._live.shard_rows()

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
        self._files.check(files)
        for entry in files:
            yield read_tensors(self.path, entry)

    def supplement_values(self, name: str, row: int) -> dict[str, float | np.ndarray]:
        """What a supplement keeps of a window: numbers by name, and arrays [m], one a label."""
        shard, at = self._live.supplement_place(row)
        return self._supplement_rows(name, shard).values(at)

    def supplement_column(self, name: str, column: str) -> Iterator[np.ndarray]:
        """All numbers that a supplement keeps in a column, a shard at a time, in order."""
        for shard in range(len(self.shard_rows())):
            yield self._supplement_rows(name, shard).column(column)

    def _read_supplement(self, name: str, shard: int) -> SupplementRows:
        files = self.manifest.supplements[name].files
        self._files.check(files)
        entry = files[shard]
        return SupplementRows(self.path, entry)

    def close(self) -> None:
        """Close the files."""
        self._shards.clear()
        search = self.__dict__.pop("token_search", None)
        if search is not None:
            search.close()

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
            self._files.check([entry.records for entry in self.manifest.shards])
            shard = _Shard(self.path, entry)
            if len(self._shards) >= _SHARDS_KEPT:
                self._shards.popitem(last=False)
        self._shards[number] = shard
        return shard


class _Shard:
    """One Parquet file of windows, in memory."""

    def __init__(self, root: Path, entry: ShardEntry) -> None:
        path = root / entry.records.file
        names = record_schema().names
        with open_parquet(path, entry.records.rows) as file:
            table = read_columns(path, file, names).combine_chunks()
        self._columns = {name: table.column(name) for name in names}
        labels = int(self._columns["label_count"].to_numpy().sum())
        if labels != entry.label_tokens:
            raise DamagedIndexError(
                f"The index is damaged: {path} has {labels} label tokens instead of"
                f" {entry.label_tokens}.",
                REBUILD_HINT,
            )

    def window(self, at: int, row: int, live: LiveRows) -> StoredWindow:
        labels = self._numbers("labels", at).astype(bool)

        def spread(name: str) -> np.ndarray:
            full = np.zeros(len(labels), dtype=np.float32)
            full[labels] = self._numbers(name, at)
            return full

        starts, ends = self._numbers("offset_starts", at), self._numbers("offset_ends", at)
        return StoredWindow(
            row=row,
            record=live.record_number(self._columns["record"][at].as_py()),
            **{
                name: self._columns[name][at].as_py()
                for name in (
                    *("id", "path", "line", "start", "window", "windows", "text"),
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
