"""Digits from IDX files, npm's JSON and scikit-learn, broken files among them."""

from __future__ import annotations

import gzip
import json
import struct

import numpy as np
import pytest

from haiftrace.bench.digits.data import load_digits
from haiftrace.errors import CorpusError, UsageError


def idx(array, kind=0x08):
    shape = array.shape
    header = struct.pack(">HBB", 0, kind, len(shape)) + struct.pack(f">{len(shape)}I", *shape)
    return header + array.astype(np.uint8).tobytes()


IMAGES = np.arange(5 * 2 * 3).reshape(5, 2, 3) * 8
LABELS = np.array([0, 2, 1, 1, 0])


def pair(folder, stem="train", images=IMAGES, labels=LABELS, pack=bytes, suffix=""):
    folder.mkdir(exist_ok=True)
    files = (
        folder / f"{stem}-images-idx3-ubyte{suffix}",
        folder / f"{stem}-labels-idx1-ubyte{suffix}",
    )
    for file, array in zip(files, (images, labels), strict=True):
        file.write_bytes(pack(idx(array)))
    return [str(file) for file in files]


@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
def test_idx_files_and_their_directory(tmp_path, pack, suffix):
    files = pair(tmp_path / "d", pack=pack, suffix=suffix)
    pair(tmp_path / "d", stem="t10k", images=IMAGES[:1], labels=LABELS[:1])
    for paths in (files, files[::-1], [str(tmp_path / "d")]):
        digits = load_digits(paths)
        assert digits.features_ND.dtype == np.float64
        np.testing.assert_array_equal(digits.features_ND, IMAGES.reshape(5, 6) / 255)
        assert digits.labels_N.tolist() == [0, 2, 1, 1, 0]
        assert digits.classes == 3
        assert str(tmp_path) not in digits.source
    assert digits.source == "d"
    assert load_digits(files).fingerprint == load_digits([str(tmp_path / "d")]).fingerprint
    other = pair(tmp_path / "e", labels=np.array([0, 2, 1, 0, 1]))
    assert load_digits(files).fingerprint != load_digits(other).fingerprint


def test_files_are_known_by_what_they_hold(tmp_path):
    (tmp_path / "a").write_bytes(idx(LABELS))
    (tmp_path / "b").write_bytes(gzip.compress(idx(IMAGES)))
    assert load_digits([str(tmp_path / "a"), str(tmp_path / "b")]).classes == 3


@pytest.mark.parametrize("below", ["", "src/digits"])
def test_the_json_files_of_npm(tmp_path, below):
    folder = tmp_path / below
    folder.mkdir(parents=True, exist_ok=True)
    for digit, count in ((0, 2), (1, 1)):
        pixels = [digit / 2] * (784 * count)
        (folder / f"{digit}.json").write_text(json.dumps({"data": pixels}))
    digits = load_digits([str(tmp_path)])
    assert digits.features_ND.shape == (3, 784)
    assert digits.labels_N.tolist() == [0, 0, 1]
    assert digits.features_ND[:, 0].tolist() == [0, 0, 0.5]


def test_scikit_learns_digits_are_the_default():
    digits = load_digits([])
    assert digits.features_ND.shape == (1797, 64)
    assert digits.features_ND.max() == 1
    assert digits.classes == 10


def test_without_scikit_learn_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr("haiftrace.bench.harness.results.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="sklearn") as caught:
        load_digits([])
    assert "pip install" in caught.value.hint


def broken(tmp_path, content, other=None):
    (tmp_path / "x").write_bytes(content)
    (tmp_path / "y").write_bytes(idx(LABELS) if other is None else other)
    return [str(tmp_path / "x"), str(tmp_path / "y")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "no IDX file"),
        (b"\0\0", "no IDX file"),
        (b"PK\3\4 something else", "no IDX file"),
        (idx(IMAGES, kind=0x0D), "no IDX file"),
        (idx(IMAGES)[:-1], "is not complete"),
        (idx(IMAGES) + b"\0", "is not complete"),
        (idx(IMAGES)[:9], "is not complete"),
        (gzip.compress(idx(IMAGES), mtime=0)[:-12], "cannot be read"),
        (b"\x1f\x8b" + b"nonsense" * 4, "cannot be read"),
        (gzip.compress(idx(IMAGES), mtime=0)[:-8] + b"\0" * 8, "cannot be read"),
        (idx(LABELS), "not images and labels"),
        (idx(IMAGES[:4]), "4 images and 5 labels"),
    ],
    # The contents are no names: a compressed one held the second it was made in.
    ids=[
        *("empty", "two-bytes", "another-format", "another-type", "short", "long", "no-shape"),
        *("cut-gzip", "no-gzip", "gzip-sum", "labels-alone", "fewer-images"),
    ],
)
def test_broken_idx_files(tmp_path, content, what):
    with pytest.raises(CorpusError, match=what) as caught:
        load_digits(broken(tmp_path, content))
    assert caught.value.hint


def test_labels_that_skip_a_class_and_too_few_classes(tmp_path):
    for labels in ([0, 2, 3, 3, 0], [0] * 5, [1, 2, 1, 2, 1]):
        with pytest.raises(CorpusError, match="classes"):
            load_digits(broken(tmp_path, idx(IMAGES), idx(np.array(labels))))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"{", "no JSON object"),
        (b"[1, 2]", "no JSON object"),
        (b'{"data": ["a", "b"]}', "no JSON object"),
        (b'{"dat": []}', "no JSON object"),
        (b"\xff\xfe\xff", "no JSON object"),
        (b'{"data": []}', "no list of 28"),
        (b'{"data": [0.1, 0.2]}', "no list of 28"),
        (json.dumps({"data": [2] * 784}).encode(), "range from 0 to 1"),
        (json.dumps({"data": [float("nan")] * 784}).encode(), "range from 0 to 1"),
    ],
)
def test_broken_json_files(tmp_path, content, what):
    (tmp_path / "0.json").write_bytes(content)
    (tmp_path / "1.json").write_text(json.dumps({"data": [0] * 784}))
    with pytest.raises(CorpusError, match=what) as caught:
        load_digits([str(tmp_path)])
    assert caught.value.hint


def test_paths_that_hold_nothing(tmp_path):
    with pytest.raises(CorpusError, match="no pair of IDX files"):
        load_digits([str(tmp_path)])
    with pytest.raises(CorpusError, match="There is no file"):
        load_digits([str(tmp_path / "none")])
    with pytest.raises(CorpusError, match="is a directory among files"):
        load_digits([str(tmp_path), str(tmp_path)])
    files = pair(tmp_path / "d", stem="a")
    with pytest.raises(CorpusError, match="1 files were given"):
        load_digits(files[:1])
    pair(tmp_path / "d", stem="b")
    with pytest.raises(CorpusError, match="2 pairs"):
        load_digits([str(tmp_path / "d")])
