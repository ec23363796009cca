"""A first look: the first records, or a sample; and what settings do to a fingerprint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haiftrace.corpus import CorpusSettings, ReadReport, find_files, fingerprint, read_records
from haiftrace.corpus.files import content_hash
from haiftrace.corpus.records import _sample
from tests.corpus.corpus_kit import failure, jsonl, read
from tests.corpus.windows_kit import record


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "a.jsonl", *({"text": f"text {i}" if i else ""} for i in range(40)))
    return tmp_path


def test_a_limit_reads_no_further(here):
    with open("a.jsonl", "a") as file:
        file.write("{")
    report = ReadReport()
    records = list(read_records(CorpusSettings(("a.jsonl",), limit=3), report))
    assert [r.text for r in records] == ["text 1", "text 2", "text 3"]
    assert (report.records, report.empty) == (3, 1)
    assert len(read("a.jsonl", limit=99, skip_bad_lines=True)) == 39
    assert "malformed" in failure("a.jsonl", limit=99).message


def test_a_sample_is_the_same_for_a_seed_and_in_order(here):
    drawn = [r.line for r in read("a.jsonl", sample_records=8, seed=3)]
    assert len(drawn) == 8
    assert drawn == sorted(drawn) == [r.line for r in read("a.jsonl", sample_records=8, seed=3)]
    assert drawn != [r.line for r in read("a.jsonl", sample_records=8, seed=4)]
    assert max(r.line for r in read("a.jsonl", sample_records=5, limit=10)) <= 11
    assert len(read("a.jsonl", sample_records=99)) == 39


@settings(max_examples=50)
@given(count=st.integers(1, 30), size=st.integers(1, 35), seed=st.integers(0, 9))
def test_a_sample_has_its_size_and_no_record_twice(count, size, seed):
    records = [record(str(i)) for i in range(count)]
    drawn = [int(r.text) for r in _sample(iter(records), size, seed)]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == min(size, count)


def test_every_record_is_drawn_as_often():
    counts = [0] * 10
    for seed in range(2000):
        for drawn in _sample(iter([record(str(i)) for i in range(10)]), 3, seed):
            counts[int(drawn.text)] += 1
    assert all(500 < count < 700 for count in counts)


def test_new_settings_leave_the_fingerprint_of_what_was_indexed_before(here):
    files = find_files(["a.jsonl"])
    before = ["haiftrace-corpus-1", "body", "key", "response", True]
    old = {"text_field": "body", "id_field": "key", "loss_on": "response", "skip_bad_lines": True}
    plain = CorpusSettings(("a.jsonl",), **old)
    assert fingerprint(plain) == content_hash(files, json.dumps(before).encode())
    assert plain.kept() == old
    grouped = CorpusSettings(("a.jsonl",), **old, group_field="g")
    assert fingerprint(grouped) == content_hash(files, json.dumps([*before, "g"]).encode())
    assert fingerprint(CorpusSettings(("a.jsonl",), seed=5)) == fingerprint(
        CorpusSettings(("a.jsonl",))
    )


def test_whatever_changes_what_is_read_changes_the_fingerprint(here):
    ways = [
        {},
        {"format": "text"},
        {"text_template": "{text}"},
        {"ids_field": "ids"},
        {"limit": 3},
        {"limit": 4},
        {"sample_records": 3},
        {"sample_records": 3, "seed": 1},
        {"group_field": "3"},
    ]
    all_settings = [CorpusSettings(("a.jsonl",), **way) for way in ways]
    assert len({fingerprint(each) for each in all_settings}) == len(ways)
    for each in all_settings:
        assert CorpusSettings(("a.jsonl",), **each.kept()) == each


def test_names_with_commas_between_are_told_from_a_name(here):
    jsonl(here / "b.jsonl", {"text": "b"})
    error = failure("a.jsonl,b.jsonl")
    assert error.message.startswith("a.jsonl,b.jsonl is read as one name")
    assert error.hint == "Repeat the option: --corpus a.jsonl --corpus b.jsonl"
    assert "There is no file" in failure("a.jsonl,c.jsonl").message
    assert "hf download some/data --repo-type dataset" in failure("some/data").hint
    assert "hf download" not in failure("some/data.jsonl").hint
    Path("a,b.jsonl").write_text('{"text": "comma"}')
    assert read("a,b.jsonl")[0].text == "comma"
