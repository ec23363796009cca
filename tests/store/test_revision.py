"""Changing a complete index: masked rows are given to nobody, compacted ones are in no file."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from haiftrace.errors import IndexStoreError
from haiftrace.store import DroppedRecord, Index, Revision, SupplementWriter, durable
from haiftrace.store.sample import sample_rows
from tests.store.store_samples import (
    FINGERPRINTS,
    SETTINGS,
    assert_same,
    label_vectors,
    make_records,
    open_writer,
    write_index,
)
from tests.store.store_samples import quick_fsync as quick_fsync

RECORDS = make_records(9)  # 12 windows in 4 shards
WINDOWS = [len(rows) for rows in RECORDS]


def dropped(number: int) -> DroppedRecord:
    rows = RECORDS[number]
    labels = sum(sum(row.labels) for row in rows)
    return DroppedRecord(number, sum(WINDOWS[:number]), len(rows), labels)


def mask(path: Path, *numbers: int) -> None:
    with Revision(path) as revision:
        revision.mask([dropped(number) for number in numbers])


def compact(path: Path) -> None:
    with Revision(path) as revision:
        revision.compact()


def check(path: Path, numbers: list[int], records=RECORDS) -> None:
    """An index gives these records, and every way to read it agrees."""
    rows = [row for number in numbers for row in records[number]]
    with Index.open(path) as index:
        windows = list(index.iter_windows())
        assert len(index) == len(windows) == len(rows) == index.manifest.totals.windows
        assert index.manifest.totals.records == len(numbers)
        for window, row in zip(windows, rows, strict=True):
            assert_same(window, row)
        expected = [at for at, number in enumerate(numbers) for _ in records[number]]
        assert [window.record for window in windows] == expected
        assert index.column("record").tolist() == expected
        assert index.column("loss").tolist() == [row.loss for row in rows]
        losses = [row.token_loss[np.array(row.labels)] for row in rows]
        np.testing.assert_array_equal(
            np.concatenate([each for each, _ in index.label_losses()]), np.concatenate(losses)
        )
        assert list(itertools.chain(*index.shard_rows())) == list(range(len(rows)))
        search = index.token_search
        assert search is not None
        blocks = list(search.products(np.eye(8)))
        assert list(itertools.chain(*(block[0] for block in blocks))) == list(range(len(rows)))
        products = np.concatenate([block[2] for block in blocks])
        np.testing.assert_allclose(products, label_vectors(rows), rtol=1e-6)
        for at, row in enumerate(rows):
            codes = index.stored_codes(at)
            np.testing.assert_array_equal(codes, row.token_codes[np.array(row.labels)])
        assert len(sample_rows(index, 3, 0)) == min(3, len(rows))


@pytest.mark.parametrize("numbers", [[0], [8], [2, 5], [3, 4, 5], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_what_is_masked_and_compacted(tmp_path: Path, numbers: list[int]) -> None:
    path = tmp_path / "i"
    write_index(path, RECORDS)
    left = [number for number in range(9) if number not in numbers]
    mask(path, *numbers)
    check(path, left)
    compact(path)
    check(path, left)
    with Index.open(path) as index:
        assert not index.manifest.dropped
        shards = index.manifest.shards
        assert sum(shard.record_count for shard in shards) == len(left)


def everything(path: Path) -> bytes:
    """All bytes of a directory, and all values of its Parquet files."""
    data = [str(sorted(path.rglob("*"))).encode()]
    for file in path.rglob("*"):
        if file.is_file():
            data.append(file.read_bytes())
        if file.suffix == ".parquet":
            data.append(repr(pq.read_table(file).to_pylist()).encode())
    return b"\n".join(data)


def test_what_is_compacted_is_in_no_byte_of_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "i"
    config = {**SETTINGS, "token_vectors": 256}
    records = make_records(9, config)
    write_index(path, records, config)
    secret = records[4][0]
    codes = [code.tobytes() for code in secret.token_codes[np.array(secret.labels)]]
    traces = [secret.id.encode(), repr(secret.text)[1:-1].encode(), *codes]
    labels = int(np.sum(secret.labels))
    with Revision(path) as revision:
        entry = DroppedRecord(4, sum(WINDOWS[:4]), 1, labels)
        revision.mask([entry])
        (path / ".appending").mkdir()
        (path / ".appending/left.txt").write_text(secret.text)
    before = everything(path)
    assert all(trace in before for trace in traces)
    compact(path)
    after = everything(path)
    assert not any(trace in after for trace in traces)
    assert all(row.id.encode() in after for number in (3, 5) for row in records[number])


def test_a_masked_record_can_be_masked_again_and_not_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "i"
    write_index(path, RECORDS)
    mask(path, 1)
    mask(path, 1, 2)
    check(path, [0, 3, 4, 5, 6, 7, 8])
    with pytest.raises(IndexStoreError, match="none be left"):
        mask(path, *range(9))
    check(path, [0, 3, 4, 5, 6, 7, 8])


def pend(path: Path, records: list) -> None:
    """What `haiftrace index --append` indexes first."""
    with open_writer(path / ".appending") as writer:
        for rows in records:
            writer.append_record(rows)
        writer.finish()


MORE = make_records(14)[9:]


def test_appended_records_come_after_the_others(tmp_path: Path) -> None:
    path = tmp_path / "i"
    write_index(path, RECORDS)
    mask(path, 4)
    pend(path, MORE)
    with Revision(path) as revision:
        revision.append(["/more.jsonl"], "c2")
    check(path, [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13], [*RECORDS, *MORE])
    assert not (path / ".appending").exists()
    compact(path)
    check(path, [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13], [*RECORDS, *MORE])
    with Index.open(path) as index:
        (added,) = index.manifest.appended
        assert (added.paths, added.fingerprint, added.first_record) == (("/more.jsonl",), "c2", 8)


def keep(path: Path, name: str, depends_on=()) -> None:
    with Index.open(path) as index, SupplementWriter(path) as writer:
        if writer.begin(name, {"a": 1}, depends_on) < 0:
            return
        for rows in index.shard_rows():
            writer.add_rows(name, [{"row": float(row)} for row in rows])
        writer.finish(name)


def test_supplements_of_other_rows_go_and_can_be_kept_anew(tmp_path: Path) -> None:
    path = tmp_path / "i"
    write_index(path, RECORDS)
    keep(path, "norms")
    mask(path, 0, 1, 2, 3)  # a shard and a half
    with Index.open(path) as index:
        assert index.supplement("norms") is None
    assert not list((path / "supplements/norms").iterdir())
    keep(path, "norms")
    with Index.open(path) as index:
        for row in range(len(index)):
            assert index.supplement_values("norms", row) == {"row": row}
        column = np.concatenate(list(index.supplement_column("norms", "row")))
        assert column.tolist() == list(range(len(index)))


def test_what_was_computed_with_a_supplement_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "i"
    write_index(path, RECORDS)
    keep(path, "factors")
    keep(path, "norms", ["factors"])
    keep(path, "samples", ["norms"])
    keep(path, "others")
    with SupplementWriter(path) as writer:
        assert writer.begin("factors", {"a": 1}) < 0
        assert writer.begin("factors", {"a": 2}) == 0
    with Index.open(path) as index:
        assert set(index.manifest.supplements) == {"factors", "others"}


@pytest.mark.parametrize("fails_at", range(12))
def test_a_change_that_fails_leaves_the_index_before_or_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """Whatever write fails: every file in order, the manifest, and what is removed after it."""
    path = tmp_path / "i"
    write_index(path, RECORDS)
    mask(path, 1, 5)
    pend(path, MORE)
    left = [0, 2, 3, 4, 6, 7, 8]
    calls = itertools.count()

    def failing(replace):
        def wrapped(target, fill, **options):
            if next(calls) == fails_at:
                raise OSError(28, "No space left on device")
            return replace(target, fill, **options)

        return wrapped

    def change() -> None:
        with Revision(path) as revision:
            revision.append(["/more.jsonl"], "c2")
        with Revision(path) as revision:
            revision.compact()

    with monkeypatch.context() as patch:
        patch.setattr(durable, "replace_atomically", failing(durable.replace_atomically))
        with contextlib.suppress(IndexStoreError):
            change()
    both = [*left, 9, 10, 11, 12, 13]
    with Index.open(path) as index:
        appended = bool(index.manifest.appended)
    check(path, both if appended else left, [*RECORDS, *MORE])
    with Revision(path) as revision:
        if not appended:
            revision.append(["/more.jsonl"], "c2")
        revision.compact()
    check(path, both, [*RECORDS, *MORE])
    assert FINGERPRINTS["corpus"] == "c1"


def test_only_one_process_changes_an_index(tmp_path: Path) -> None:
    write_index(tmp_path / "i", RECORDS)
    with (
        Revision(tmp_path / "i"),
        pytest.raises(IndexStoreError, match="Another haiftrace process"),
    ):
        Revision(tmp_path / "i")
    with open_writer(tmp_path / "begun") as writer:
        writer.append_record(RECORDS[0])
    for name, words in (("none", "no index"), (".", "no index"), ("begun", "not complete")):
        with pytest.raises(IndexStoreError, match=words):
            Revision(tmp_path / name)
    assert not (tmp_path / ".lock").exists()
