"""tokens-ivf.faiss: an inverted file over label tokens, so that a search need not scan them all.

FAISS divides vectors among cells by the nearest of some trained centroids, and searches the cells
that are nearest to a query. What it holds of a token is short, by default its first 512 signs (the
dimensions of a random projection are alike, so some of them are a smaller projection): it proposes,
and the full codes of tokens.faiss decide. It is trained on a seeded sample, filled by parts that go
to disk, and mapped into memory when it is searched.

Shape letters: Q queries, K dimensions of a token's vector, D dimensions that the file is over.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from haiftrace.errors import DamagedIndexError, UsageError
from haiftrace.store.durable import HashingSink
from haiftrace.store.faiss_file import FlatCodes
from haiftrace.store.manifest import REBUILD_HINT
from haiftrace.store.token_codes import decode_signs, encode_signs

AUTO, FLAT = "auto", "Flat"
FLAT_TOKENS = 4_000_000
"""Up to so many label tokens all of them are scanned, where the user does not say."""

SHORTLISTED = 16
"""Tokens that the file proposes for each that is wanted: full codes decide."""
DIMENSIONS = 512
_POINTS_OF_A_CELL = 64
"""Vectors of the training sample, for each cell."""
_LEAST_SAMPLE = 1 << 14
"""So many at least: what a product quantiser of 8 bits takes."""
_PART_BYTES = 96 << 20
_NO_LISTS = b"sprs" + struct.pack("<Q", 0)
"""What FAISS writes of cells that hold nothing."""
_BLOCK = 1 << 14


def part_file(root: Path, number: int) -> Path:
    """Where a part of the file is kept while it is made."""
    return root / f".tokens-ivf.{number}.tmp"


def factory_for(wanted: str, tokens: int) -> str:
    """FAISS's factory string for so many tokens.

    Args:
        wanted: as `check_factory` takes it.
    """
    if wanted != AUTO:
        return wanted
    if tokens <= FLAT_TOKENS:
        return FLAT
    return inverted_factory(tokens)


def inverted_factory(tokens: int) -> str:
    """Of an inverted file that suits so many tokens."""
    return f"BIVF{1 << int(math.log2(math.sqrt(tokens) / 2))}"


def check_factory(wanted: str, dim: int) -> None:
    """Refuse what cannot be built.

    Args:
        wanted: "auto", "Flat" or a factory string of FAISS with an inverted file.
        dim: of the tokens' vectors; 0 where none are kept.

    Raises:
        UsageError: FAISS does not know it, or it has no inverted file that can be filled by parts.
    """
    if wanted not in (AUTO, FLAT):
        if not dim:
            raise UsageError(
                f"--faiss {wanted} is a search over token vectors, and none are kept.",
                "Leave --token-vectors 0 or --faiss out.",
            )
        _new_index(wanted, min(dim, DIMENSIONS))


def _new_index(factory: str, dim: int) -> Any:
    import faiss

    hint = "Use for example BIVF1024 or IVF1024,PQ32; Flat to scan all vectors; or leave it out."
    try:
        index: Any
        if factory.startswith("B"):
            index = faiss.index_binary_factory(dim, factory)
        else:
            index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError:
        raise UsageError(
            f"'{factory}' is no factory string of FAISS for {dim} dimensions.", hint
        ) from None
    lists = None if _ivf(index) is None else faiss.downcast_InvertedLists(_ivf(index).invlists)
    if type(lists) is not faiss.ArrayInvertedLists:
        raise UsageError(
            f"The index '{factory}' of FAISS has no inverted file that can be filled by parts.",
            hint,
        )
    return index


def _ivf(index: Any) -> Any:
    """The inverted file of an index; None where it has none."""
    import faiss

    if isinstance(index, faiss.IndexBinary):
        return index if isinstance(index, faiss.IndexBinaryIVF) else None
    return faiss.try_extract_index_ivf(index)


def _points(index: Any, codes: np.ndarray) -> np.ndarray:
    """Codes [n, K/8] of tokens as an index takes them."""
    import faiss

    short = np.ascontiguousarray(codes[:, : index.d // 8])
    return short if isinstance(index, faiss.IndexBinary) else decode_signs(short)


def write_inverted_file(
    root: Path, sink: HashingSink, codes: FlatCodes, factory: str, seed: int
) -> None:
    """Write an inverted file over all codes.

    Args:
        root: directory for its parts, which go again.
        factory: of FAISS; not "auto" or "Flat".
        seed: of the training sample.

    Raises:
        OSError: the disk refuses.
    """
    index = _new_index(factory, min(codes.dim, DIMENSIONS))
    _train(index, codes, seed)
    paths: list[Path] = []
    try:
        for number, _ in enumerate(_filled(index, codes)):
            paths.append(part_file(root, number))
            _write(index, paths[-1])
            index.reset()
        _merge(sink, index, codes, [_read(path) for path in paths])
    finally:
        for path in paths:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def enough_to_train(codes: FlatCodes, factory: str) -> bool:
    """Whether there are as many tokens as its cells and quantisers take."""
    index = _new_index(factory, min(codes.dim, DIMENSIONS))
    return codes.count >= max(_ivf(index).nlist, _LEAST_SAMPLE)


def _train(index: Any, codes: FlatCodes, seed: int) -> None:
    size = min(codes.count, max(_LEAST_SAMPLE, _POINTS_OF_A_CELL * _ivf(index).nlist))
    rng = np.random.default_rng([seed, 9])
    rows = np.unique(rng.integers(codes.count, size=size))
    if len(rows) < max(_LEAST_SAMPLE, _ivf(index).nlist):
        rows = np.arange(min(codes.count, size))
    index.train(_points(index, codes.at(rows)))


def _filled(index: Any, codes: FlatCodes) -> Iterator[int]:
    """Fills the index; gives how many it holds whenever they are a part's, and at the end."""
    most = max(_BLOCK, _PART_BYTES // (_ivf(index).code_size + 8))
    first = 0
    for block in codes.blocks():
        index.add_with_ids(_points(index, block), np.arange(first, first + len(block)))
        first += len(block)
        if index.ntotal >= most:
            yield index.ntotal
    if index.ntotal:
        yield index.ntotal


def _merge(sink: HashingSink, empty: Any, codes: FlatCodes, parts: Sequence[Any]) -> None:
    """Write the index of all parts: FAISS's own file of the empty one, and then cell by cell."""
    import faiss

    ivf = _ivf(empty)
    shape = struct.pack("<QQ", ivf.nlist, ivf.code_size)
    empty.ntotal = ivf.ntotal = codes.count
    header = _encoded(empty)
    no_lists = b"ilar" + shape + _NO_LISTS
    if not header.endswith(no_lists):  # this FAISS lays its file out in an unknown way
        empty.ntotal = ivf.ntotal = 0
        for _ in _filled(empty, codes):
            pass
        sink.write(_encoded(empty))
        return
    lists = [faiss.downcast_InvertedLists(_ivf(part).invlists) for part in parts]
    cells = range(ivf.nlist)
    sizes = np.array([sum(each.list_size(cell) for each in lists) for cell in cells], np.uint64)
    sink.write(header[: -len(no_lists)] + b"ilar" + shape + b"full")
    sink.write(struct.pack("<Q", ivf.nlist) + sizes.tobytes())
    for cell in cells:
        held = [(each, n) for each in lists if (n := each.list_size(cell))]
        for each, n in held:
            data = faiss.rev_swig_ptr(each.get_codes(cell), n * ivf.code_size)
            sink.write(data.tobytes())
        for each, n in held:
            sink.write(faiss.rev_swig_ptr(each.get_ids(cell), n).tobytes())


def _encoded(index: Any) -> bytes:
    import faiss

    binary = isinstance(index, faiss.IndexBinary)
    encode = faiss.serialize_index_binary if binary else faiss.serialize_index
    return bytes(encode(index).tobytes())


def _write(index: Any, path: Path) -> None:
    import faiss

    binary = isinstance(index, faiss.IndexBinary)
    try:
        (faiss.write_index_binary if binary else faiss.write_index)(index, str(path))
    except RuntimeError as error:
        raise OSError(str(error)) from error


def _read(path: Path) -> Any:
    """An index of a file, its cells mapped into memory."""
    import faiss

    with path.open("rb") as file:
        binary = file.read(2) == b"IB"
    read = faiss.read_index_binary if binary else faiss.read_index
    index = read(str(path), faiss.IO_FLAG_MMAP)
    lists = faiss.downcast_InvertedLists(_ivf(index).invlists)
    if isinstance(lists, faiss.OnDiskInvertedLists):
        lists.prefetch_nthread = 0  # it would start threads
    return index


class InvertedFile:
    """An inverted file, opened.

    Attributes:
        cells: how many it has.
        probes: cells that are searched.
    """

    def __init__(self, path: Path, count: int, probes: int) -> None:
        """Open it.

        Raises:
            DamagedIndexError: FAISS cannot read it, or it does not hold so many tokens.
        """
        try:
            self._index = _read(path)
            held = int(self._index.ntotal)
        except (RuntimeError, AttributeError):
            raise DamagedIndexError(
                f"The index is damaged: FAISS cannot read {path}.", REBUILD_HINT
            ) from None
        if held != count:
            raise DamagedIndexError(
                f"The index is damaged: {path} holds {held} tokens instead of {count}.",
                REBUILD_HINT,
            )
        self.cells = int(_ivf(self._index).nlist)
        self.probes = probes

    def search(self, queries_QK: np.ndarray, count: int) -> list[np.ndarray]:
        """[n] the tokens that are nearest to each query by what it holds, at most so many."""
        import faiss

        index = self._index
        queries_QD = np.ascontiguousarray(queries_QK[:, : index.d], dtype=np.float32)
        _ivf(index).nprobe = min(self.probes, self.cells)
        binary = isinstance(index, faiss.IndexBinary)
        _, tokens_QN = index.search(encode_signs(queries_QD) if binary else queries_QD, count)
        return [tokens_N[tokens_N >= 0] for tokens_N in tokens_QN]
