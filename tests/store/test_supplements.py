"""What methods keep in an index beside its rows: intact, private, resumable, removed with it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.errors import IndexStoreError
from haiftrace.store import Index, SupplementWriter
from haiftrace.store.quantile import streamed_quantile
from tests.store.store_samples import (
    contents,
    make_records,
    open_writer,
    quick_fsync,  # noqa: F401 (autouse)
    write_index,
)

RECORDS = make_records(8)  # 10 windows in 3 shards
SETTINGS = {"damping": "0.1x", "seed": 3}
TENSORS = {"left": torch.arange(6.0).reshape(2, 3).T, "right": torch.eye(2, dtype=torch.float64)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_index(tmp_path / "i", RECORDS)
    return tmp_path / "i"


def values_of(index: Index, row: int) -> dict[str, float | np.ndarray]:
    (window,) = index.iter_windows([row])
    return {"norm": row + 0.5, "token_norms": np.arange(sum(window.labels)) + 10.0 * row}


def write_rows(root: Path, name: str = "norms", stop_after: int = 99) -> int:
    """Keeps a row a window; returns how many shards were there before."""
    with Index.open(root) as index, SupplementWriter(root) as writer:
        done = writer.begin(name, SETTINGS)
        if done < 0:
            return done
        for number, rows in enumerate(index.shard_rows()):
            if done <= number < stop_after:
                writer.add_rows(name, [values_of(index, row) for row in rows])
        if stop_after > len(index.shard_rows()):
            writer.finish(name)
        return done


def check_rows(root: Path, name: str = "norms") -> None:
    with Index.open(root) as index:
        entry = index.supplement(name)
        assert entry is not None
        assert entry.settings == SETTINGS
        for row in range(len(index)):
            kept, right = index.supplement_values(name, row), values_of(index, row)
            assert kept["norm"] == right["norm"]
            np.testing.assert_array_equal(kept["token_norms"], right["token_norms"])


def test_rows_are_read_back_window_by_window(root):
    assert write_rows(root) == 0
    check_rows(root)
    assert write_rows(root) == -1  # already there


def test_tensors_are_read_back_with_what_describes_them(root):
    with SupplementWriter(root) as writer:
        assert writer.begin("ek-fac", SETTINGS) == 0
        for number in range(2):
            writer.add_tensors("ek-fac", TENSORS, {"weight": f"w{number}"})
        writer.finish("ek-fac")
    with Index.open(root) as index:
        read = list(index.supplement_tensors("ek-fac"))
    assert [about["weight"] for _, about in read] == ["w0", "w1"]
    for tensors, _ in read:
        assert tensors.keys() == TENSORS.keys()
        assert all(torch.equal(tensors[key], TENSORS[key]) for key in TENSORS)


def test_an_interrupted_supplement_is_not_there_and_goes_on(root):
    write_rows(root, stop_after=2)
    with Index.open(root) as index:
        assert index.supplement("norms") is None
    assert write_rows(root) == 2
    check_rows(root)


def test_other_settings_begin_anew(root):
    write_rows(root)
    with SupplementWriter(root) as writer:
        assert writer.begin("norms", {**SETTINGS, "seed": 4}) == 0
    with Index.open(root) as index:
        assert index.supplement("norms") is None


def test_the_rest_of_the_index_stays_and_another_index_takes_it_away(root):
    before = contents(root)
    write_rows(root)
    assert {name: data for name, data in contents(root).items() if name in before} == before
    with open_writer(root) as writer:
        assert writer.already_complete
    check_rows(root)
    write_index(root, RECORDS, overwrite=True)
    assert contents(root) == before


def test_files_are_private(root):
    write_rows(root)
    for path in (root / "supplements").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_damage_is_seen(root):
    write_rows(root)
    (first, *_) = sorted((root / "supplements/norms").iterdir())
    content = first.read_bytes()
    first.write_bytes(content[:-1])
    with pytest.raises(IndexStoreError, match="bytes instead of"):
        Index.open(root)
    first.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(IndexStoreError, match="checksum"):
        Index.open(root)
    opened = Index.open(root, verify=False)
    with opened as index, pytest.raises(IndexStoreError, match="checksum"):
        index.supplement_values("norms", 0)
    first.unlink()
    with pytest.raises(IndexStoreError, match="missing"):
        Index.open(root)


def test_what_is_not_finite_is_not_kept(root):
    with SupplementWriter(root) as writer:
        writer.begin("norms", SETTINGS)
        for bad in ({"norm": np.nan}, {"norm": 1.0, "token_norms": np.array([np.inf])}):
            with pytest.raises(IndexStoreError, match="not a finite number"):
                writer.add_rows("norms", [bad])
    assert not list((root / "supplements/norms").iterdir())


def test_only_a_complete_index_takes_one_and_one_writer_at_a_time(root, tmp_path):
    with open_writer(tmp_path / "new") as writer:
        writer.append_record(RECORDS[0])
    for path, words in ((tmp_path / "new", "not complete"), (root, "Another haiftrace process")):
        with (
            SupplementWriter(root),
            pytest.raises(IndexStoreError, match=words),
        ):
            SupplementWriter(path)


def test_a_link_in_the_way_is_not_followed(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", root / "supplements")
    with SupplementWriter(root) as writer, pytest.raises(IndexStoreError, match="in the way"):
        writer.begin("norms", SETTINGS)
    assert not list((tmp_path / "elsewhere").iterdir())


NUMBERS = st.floats(0, allow_nan=False, allow_infinity=False)


@given(st.lists(st.lists(NUMBERS, max_size=6), max_size=5), st.floats(0, 1))
def test_streamed_quantiles_are_those_of_all_numbers(chunks, quantile):
    arrays = [np.array(chunk, dtype=np.float64) for chunk in chunks]
    together = np.concatenate([*arrays, np.zeros(0)])
    if not len(together):
        with pytest.raises(ValueError, match="no number"):
            streamed_quantile(lambda: iter(arrays), quantile)
        return
    place = quantile * (len(together) - 1)
    ordered = np.sort(together)
    low, high = ordered[int(np.floor(place))], ordered[int(np.ceil(place))]
    value = streamed_quantile(lambda: iter(arrays), quantile)
    assert low <= value <= high
    if np.isfinite(high * 2):
        assert value == pytest.approx(float(np.quantile(together, quantile)), rel=1e-9)


def test_columns_are_read_a_shard_at_a_time(root):
    write_rows(root)
    with Index.open(root) as index:
        values = [values_of(index, row) for row in range(len(index))]
        for name in ("norm", "token_norms"):
            columns = list(index.supplement_column("norms", name))
            assert len(columns) == len(index.shard_rows())
            right = np.concatenate([np.atleast_1d(value[name]) for value in values])
            np.testing.assert_array_equal(np.concatenate(columns), right)


# Kept while the index is being written.


def test_tensors_that_all_shards_depend_on(tmp_path):
    path = tmp_path / "i"
    with open_writer(path) as writer:
        assert writer.stored_tensors("whitening") is None
        writer.append_record(RECORDS[0])
        writer.keep_tensors("whitening", SETTINGS, TENSORS)
        tensors = writer.stored_tensors("whitening")
        assert all(torch.equal(tensors[key], TENSORS[key]) for key in TENSORS)
    with open_writer(path) as writer:  # as after an interrupt
        assert writer.shard_numbers == {0}
        tensors = writer.stored_tensors("whitening")
        assert tensors.keys() == TENSORS.keys()
        assert all(torch.equal(tensors[key], TENSORS[key]) for key in TENSORS)
    write_index(path, RECORDS)
    with Index.open(path) as index:
        assert index.supplement("whitening").settings == SETTINGS
        ((read, about),) = index.supplement_tensors("whitening")
        assert all(torch.equal(read[key], TENSORS[key]) for key in TENSORS)
        assert not about
    write_rows(path)
    check_rows(path)
    with Index.open(path) as index:
        assert index.supplement("whitening") is not None


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_shards_are_given_up_with_the_tensors_that_they_depend_on(tmp_path, how):
    path = tmp_path / "i"
    with open_writer(path) as writer:
        writer.keep_tensors("whitening", SETTINGS, TENSORS)
        for record in RECORDS[:7]:
            writer.append_record(record)
    file = path / "supplements/whitening/00000.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    if how == "missing":
        file.unlink()
    with open_writer(path) as writer:
        assert writer.discarded_shards == 3
        assert not writer.shard_numbers
        assert writer.stored_tensors("whitening") is None
    assert not file.exists()


def test_an_interrupt_while_they_are_kept(tmp_path, monkeypatch):
    path = tmp_path / "i"
    real = os.replace

    def stopped(source, target):
        real(source, target)
        if target.suffix == ".safetensors":
            raise KeyboardInterrupt

    with open_writer(path) as writer, monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            writer.keep_tensors("whitening", SETTINGS, TENSORS)
    with open_writer(path) as writer:
        assert writer.stored_tensors("whitening") is None
        assert not list((path / "supplements/whitening").iterdir())
        writer.keep_tensors("whitening", SETTINGS, TENSORS)
        assert writer.stored_tensors("whitening") is not None
