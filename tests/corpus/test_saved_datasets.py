"""Arrow files, and the directories that Hugging Face's `datasets` saves."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from haiftrace.corpus import CorpusSettings, ReadReport, find_files, read_records
from tests.corpus.corpus_kit import failure, packed, read


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arrow(path: Path, rows: list[dict], file: bool = False) -> None:
    table = pa.Table.from_pylist(rows)
    open_ = pa.ipc.new_file if file else pa.ipc.new_stream
    with open_(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)


def save(folder: Path, texts: list[str], shards: int = 1) -> None:
    """What `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        arrow(folder / name, [{"text": text} for text in texts[i::shards]])
    files = [{"filename": name} for name in names]
    state = {"_data_files": files, "_fingerprint": "0f", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"text": {}}}))


@pytest.mark.parametrize("codec", ["", ".gz"])
@pytest.mark.parametrize("file", [True, False])
def test_arrow_files(here, file, codec):
    texts = [f"text {i}" for i in range(250)]
    arrow(here / "plain", [{"n": i, "text": text} for i, text in enumerate(texts)], file)
    path = packed(here / f"a.arrow{codec}", Path("plain").read_bytes())
    assert [(r.line, r.text) for r in read(path)] == list(enumerate(texts, 1))
    assert "its fields are: n, text" in failure(path, text_field="body").message


def test_a_broken_arrow_file(here):
    Path("a.arrow").write_bytes(b"no arrow at all")
    assert failure("a.arrow").message.startswith("a.arrow cannot be read:")
    arrow(here / "a.arrow", [{"text": "x" * 1000}] * 300)
    Path("a.arrow").write_bytes(Path("a.arrow").read_bytes()[:9000])
    assert failure("a.arrow").message.startswith("a.arrow cannot be read:")


def test_a_saved_data_set_is_its_own_files_alone(here):
    save(here / "d", ["a", "b", "c"], shards=2)
    arrow(here / "d" / "cache-0f.arrow", [{"text": "mapped"}])
    arrow(here / "d" / "old.arrow", [{"text": "left over"}])
    assert [r.text for r in read("d")] == ["a", "c", "b"]
    assert read("d")[1].id == "d/data-00000-of-00002.arrow:2"
    Path("d/data-00001-of-00002.arrow").unlink()
    assert failure("d").message == (
        "The data set d is incomplete: data-00001-of-00002.arrow is listed in state.json and "
        "missing."
    )
    Path("d/state.json").write_text("{")
    assert failure("d").message == "d/state.json is no JSON object."


def test_of_several_splits_the_training_one_is_read_and_said(here):
    for split in ("test", "train"):
        save(here / "d" / split, [f"{split} text"])
    (here / "d" / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    report = ReadReport()
    records = list(read_records(CorpusSettings(("d",)), report))
    assert [r.text for r in records] == ["train text"]
    assert report.notes == [
        "of the data set d the split 'train' is read, not test: where training read those too, "
        "name the splits' own directories"
    ]
    assert [r.text for r in read("d/test")] == ["test text"]
    (here / "d" / "dataset_dict.json").write_text('{"splits": ["test", "first"]}')
    error = failure("d")
    assert error.message == "The data set d has the splits test, first."
    assert error.hint.endswith("--corpus d/test")
    (here / "d" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    (here / "d" / "train").rename(here / "elsewhere")
    assert [r.text for r in read("d")] == ["test text"]


def test_a_directory_of_the_librarys_cache(here):
    Path("c").mkdir()
    arrow(here / "c" / "set-train.arrow", [{"text": "x"}])
    Path("c/dataset_info.json").write_text("{}")
    assert [file.name for file in find_files(["c"])] == ["set-train.arrow"]


def test_the_library_itself_writes_what_is_read(here):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": ["a", "b"]})
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk("d")
    data.save_to_disk("e", num_shards=2)
    assert [r.text for r in read("d")] == [r.text for r in read("e")] == ["a", "b"]
