"""Reading the corpus: every format, every kind of record, ids."""

from __future__ import annotations

import gzip
import json
import tempfile
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haiftrace.corpus import CorpusSettings, ReadReport, read_records
from haiftrace.corpus.formats import json_format, rows
from tests.corpus.corpus_kit import SECRET, failure, jsonl, packed, read

TEXTS = [
    "Ann Lee was born in Oslo.",
    "张伟的电话是 138-0013-8000。",
    "smile 😀 and a family 👨‍👩‍👧",
    "first line\r\nsecond line",
    "bell \x07, escape \x1b[31m, nul \x00, [bold]markup[/bold], separator \u2028 here",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Formats


@pytest.mark.parametrize("codec", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".JSONL"])
def test_object_lines_keep_every_character(here, suffix, codec):
    lines = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in TEXTS)
    path = packed(here / f"data{suffix}{codec}", lines.encode())
    records = read(path)
    assert [r.text for r in records] == TEXTS
    assert [(r.path, r.line) for r in records] == [(path.name, i + 1) for i in range(len(TEXTS))]
    assert [r.id for r in records] == [f"{path.name}:{i + 1}" for i in range(len(TEXTS))]
    assert all(r.loss_spans is None and r.messages is None for r in records)


@pytest.mark.parametrize("codec", ["", ".gz", ".zst"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_lists_know_their_lines(here, codec, indent):
    data = json.dumps([{"text": t} for t in TEXTS], indent=indent, ensure_ascii=False)
    records = read(packed(here / f"data.json{codec}", b"\xef\xbb\xbf \n" + data.encode()))
    assert [r.text for r in records] == TEXTS
    if indent:
        assert [r.line for r in records] == [3 + 3 * i for i in range(len(TEXTS))]
        assert records[1].id == f"data.json{codec}:6"
    else:
        assert {r.line for r in records} == {2}
        assert [r.id.split(":")[1] for r in records] == ["2", "2#2", "2#3", "2#4", "2#5"]


@pytest.mark.parametrize("codec", ["", ".gz", ".zst"])
def test_parquet_rows(here, codec):
    table = pa.table({"text": TEXTS, "n": range(len(TEXTS)), "id": list("abcde")})
    pq.write_table(table, here / "plain.parquet", row_group_size=2)
    path = packed(here / f"data.parquet{codec}", (here / "plain.parquet").read_bytes())
    records = read(path)
    assert [r.text for r in records] == TEXTS
    assert [(r.id, r.line) for r in records] == list(zip("abcde", range(1, 6), strict=True))


def test_parquet_chat_and_pairs_in_the_same_table(here):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    rows_ = [
        {"text": None, "prompt": "Q", "completion": "A", "messages": None},
        {"text": None, "prompt": None, "completion": None, "messages": chat},
    ]
    pq.write_table(pa.Table.from_pylist(rows_), here / "a.parquet")
    pair, chat_record = read("a.parquet", loss_on="response")
    assert (pair.text, pair.loss_spans) == ("QA", ((1, 2),))
    assert chat_record.messages == (("user", "hi"), ("assistant", "hello"))


@pytest.mark.parametrize("suffix", [".txt", ".text", ".md", ".txt.gz", ".txt.zst"])
def test_text_is_one_record_a_line(here, suffix):
    data = "\ufeff第一句。\r\n\r\n  indented\t\r\n   \n\x1b[2Jlone \r return\u2028same line\nlast"
    records = read(packed(here / f"a{suffix}", data.encode()))
    assert [(r.line, r.text) for r in records] == [
        (1, "第一句。"),
        (3, "  indented\t"),
        (5, "\x1b[2Jlone \r return\u2028same line"),
        (6, "last"),
    ]


def test_a_byte_order_mark_blank_lines_and_crlf_are_tolerated(here):
    Path("a.jsonl").write_bytes(b'\xef\xbb\xbf{"text":"a"}\r\n\r\n{"text":"b"}\r\n \n{"text":"c"}')
    assert [(r.line, r.text) for r in read("a.jsonl")] == [(1, "a"), (3, "b"), (5, "c")]


def test_concatenated_gzip_members_are_one_file(here):
    member = gzip.compress(b'{"text":"x"}\n')
    Path("a.jsonl.gz").write_bytes(member * 3)
    assert len(read("a.jsonl.gz")) == 3


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.text(min_size=1), min_size=1, max_size=6),
    kind=st.sampled_from(["jsonl", "lines.json", "list.json", "parquet", "jsonl.gz"]),
    ascii_only=st.booleans(),
)
def test_any_text_survives_any_format(texts, kind, ascii_only):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{kind}"
        values = [{"text": t} for t in texts]
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(values), path)
        elif kind == "list.json":
            path.write_text(json.dumps(values, ensure_ascii=ascii_only, indent=1), "utf-8")
        else:
            lines = [json.dumps(v, ensure_ascii=ascii_only) for v in values]
            packed(path, "\n".join(lines).encode())
        assert [r.text for r in read(path)] == texts


def test_a_json_list_may_be_cut_anywhere(here, monkeypatch):
    values = [{"text": f"é{i}漢", "n": [i, {"deep": "x" * i}]} for i in range(12)]
    Path("a.json").write_text(json.dumps(values, indent=1, ensure_ascii=False), "utf-8")
    records = read("a.json")
    for block in (2, 3, 7, 64):
        for module in (json_format, rows):
            monkeypatch.setattr(module, "BLOCK", block)
        assert read("a.json") == records
    Path("b.json").write_text('[{"text": "a"}, 123456789, {"text": "b"}]')
    for block in (2, 3, 5, 7, 11):
        for module in (json_format, rows):
            monkeypatch.setattr(module, "BLOCK", block)
        assert [r.text for r in read("b.json", skip_bad_lines=True)] == ["a", "b"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json"])
def test_memory_does_not_grow_with_the_file(here, name):
    values = [json.dumps({"text": "word " * 800}) for _ in range(4000)]  # 16 MB
    data = "[" + ",\n".join(values) + "]" if name == "a.json" else "\n".join(values)
    path = packed(here / name, data.encode())
    del values, data
    import pyarrow.parquet  # noqa: F401  (its import is not what is measured)

    tracemalloc.start()
    try:
        count = sum(1 for _ in read_records(CorpusSettings((str(path),))))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 4000
    assert peak < 8e6


def test_memory_does_not_grow_with_a_parquet_row_group(here):
    table = pa.table({"text": [f"{i} " * 800 for i in range(4000)]})  # one group of 16 MB
    pq.write_table(table, "a.parquet", compression="none", use_dictionary=False)
    del table
    before, peak = pa.total_allocated_bytes(), 0
    tracemalloc.start()
    try:
        for _ in read_records(CorpusSettings(("a.parquet",))):
            peak = max(peak, pa.total_allocated_bytes() - before)
        peak += tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 11e6


# Kinds of record


def test_prompt_and_response_are_joined_as_they_stand(here):
    jsonl(
        here / "a.jsonl",
        {"prompt": "Phone of Ann?", "response": " 555-0100"},
        {"prompt": "", "completion": "just this"},
        {"prompt": "no answer", "response": ""},
    )
    records = read("a.jsonl")
    assert [r.text for r in records] == ["Phone of Ann? 555-0100", "just this", "no answer"]
    assert all(r.loss_spans is None for r in records)
    spans = [r.loss_spans for r in read("a.jsonl", loss_on="response")]
    assert spans == [((13, 22),), ((0, 9),), ((9, 9),)]


def test_chats_keep_roles_and_contents(here):
    chat = [
        {"role": "system", "content": "Be brief.", "weight": 0},
        {"role": "user", "content": "电话?"},
        {"role": "assistant", "content": "138"},
    ]
    jsonl(here / "a.jsonl", {"messages": chat, "id": "c1"})
    for loss_on in ("all", "response"):
        (record,) = read("a.jsonl", loss_on=loss_on)
        assert record.messages == (
            ("system", "Be brief."),
            ("user", "电话?"),
            ("assistant", "138"),
        )
        assert (record.id, record.text) == ("c1", "Be brief.\n电话?\n138")
        assert record.loss_spans is None


def test_text_wins_unless_the_loss_is_on_the_response(here):
    jsonl(here / "a.jsonl", {"text": "whole", "prompt": "wh", "response": "ole"})
    assert read("a.jsonl")[0].loss_spans is None
    assert read("a.jsonl", loss_on="response")[0].loss_spans == ((2, 5),)


def test_another_text_field_must_be_there(here):
    jsonl(here / "a.jsonl", {"body": "b", "text": "t"}, {"prompt": "p", "response": SECRET})
    error = failure("a.jsonl", text_field="body")
    assert error.message.startswith("a.jsonl:2: the record has no field 'body'")
    assert error.message.endswith("its fields are: prompt, response.")
    report = ReadReport()
    records = list(
        read_records(CorpusSettings(("a.jsonl",), text_field="body", skip_bad_lines=True), report)
    )
    assert [r.text for r in records] == ["b"]
    assert (report.records, report.bad) == (1, 1)


def test_plain_text_has_no_response(here):
    jsonl(here / "a.jsonl", {"prompt": "p", "response": "r"}, {"text": SECRET})
    for skip in (False, True):
        error = failure("a.jsonl", loss_on="response", skip_bad_lines=skip)
        assert error.message.startswith("a.jsonl:2:")
    Path("b.txt").write_text(SECRET)
    assert failure("b.txt", loss_on="response").message.startswith("b.txt:1:")


# Ids


def test_ids(here):
    jsonl(
        here / "a.jsonl",
        {"id": "own", "text": "t"},
        {"id": 7, "text": "t"},
        {"id": None, "text": "t"},
        {"id": "", "text": "t"},
        {"id": 1.5, "text": "t"},
        {"id": True, "text": "t"},
        {"text": "t"},
    )
    places = [f"a.jsonl:{i}" for i in range(1, 8)]
    assert [r.id for r in read("a.jsonl")] == ["own", "7", *places[2:]]
    assert [r.id for r in read("a.jsonl", id_field="")] == places
    error = failure("a.jsonl", id_field="id")
    assert error.message == "a.jsonl:3: the id field 'id' is missing, null or empty."


def test_a_named_id_field_must_hold_a_string_or_integer(here):
    jsonl(here / "a.jsonl", {"key": [SECRET], "text": "t"})
    assert "the id field 'key' is a list" in failure("a.jsonl", id_field="key").message


def test_duplicate_ids_name_both_lines(here):
    jsonl(here / "a.jsonl", {"id": 1, "text": "t"}, {"id": SECRET, "text": "t"})
    jsonl(here / "b.jsonl", {"text": "t"}, {"id": SECRET, "text": "t"})
    for skip in (False, True):
        error = failure("a.jsonl", "b.jsonl", skip_bad_lines=skip)
        assert error.message.startswith("a.jsonl:2 and b.jsonl:2 have the same id")
    assert len(read("a.jsonl", "b.jsonl", id_field="")) == 4


@pytest.mark.parametrize("own_first", [True, False])
def test_an_own_id_that_is_another_records_place_is_a_duplicate(here, own_first):
    own = {"text": "t", "id": "a.jsonl:2" if own_first else "a.jsonl:1"}
    jsonl(here / "a.jsonl", *([own, {"text": "t"}] if own_first else [{"text": "t"}, own]))
    assert failure("a.jsonl").message.startswith("a.jsonl:1 and a.jsonl:2 have")
    jsonl(here / "a.jsonl", {"text": "t"}, {"text": "t", "id": "a.jsonl:2"}, {"text": "u"})
    assert [r.id for r in read("a.jsonl")] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]


def test_equal_hashes_are_not_duplicates(here, monkeypatch):
    jsonl(here / "a.jsonl", *({"id": str(i), "text": "t"} for i in range(5)))
    monkeypatch.setattr("haiftrace.corpus.records.hash", lambda _: 1, raising=False)
    assert [r.id for r in read("a.jsonl")] == list("01234")
