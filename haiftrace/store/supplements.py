"""What is kept in an index beside its rows: factors and norms, mostly added once it is complete.

A supplement is a folder `supplements/NAME` of numbered files: safetensors files of tensors, or one
Parquet file for every shard of the index, a row a window. The manifest names each file as soon as
it is durable, so an interrupted supplement goes on after its last file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from haiftrace.errors import DamagedIndexError, IndexStoreError
from haiftrace.store.basis import basis_of, without_misfits
from haiftrace.store.checked_files import CheckedFiles
from haiftrace.store.durable import (
    DirectoryLock,
    is_real_directory,
    make_private_directory,
    replace_durably,
    storage_errors,
)
from haiftrace.store.manifest import (
    REBUILD_HINT,
    FileEntry,
    Manifest,
    SupplementEntry,
    plain,
    supplement_file,
)
from haiftrace.store.manifest_reading import damaged_file, read_manifest
from haiftrace.store.parquet import open_parquet, read_columns, write_table
from haiftrace.store.staged_tokens import remove_staged

if TYPE_CHECKING:
    from torch import Tensor

TENSORS, ROWS = "safetensors", "parquet"
Values = Mapping[str, float | np.ndarray]
"""What is kept of one window: numbers by name, and arrays [m] with a number a label."""


class SupplementWriter:
    """Adds supplements to a finished index; holds the directory's lock until it is closed."""

    def __init__(self, root: Path) -> None:
        """Take the lock at once.

        Raises:
            IndexStoreError: there is no finished index, or another process is writing it.
        """
        self._root = root
        self._lock = DirectoryLock(root)
        try:
            manifest = read_manifest(root)
            if manifest is None or not manifest.complete:
                raise IndexStoreError(f"The index {root} is not complete.", REBUILD_HINT)
        except BaseException:
            self._lock.release()
            raise
        self._manifest: Manifest = manifest
        self._files = CheckedFiles(root)
        remove_staged(root)

    def begin(self, name: str, settings: Mapping[str, Any], depends_on: Iterable[str] = ()) -> int:
        """Begin a supplement, or go on with it where its settings are the same.

        It is bound to the index as it is (see `basis`).

        Args:
            name: of the supplement.
            settings: JSON values, what its numbers depend on beside the index itself.
            depends_on: other supplements that it is computed with. When one of these is made anew,
                this one goes.

        Returns:
            how many of its files are durable already; -1 where all of them are.
        """
        entry = self._manifest.supplements.get(name)
        basis = basis_of(self._manifest, (other for other in depends_on if other != name))
        if entry is not None and entry.settings == plain(settings):  # its basis fits: it is here
            return -1 if entry.complete else len(entry.files)
        with storage_errors(self._root):
            make_supplement_folder(self._root, name)
            self._put(name, SupplementEntry(plain(settings), basis=basis))
        return 0

    def discard_damaged(self) -> list[str]:
        """Forget complete supplements with a damaged file, but not those that rows depend on.

        What was computed with one goes with it. Files are compared by their checksums.

        Returns:
            the names of what is forgotten.
        """
        before = self._manifest.supplements
        intact = {
            name: entry
            for name, entry in before.items()
            if entry.basis.get("rows") == "" or self._intact(entry)
        }
        supplements = without_misfits(self._manifest, intact)
        if len(supplements) < len(before):
            manifest = replace(self._manifest, supplements=supplements)
            with storage_errors(self._root):
                manifest.write(self._root)
            self._manifest = manifest
        return sorted(set(before) - set(supplements))

    def _intact(self, entry: SupplementEntry) -> bool:
        try:
            self._files.check(entry.files)
        except DamagedIndexError:
            return False
        return True

    def restart(self, name: str) -> None:
        """Forget the files of an unfinished supplement; they are written over."""
        with storage_errors(self._root):
            self._put(name, replace(self._manifest.supplements[name], files=()))

    def add_tensors(
        self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, str]
    ) -> None:
        """One file of tensors, with strings that describe it."""
        data = encoded_tensors(tensors, about)
        self._add(name, TENSORS, len(tensors), lambda sink: sink.write(data))

    def add_rows(self, name: str, rows: Sequence[Values]) -> None:
        """The file of the next shard: what is kept of each of its windows, in order."""
        import pyarrow as pa

        columns = {}
        for key, first in rows[0].items():
            kind = pa.list_(pa.float64()) if isinstance(first, np.ndarray) else pa.float64()
            columns[key] = pa.array([row[key] for row in rows], kind)
        batch = pa.RecordBatch.from_pydict(columns)
        for key, column in columns.items():
            numbers = column.flatten() if pa.types.is_list(column.type) else column
            if not np.isfinite(numbers.to_numpy(zero_copy_only=False)).all():
                raise IndexStoreError(
                    f"A value of {key} is not a finite number.",
                    "Use a larger --damping, or index in float32.",
                )
        self._add(name, ROWS, len(rows), lambda sink: write_table([batch], len(rows), sink))

    def finish(self, name: str) -> None:
        """All files of the supplement are there."""
        with storage_errors(self._root):
            self._put(name, replace(self._manifest.supplements[name], complete=True))

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> Self:
        """Nothing but the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _add(self, name: str, kind: str, rows: int, fill: Any) -> None:
        entry = self._manifest.supplements[name]
        file = supplement_file(name, len(entry.files), kind)
        with storage_errors(self._root):
            written = replace_durably(self._root / file, fill)
            added = FileEntry(file, written.sha256, written.bytes, rows)
            self._put(name, replace(entry, files=(*entry.files, added)))

    def _put(self, name: str, entry: SupplementEntry) -> None:
        supplements = {**self._manifest.supplements, name: entry}
        # What was computed with the former files of this one belongs to nothing any more.
        supplements = without_misfits(self._manifest, supplements)
        manifest = replace(self._manifest, supplements=supplements)
        manifest.write(self._root)
        self._manifest = manifest


def make_supplement_folder(root: Path, name: str) -> None:
    """Make the folder of a supplement where there is none.

    Raises:
        IndexStoreError: something else has its name.
        OSError: the disk refuses.
    """
    home = root / "supplements"
    for folder in (home, home / name):
        if os.path.lexists(folder) and not is_real_directory(folder):
            raise IndexStoreError(
                f"{folder} is in the way: it is not a directory of the index.", "Move it away."
            )
        make_private_directory(folder)


def write_tensor_supplement(
    root: Path,
    name: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    basis: dict[str, str],
) -> SupplementEntry:
    """Write a supplement that is one file of tensors; no manifest names it yet.

    Args:
        basis: what it is bound to.
    """
    make_supplement_folder(root, name)
    data = encoded_tensors(tensors, {})
    file = supplement_file(name, 0, TENSORS)
    written = replace_durably(root / file, lambda sink: sink.write(data))
    entry = FileEntry(file, written.sha256, written.bytes, len(tensors))
    return SupplementEntry(plain(settings), (entry,), True, basis)


def encoded_tensors(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """A safetensors file, with strings that describe it."""
    from safetensors.torch import save

    contiguous = {key: value.contiguous().cpu() for key, value in tensors.items()}
    return bytes(save(contiguous, {key: str(value) for key, value in about.items()}))


def read_tensors(root: Path, entry: FileEntry) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of one file of a supplement, and the strings that describe it.

    Raises:
        DamagedIndexError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(root / entry.file, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise damaged_file(root, entry, "cannot be read") from error


class SupplementRows:
    """The rows of one Parquet file of a supplement."""

    def __init__(self, root: Path, entry: FileEntry) -> None:
        """Read it.

        Raises:
            IndexStoreError: it is damaged.
        """
        path = root / entry.file
        with open_parquet(path, entry.rows) as file:
            names = file.schema_arrow.names
            table = read_columns(path, file, names).combine_chunks()
        self._columns = {name: table.column(name) for name in names}

    def values(self, at: int) -> dict[str, float | np.ndarray]:
        """What is kept of the window at this place of its shard."""
        values: dict[str, float | np.ndarray] = {}
        for name, column in self._columns.items():
            value = column[at]
            listed = hasattr(value, "values")
            values[name] = np.asarray(value.values) if listed else float(value.as_py())
        return values

    def column(self, name: str) -> np.ndarray:
        """All numbers of a column, those of its lists one after the other."""
        column = self._columns[name].combine_chunks()
        flat = column.flatten() if hasattr(column, "values") else column
        numbers: np.ndarray = flat.to_numpy(zero_copy_only=False)
        return numbers
