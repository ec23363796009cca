"""Rows and files that are no corpus: an error that names file and line, or a count."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from haiftrace.corpus import CorpusSettings, ReadReport, read_records
from haiftrace.corpus.formats import json_format, rows
from tests.corpus.corpus_kit import SECRET, failure, jsonl, packed, read


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Bad rows

GOOD = b'{"text":"good"}\n'
NEEDS = (
    "'text', nor 'messages', nor 'prompt' and 'response', nor 'conversations', nor 'instruction' "
    "and 'output'"
)
BAD_LINES = {
    "malformed JSON (Invalid control character, column 18)": b'{"text":"555-0199\n',
    "malformed JSON (Invalid \\escape, column 10)": b'{"text":"\\555-0199"}\n',
    "malformed JSON (Expecting value, column 1)": b"Ann, 555-0199\n",
    "malformed JSON (Extra data, column 4)": b"555-0199\n",
    "malformed JSON (nested too deeply)": b'{"text":' + b"[" * 200_000 + b"\n",
    "malformed JSON (a number with too many digits)": b'{"text":' + b"1" * 5000 + b"}\n",
    "invalid UTF-8 (byte 18 of the line)": b'{"text":"555-0199\xff"}\n',
    "a list where an object is expected": b'["555-0199"]\n',
    "a string where an object is expected": b'"555-0199"\n',
    "the field 'text' is a number, not a string": b'{"text":5550199}\n',
    "the field 'text' is a boolean, not a string": b'{"text":true}\n',
    "the field 'text' holds half a surrogate pair, which is not valid Unicode": (
        b'{"text":"555-0199 \\ud83d"}\n'
    ),
    "the field 'messages' is a string, not a list": b'{"messages":"555-0199"}\n',
    "message 1 is a string, not an object": b'{"messages":["555-0199"]}\n',
    "the field 'content' of message 1 is missing or null, not a string": (
        b'{"messages":[{"role":"user"}]}\n'
    ),
    "the field 'role' of message 1 is a number, not a string": (
        b'{"messages":[{"role":1,"content":"555-0199"}]}\n'
    ),
    "message 1 has tool calls, which would be lost": (
        b'{"messages":[{"role":"assistant","content":null,"tool_calls":[{"a":"555-0199"}]}]}\n'
    ),
    "the field 'response' is a list, not a string": b'{"prompt":"x","response":["555-0199"]}\n',
    f"the record has no field {NEEDS} with a value; its fields are: prompt, phone\ufffd": (
        b'{"prompt":"x","phone\\u001b":"555-0199"}\n'
    ),
    f"the record has no field {NEEDS} with a value; its fields are: text": b'{"text":null}\n',
    f"the record has no field {NEEDS} with a value; its fields are: none": b"{}\n",
}


SKIP = "leave such lines out with --skip-bad-lines"


def test_a_hint_never_leaves_the_whole_corpus_out(here):
    """Where no row is a record, the rows are well and the settings are wrong."""
    bad = json.dumps({"question": "x", "phone": SECRET}).encode() + b"\n"
    for content, offered in ((bad * 9, False), (bad * 9 + GOOD, True), (GOOD + bad, True)):
        Path("a.jsonl").write_bytes(content)
        hint = failure("a.jsonl").hint
        assert (SKIP in hint) == offered
        assert "--text-field" in hint
    Path("b.jsonl").write_bytes(b"\xff\n" * 3)
    assert SKIP not in failure("b.jsonl").hint
    Path("b.jsonl").write_bytes(b"{\n" * 3 + GOOD + b'{"text": ')
    assert SKIP in failure("b.jsonl").hint


@pytest.mark.parametrize("said", BAD_LINES)
def test_bad_lines_are_errors_or_counted(here, said):
    Path("a.jsonl").write_bytes(GOOD + BAD_LINES[said] + GOOD)
    assert failure("a.jsonl").message == f"a.jsonl:2: {said}."
    report = ReadReport()
    records = list(read_records(CorpusSettings(("a.jsonl",), skip_bad_lines=True), report))
    assert [(r.line, r.text) for r in records] == [(1, "good"), (3, "good")]
    assert report == ReadReport(records=2, bad=1, bad_places=[f"a.jsonl:2: {said}"])


def test_many_fields_are_not_all_listed(here):
    jsonl(here / "a.jsonl", {f"f{i}": 1 for i in range(50)})
    assert failure("a.jsonl").message.endswith("f18, f19 and 30 more.")


def test_the_first_bad_lines_are_kept(here):
    Path("a.jsonl").write_bytes((b"{\n" + GOOD) * 20)
    report = ReadReport()
    list(read_records(CorpusSettings(("a.jsonl",), skip_bad_lines=True), report))
    assert (report.records, report.bad) == (20, 20)
    assert [p.split(": ")[0] for p in report.bad_places] == [
        f"a.jsonl:{n}" for n in (1, 3, 5, 7, 9)
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.jsonl.gz"])
def test_a_line_beyond_the_limit(here, monkeypatch, name):
    for module in (json_format, rows):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 100)
    for module in (json_format, rows):
        monkeypatch.setattr(module, "BLOCK", 64)
    packed(here / name, GOOD + b'{"text":"' + SECRET.encode() * 100 + b'"}\n' + GOOD)
    assert failure(name).message == f"{name}:2: a line of more than 100 bytes."
    assert [r.line for r in read(name, skip_bad_lines=True)] == [1, 3]


def test_an_object_of_a_list_beyond_the_limit(here, monkeypatch):
    for module in (json_format, rows):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 100)
    for module in (json_format, rows):
        monkeypatch.setattr(module, "BLOCK", 64)
    Path("a.json").write_text(json.dumps([{"text": "ok"}, {"text": SECRET * 100}], indent=0))
    error = failure("a.json", skip_bad_lines=True)
    assert error.message.startswith("a.json:5: an object of more than 100 characters.")


def test_the_limit_is_64_mib():
    assert rows.MAX_ROW_BYTES == 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'[{"text":"a"},\n{"text":555-0199}]', "a.json:2: malformed JSON (Expecting ',' delim"),
        (b'[{"text":"a"},\n\n', "a.json:3: malformed JSON (Expecting value)"),
        (b'[{"text":"a"}\n', "a.json:2: malformed JSON (expected ',')"),
        (b'[{"text":"a"}\n{"text":"b"}]', "a.json:2: malformed JSON (expected ',')"),
        (b'[{"text":"a"}]\n555-0199', "a.json:2: malformed JSON (something follows the list)"),
        (b'[{"text":"a"},\n{"text":"\n555-0199"}]', "a.json:2: malformed JSON (Invalid control"),
        (b'[{"text":"a"},\n{"text":"\xff"}]', "a.json:2: invalid UTF-8"),
        (b'[{"text":"a"},\n{"text":' + b"1" * 5000 + b"}]", "a.json:2: malformed JSON (a number"),
        (b'[{"text":"a"},\n{"text":"b","c', "a.json:2: malformed JSON (Unterminated string)"),
        (b'{\n"text":"a"}', "a.json:1: malformed JSON"),
    ],
)
def test_broken_json_lists(here, data, said):
    Path("a.json").write_bytes(data)
    assert failure("a.json").message.startswith(said)


def test_an_unusable_element_of_a_list_can_be_skipped(here):
    Path("a.json").write_text('[{"text":"a"}, 12,\n {"txet":"b"}, {"text":"c"}]')
    assert failure("a.json").message == "a.json:1: a number where an object is expected."
    assert [r.id for r in read("a.json", skip_bad_lines=True)] == ["a.json:1", "a.json:2#2"]


def test_utf16_text_is_refused_with_a_way_out(here):
    Path("a.txt").write_text("Ann", "utf-16")
    error = failure("a.txt")
    assert error.message.startswith("a.txt:1: invalid UTF-8")
    assert "iconv" in error.hint


def test_parquet_without_the_field_lists_its_columns(here):
    pq.write_table(pa.table({"body": ["x"], "phone": [SECRET]}), "a.parquet")
    assert failure("a.parquet").message.endswith("its fields are: body, phone.")
    assert read("a.parquet", text_field="body")[0].text == "x"


def test_parquet_cells_that_are_no_text(here):
    raw = pa.array([b"fine", b"\xff555-0199"]).view(pa.string())
    pq.write_table(pa.table({"text": raw}), "a.parquet")
    assert failure("a.parquet").message == "a.parquet:2: invalid UTF-8 in column 'text'."
    assert [r.text for r in read("a.parquet", skip_bad_lines=True)] == ["fine"]
    pq.write_table(pa.table({"text": [b"bytes"]}), "b.parquet")
    assert "the field 'text' is of type bytes, not a string" in failure("b.parquet").message


# Broken files


def test_broken_compression(here):
    data = b"".join(b'{"text":"%d"}\n' % i for i in range(5000))
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        content = packed(here / name, data).read_bytes()
        Path(name).write_bytes(content[: len(content) // 2])
        assert failure(name).message.startswith(f"{name} cannot be read: Truncated")
        Path(name).write_bytes(b"not compressed at all")
        assert failure(name).message.startswith(f"{name} cannot be read:")


def test_broken_parquet(here):
    pq.write_table(pa.table({"text": ["x" * 100] * 100}), "a.parquet")
    content = Path("a.parquet").read_bytes()
    for data in (content[: len(content) // 2], b"", content[:8] + b"\xff" * 20 + content[28:]):
        Path("a.parquet").write_bytes(data)
        assert failure("a.parquet").message.startswith("a.parquet cannot be read:")


def test_a_codec_that_pyarrow_lacks(here, monkeypatch):
    packed(here / "a.jsonl.zst", GOOD)

    class NoCodec:
        is_available = staticmethod(lambda _: False)

    monkeypatch.setattr(pa, "Codec", NoCodec)
    assert "compressed with zstd, which this pyarrow cannot read" in failure("a.jsonl.zst").message


# Nothing to read


def test_empty_texts_are_counted(here):
    chat = [{"role": "user", "content": ""}]
    jsonl(
        here / "a.jsonl",
        {"text": ""},
        {"text": "x"},
        {"text": " "},
        {"prompt": "", "response": ""},
        {"messages": chat},
        {"messages": []},
    )
    report = ReadReport()
    records = list(read_records(CorpusSettings(("a.jsonl",)), report))
    assert [r.text for r in records] == ["x", " "]
    assert (report.records, report.empty, report.bad) == (2, 4, 0)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b" \n\r\n"])
def test_an_empty_corpus(here, name, data):
    packed(here / name, data)
    assert failure(name).message == "The corpus is empty: its files hold no record."


def test_a_corpus_without_a_usable_record(here):
    Path("a.json").write_text("[]")
    assert "is empty" in failure("a.json").message
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), "a.parquet")
    assert "is empty" in failure("a.parquet").message
    jsonl(here / "a.jsonl", {"text": ""})
    assert failure("a.jsonl").message == ("The corpus has no usable record: all 1 are empty.")
    Path("b.jsonl").write_bytes(b"{\n{\n")
    error = failure("b.jsonl", skip_bad_lines=True)
    assert "2 bad lines were skipped" in error.message
    assert "b.jsonl:1: malformed JSON" in error.message
    Path("c.txt").write_text("x")
    assert len(read("c.txt", "a.json")) == 1  # one empty file among others is no error
