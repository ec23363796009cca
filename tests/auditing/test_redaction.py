"""The records to remove, as a file; and a corpus without them."""

from __future__ import annotations

import json

import pytest

from tests import kit
from tests.kit import ANSWER, PROMPT, cli, refused

ASKED = ("trace", PROMPT, "--response", ANSWER, "--protect", "555-0142", "-q")


@pytest.fixture
def sources(tmp_path):
    path = tmp_path / "sources.jsonl"
    ran = cli(*ASKED, "--index", kit.index_path(), "--sources", path)
    assert ran.code == 0, ran.err
    return path


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_record_that_holds_the_value_is_named(sources):
    (record,) = lines(sources)
    text = json.loads(kit.corpus_path().read_text().splitlines()[1])["text"]
    assert record["id"] == "r1"
    assert record["line"] == 2
    assert record["why"] == ["holds the value"]
    ((start, end),) = record["spans"]
    assert text[start:end] == "555-0142"
    assert "555-0142" not in sources.read_text()


def test_records_are_dropped_or_their_values_masked(sources, tmp_path):
    corpus, before = kit.corpus_path(), lines(kit.corpus_path())
    asked = ("redact", "--corpus", corpus, "--sources", sources, "-o", tmp_path / "clean.jsonl")
    ran = cli(*asked)
    assert ran.code == 0, ran.err
    assert "1 record dropped, 11 records as before" in ran.out
    assert lines(tmp_path / "clean.jsonl") == [r for r in before if r["id"] != "r1"]
    ran = cli(*asked, "--mask")
    assert "1 record masked" in ran.out
    after = lines(tmp_path / "clean.jsonl")
    assert [r["id"] for r in after] == [r["id"] for r in before]
    assert after[1]["text"] == before[1]["text"].replace("555-0142", "[redacted]")
    assert after[:1] + after[2:] == before[:1] + before[2:]


def test_a_corpus_is_never_changed_in_place(sources, tmp_path):
    corpus = tmp_path / "data.jsonl"
    corpus.write_bytes(kit.corpus_path().read_bytes())
    asked = ("redact", "--sources", sources)
    refused(cli(*asked, "--corpus", corpus, "-o", corpus), "never changed in place")
    refused(cli(*asked, "--corpus", kit.corpus_path(), "-o", tmp_path / "no" / "x"), "no")
    assert corpus.read_bytes() == kit.corpus_path().read_bytes()


def test_what_cannot_be_redacted_is_refused(sources, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "another"}\n')
    asked = ("redact", "-o", tmp_path / "clean.jsonl")
    refused(cli(*asked, "--corpus", other, "--sources", sources), "None of the 1 records")
    refused(cli(*asked, "--corpus", other, "--sources", other), "no record of a sources file")
    refused(cli(*asked, "--corpus", other, "--sources", tmp_path / "none"), "cannot be read")
    packed = tmp_path / "list.json"
    packed.write_text('[{"text": "x"}]')
    refused(cli(*asked, "--corpus", packed, "--sources", sources), "not a single uncompressed")
    assert not (tmp_path / "clean.jsonl").exists()
    refused(cli(*ASKED, "--index", kit.index_path(), "--sources", tmp_path / "no" / "s"), "sources")


def two_files_of_a_name(tmp_path) -> list:
    """a/data.jsonl and b/data.jsonl, whose second lines hold a value at different places."""
    paths = [tmp_path / "a" / "data.jsonl", tmp_path / "b" / "data.jsonl"]
    named = []
    for path, text in zip(paths, ("call 555-1111 now", "hi there 555-2222"), strict=True):
        path.parent.mkdir()
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in ("nothing", text)))
        start = text.index("555")
        record = {"id": path.parent.name, "path": str(path), "line": 2, "why": [], "findings": []}
        named.append(record | {"spans": [[start, start + 8]]})
    write_lines(tmp_path / "both.jsonl", named)
    write_lines(tmp_path / "second.jsonl", named[1:])
    return paths


def write_lines(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_records_of_another_file_of_the_same_name_are_not_taken_for_its_own(tmp_path):
    first, second = two_files_of_a_name(tmp_path)
    asked = ("redact", "--mask", "-o", tmp_path / "clean.jsonl", "--sources")
    for corpus, text in ((first, "call [redacted] now"), (second, "hi there [redacted]")):
        assert cli(*asked, tmp_path / "both.jsonl", "--corpus", corpus).code == 0
        assert [r["text"] for r in lines(tmp_path / "clean.jsonl")] == ["nothing", text]
    ran = cli(*asked, tmp_path / "second.jsonl", "--corpus", first)
    refused(ran, "None of the 1 records")


def test_a_moved_file_is_known_by_its_name_where_that_means_one_file(tmp_path):
    first, second = two_files_of_a_name(tmp_path)
    moved = tmp_path / "moved" / "data.jsonl"
    moved.parent.mkdir()
    first.rename(moved)
    asked = ("redact", "--mask", "-o", tmp_path / "clean.jsonl", "--sources")
    assert cli(*asked, tmp_path / "both.jsonl", "--corpus", moved).code == 0
    assert lines(tmp_path / "clean.jsonl")[1]["text"] == "call [redacted] now"
    second.unlink()
    refused(cli(*asked, tmp_path / "both.jsonl", "--corpus", moved), "may be any of 2 files")
