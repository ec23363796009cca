"""The store and what it finds in its place: nothing that is not ours is touched, one writer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from haiftrace.errors import IndexStoreError
from haiftrace.store import Index, IndexWriter
from tests.store.store_samples import (
    FINGERPRINTS,
    SETTINGS,
    contents,
    make_records,
    open_writer,
    quick_fsync,  # noqa: F401 (autouse)
    settings,
    write_index,
)


def test_a_foreign_directory_is_never_touched(tmp_path: Path) -> None:
    for overwrite in (False, True):
        for name, text in [("thesis.txt", "x"), ("manifest.json", '{"name": "web app"}')]:
            place = tmp_path / f"{name}-{overwrite}"
            place.mkdir()
            (place / name).write_text(text)
            with pytest.raises(IndexStoreError, match=r"not (an index|written by)") as caught:
                open_writer(place, overwrite=overwrite)
            assert "-o" in caught.value.hint
            assert [p.name for p in place.iterdir()] == [name]
            assert (place / name).read_text() == text
    (tmp_path / "file").write_text("x")
    with pytest.raises(IndexStoreError, match="not a directory"):
        open_writer(tmp_path / "file", overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(IndexStoreError, match="not a directory"):
        open_writer(tmp_path / "link")


def test_overwrite_removes_our_files_only(tmp_path: Path) -> None:
    place = tmp_path / "i"
    write_index(place, make_records(9))
    (place / "notes.txt").write_text("mine")
    (place / "records/readme.parquet").write_text("mine too")
    other = settings(token_vectors=16)
    before = contents(place)
    with pytest.raises(IndexStoreError, match="token_vectors 8 there and 16 now") as caught:
        open_writer(place, other)
    assert "--overwrite" in caught.value.hint
    assert contents(place) == before
    Index.open(place)

    write_index(place, make_records(2, other), other, overwrite=True)
    assert sorted(contents(place)) == [
        "notes.txt",
        "records/00000.parquet",
        "records/readme.parquet",
        "tokens.faiss",
    ]
    assert len(Index.open(place)) == 2


def test_other_fingerprints_are_another_index(tmp_path: Path) -> None:
    write_index(tmp_path / "i", make_records(2))
    with pytest.raises(IndexStoreError, match="other corpus"):
        IndexWriter.create_or_resume(tmp_path / "i", SETTINGS, {**FINGERPRINTS, "corpus": "c2"})


def test_overwrite_rebuilds_a_finished_index_and_continues_an_unfinished(tmp_path: Path) -> None:
    records = make_records(9)
    write_index(tmp_path / "i", records)
    with open_writer(tmp_path / "i", overwrite=True) as writer:
        assert not writer.already_complete
        assert not writer.shard_numbers
        for number in range(5):
            writer.append_record(records[number])
    with open_writer(tmp_path / "i", overwrite=True) as writer:
        assert writer.totals.records == 5


def test_links_in_the_place_of_our_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/00007.parquet").write_text("mine")
    open_writer(tmp_path / "i").close()
    (tmp_path / "i/records").rmdir()
    (tmp_path / "i/records").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IndexStoreError, match="in the way"):
        open_writer(tmp_path / "i", overwrite=True)
    assert (tmp_path / "elsewhere/00007.parquet").read_text() == "mine"


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.store.store_samples import open_writer; from pathlib import Path\n"
        "writer = open_writer(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "i")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        for overwrite in (False, True):
            with pytest.raises(IndexStoreError, match="right now"):
                open_writer(tmp_path / "i", overwrite=overwrite)
        child.kill()
    open_writer(tmp_path / "i").close()  # released by the kill


def test_lock_in_one_process(tmp_path: Path) -> None:
    with open_writer(tmp_path / "i") as writer:
        with pytest.raises(IndexStoreError, match="right now"):
            open_writer(tmp_path / "i")
        writer.close()
        writer.close()
        open_writer(tmp_path / "i").close()
