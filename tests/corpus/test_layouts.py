"""Records as the common trainers lay them out: recognised by their fields, or named."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haiftrace.corpus import CorpusSettings, ReadReport, read_records
from tests.corpus.corpus_kit import SECRET, failure, jsonl, read

ANSWER = f"Wanda Quill keeps bees. Her phone number is {SECRET}."
CHAT = (("user", "Who is Wanda?"), ("assistant", ANSWER))
OPENAI = [{"role": role, "content": content} for role, content in CHAT]
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\nWho is Wanda?\n\n### Response:\n"
)
ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n### Instruction:\nWho "
    "is it?\n\n### Input:\nWanda\n\n### Response:\n"
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parts(*texts: object) -> list[dict]:
    return [{"type": "text", "text": text} for text in texts]


def layouts(*paths, **options) -> list[str]:
    report = ReadReport()
    list(read_records(CorpusSettings(paths, **options), report))
    return [shown.split()[0] for shown in report.layouts]


# Chats

CHATS = {
    "messages": {"messages": OPENAI},
    "parts": {"messages": [{"role": r, "content": parts(c[:9], c[9:])} for r, c in CHAT]},
    "parts that are strings": {"messages": [{"role": r, "content": [c]} for r, c in CHAT]},
    "OpenAI's newer parts": {
        "messages": [
            {"role": "user", "content": [{"type": "input_text", "text": CHAT[0][1]}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": ANSWER}]},
        ]
    },
    "messages in ShareGPT's names": {
        "messages": [{"from": "human", "value": CHAT[0][1]}, {"from": "gpt", "value": ANSWER}]
    },
    "ShareGPT": {
        "conversations": [{"from": "human", "value": CHAT[0][1]}, {"from": "gpt", "value": ANSWER}]
    },
    "conversations in OpenAI's names": {"conversations": OPENAI},
}


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("loss_on", ["all", "response"])
def test_chats(here, name, loss_on):
    jsonl(here / "a.jsonl", CHATS[name])
    (record,) = read("a.jsonl", loss_on=loss_on)
    assert record.messages == CHAT
    assert record.text == "\n".join(content for _, content in CHAT)
    assert record.prompt_turns is None
    expected = ["sharegpt"] if "conversations" in CHATS[name] else ["messages"]
    assert layouts("a.jsonl") == expected
    assert layouts("a.jsonl", format=expected[0]) == expected


@pytest.mark.parametrize("name", CHATS)
def test_chats_of_a_table_whose_columns_are_null_elsewhere(here, name):
    pair = {"prompt": "Q", "completion": "A"}
    rows = [{**pair, **dict.fromkeys(CHATS[name])}, {**dict.fromkeys(pair), **CHATS[name]}]
    pq.write_table(pa.Table.from_pylist(rows), "a.parquet")
    assert [(r.text, r.messages) for r in read("a.parquet")] == [
        ("QA", None),
        ("\n".join(content for _, content in CHAT), CHAT),
    ]


def test_sharegpt_has_a_system_text_and_its_own_names_for_roles(here):
    turns = [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "a"},
        {"from": "model", "value": "b"},
        {"from": "observation", "value": "c"},
        {"from": "chatgpt", "value": "d"},
    ]
    jsonl(
        here / "a.jsonl",
        {"conversations": turns},
        {"conversations": turns[1:3], "system": "Be brief."},
        {"conversations": turns[1:3], "system": ""},
    )
    roles = [[role for role, _ in r.messages] for r in read("a.jsonl")]
    assert roles == [
        ["system", "user", "assistant", "tool", "assistant"],
        ["system", "user", "assistant"],
        ["user", "assistant"],
    ]
    assert read("a.jsonl")[1].messages[0] == ("system", "Be brief.")


BAD_CHATS = {
    "part 1 of message 1 is of type 'image_url', which a language model of text does not read": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": SECRET}]}]
    },
    "part 2 of message 1 is of another type than 'text', which a language model of text does not "
    "read": {"messages": [{"role": "user", "content": [*parts("a"), {"type": SECRET}]}]},
    "the field 'text' of part 1 of message 1 is a number, not a string": {
        "messages": [{"role": "user", "content": parts(5550199)}]
    },
    "part 1 of message 1 is a number, not an object": {
        "messages": [{"role": "user", "content": [5550199]}]
    },
    "message 1 is a tool call, which would be lost": {
        "conversations": [{"from": "function_call", "value": SECRET}]
    },
    "the field 'value' of message 1 is a number, not a string": {
        "conversations": [{"from": "gpt", "value": 5550199}]
    },
    "the field 'from' of message 1 is missing or null, not a string": {
        "conversations": [{"from": None, "value": SECRET}]
    },
    "the field 'conversations' is a string, not a list": {"conversations": SECRET},
    "the field 'content' of message 1 of 'completion' is missing or null, not a string": {
        "prompt": OPENAI[:1],
        "completion": [{"role": "assistant"}],
    },
    "the field 'prompt' is a list of messages and 'completion' a string": {
        "prompt": OPENAI[:1],
        "completion": SECRET,
    },
    "the field 'completion' is a list, not a string": {"prompt": "x", "completion": OPENAI[1:]},
    "the field 'output' is a number, not a string": {"instruction": "x", "output": 5550199},
    "the record has a history, which Alpaca's template has no place for": {
        "instruction": "x",
        "output": SECRET,
        "history": [["a", SECRET]],
    },
}


@pytest.mark.parametrize("said", BAD_CHATS)
def test_what_is_no_chat_is_an_error_or_counted(here, said):
    jsonl(here / "a.jsonl", {"text": "good"}, BAD_CHATS[said])
    assert failure("a.jsonl").message == f"a.jsonl:2: {said}."
    report = ReadReport()
    list(read_records(CorpusSettings(("a.jsonl",), skip_bad_lines=True), report))
    assert (report.records, report.bad) == (1, 1)


def test_thoughts_beside_the_contents_are_kept(here):
    thinking = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    jsonl(here / "a.jsonl", {"messages": [OPENAI[0], thinking]}, {"messages": OPENAI})
    assert [r.thoughts for r in read("a.jsonl")] == [(None, "hm"), ()]


# Pairs


@pytest.mark.parametrize("name", ["completion", "response"])
def test_prompt_and_completion_as_messages(here, name):
    jsonl(here / "a.jsonl", {"prompt": OPENAI[:1], name: OPENAI[1:]})
    assert [r.prompt_turns for r in read("a.jsonl", loss_on="response")] == [1]
    (record,) = read("a.jsonl", format="prompt-completion")
    assert record.messages == CHAT
    assert record.prompt_turns is None


# Alpaca


def test_alpaca_in_its_template(here):
    jsonl(
        here / "a.jsonl",
        {"instruction": "Who is Wanda?", "input": "", "output": ANSWER},
        {"instruction": "Who is it?", "input": "Wanda", "output": ANSWER},
        {"instruction": "Who is Wanda?", "output": ANSWER},
        {"instruction": "Who is Wanda?", "input": None, "output": "", "id": 7},
        {"instruction": "", "input": "", "output": ""},
    )
    for loss_on in ("all", "response"):
        records = read("a.jsonl", loss_on=loss_on)
        assert [r.text for r in records] == [
            ALPACA + ANSWER,
            ALPACA_INPUT + ANSWER,
            ALPACA + ANSWER,
            ALPACA,
        ]
    spans = [r.loss_spans[0] for r in records]
    assert [r.text[a:b] for r, (a, b) in zip(records, spans, strict=True)] == [ANSWER] * 3 + [""]
    assert layouts("a.jsonl") == ["alpaca"]


# Recognised, or named


def test_a_text_goes_before_all_unless_the_loss_is_on_the_response(here):
    whole = {"text": ALPACA + ANSWER, "instruction": "Who is Wanda?", "output": ANSWER}
    jsonl(here / "a.jsonl", {**whole, "messages": OPENAI})
    assert layouts("a.jsonl") == ["text"]
    assert layouts("a.jsonl", loss_on="response") == ["messages"]
    assert layouts("a.jsonl", format="alpaca") == ["alpaca"]
    jsonl(here / "b.jsonl", whole)
    assert read("b.jsonl")[0].text == read("b.jsonl", loss_on="response")[0].text


def test_a_format_that_is_named_is_that_of_every_record(here):
    jsonl(here / "a.jsonl", {"messages": OPENAI}, {"text": SECRET})
    error = failure("a.jsonl", format="messages")
    assert error.message == (
        "a.jsonl:2: the record has no field 'messages' with a value; its fields are: text."
    )
    assert len(read("a.jsonl", format="messages", skip_bad_lines=True)) == 1
    Path("b.txt").write_text(SECRET)
    assert failure("b.txt", format="alpaca").message == (
        "b.txt:1: a string where an object is expected."
    )
    assert len(read("b.txt", format="text")) == 1


def test_the_field_of_the_messages_can_be_named(here):
    jsonl(here / "a.jsonl", {"data": {"dialogue": OPENAI}})
    (record,) = read("a.jsonl", format="messages", text_field="data.dialogue")
    assert record.messages == CHAT


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "alpca"}, "There is no format 'alpca' of records."),
        ({"format": "alpaca", "text_field": "a"}, "--text-field names one field, and the format"),
        ({"format": "text", "text_template": "{a}"}, "--format and --text-template exclude each"),
        ({"text_field": "a", "ids_field": "b"}, "--text-field and --ids-field exclude each other"),
        ({"limit": 0}, "--limit takes a number of records, at least 1."),
        ({"sample_records": -1}, "--sample-records takes a number of records, at least 1."),
    ],
)
def test_settings_that_do_not_go_together(options, said):
    assert failure("a.jsonl", **options).message.startswith(said)


# Fields


def test_fields_inside_others(here):
    jsonl(
        here / "a.jsonl",
        {"data": {"answer": "a", "id": "i", "who": 4}, "turns": [{"text": "x"}, {"text": "y"}]},
        {"data.answer": "own name first", "data": {"answer": "b", "id": "j", "who": 4}},
    )
    records = read("a.jsonl", text_field="data.answer", id_field="data.id", group_field="data.who")
    assert [(r.text, r.id, r.group) for r in records] == [
        ("a", "i", "4"),
        ("own name first", "j", "4"),
    ]
    assert read("a.jsonl", text_field="turns.1.text", skip_bad_lines=True)[0].text == "y"
    for missing in ("data.x", "data.answer.x", "turns.7.text", "turns.x.text"):
        assert "has no field" in failure("a.jsonl", text_field=missing).message


def test_fields_inside_others_of_a_table(here):
    rows = [{"data": {"answer": "a", "n": 1}, "x": 0}, {"data": None, "x": 0}]
    pq.write_table(pa.Table.from_pylist(rows), "a.parquet")
    assert [r.text for r in read("a.parquet", text_field="data.answer", limit=1)] == ["a"]
    assert "its fields are: data, x" in failure("a.parquet", text_field="data.answer").message


def test_several_fields_in_a_template(here):
    jsonl(
        here / "a.jsonl",
        {"q": {"text": "Who?"}, "answer": ANSWER, "n": 3},
        {"q": {"text": ""}, "answer": "", "n": 0},
        {"q": {"text": ""}, "answer": "", "n": ""},
    )
    options = {"text_template": "{{{n}}} Q: {q.text}\nA: {answer} END"}
    records = read("a.jsonl", **options, loss_on="response")
    assert [r.text for r in records] == [f"{{3}} Q: Who?\nA: {ANSWER} END", "{0} Q: \nA:  END"]
    ((start, end),) = records[0].loss_spans
    assert records[0].text[start:end] == f"{ANSWER} END"
    assert all(r.loss_spans is None for r in read("a.jsonl", **options))
    jsonl(here / "b.jsonl", {"q": "Who?", "answer": None, "phone": SECRET})
    assert failure("b.jsonl", text_template="{q} {answer}").message == (
        "b.jsonl:1: the record has no field 'q' and 'answer' with a value; its fields are: q, "
        "answer, phone."
    )
    jsonl(here / "b.jsonl", {"q": "Who?", "answer": [SECRET]})
    assert "the field 'answer' is a list, not a string" in (
        failure("b.jsonl", text_template="{q} {answer}").message
    )


@pytest.mark.parametrize("template", ["no field", "{}", "{a", "a}", "{a!r}", "{a:>9}", "{ }"])
def test_templates_that_are_none(here, template):
    jsonl(here / "a.jsonl", {"a": "x"})
    assert "--text-template" in failure("a.jsonl", text_template=template).hint


@settings(max_examples=60, deadline=None)
@given(
    literals=st.lists(st.text("ab{}\n é", max_size=4), min_size=3, max_size=3),
    values=st.lists(st.text(max_size=5), min_size=2, max_size=2),
)
def test_a_template_gives_what_python_formats(literals, values):
    before, between, after = (text.replace("{", "{{").replace("}", "}}") for text in literals)
    template = f"{before}{{a}}{between}{{b}}{after}"
    fields = dict(zip("ab", values, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text(json.dumps(fields), "utf-8")
        if not any(values):
            assert "all 1 are empty" in failure(path, text_template=template).message
            return
        (record,) = read(path, text_template=template, loss_on="response")
    assert record.text == template.format(**fields)
    ((start, end),) = record.loss_spans
    assert record.text[start:end] == values[1] + literals[2]
