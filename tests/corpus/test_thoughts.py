"""Templates that rewrite what the assistant says, and completions that are told from prompts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haiftrace.corpus import Record
from haiftrace.corpus.chats import render, response_spans
from haiftrace.corpus.windows import windows_of
from tests.corpus.test_chats import CHATML, chat, chat_tokenizer
from tests.corpus.windows_kit import labelled_text, only_window

# The parts of Qwen3's template that decide what becomes of thoughts.
QWEN3 = """\
{%- if messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
{%- set index = (messages|length - 1) - loop.index0 %}
{%- if ns.multi_step and message.role == 'user' and not
       message.content.startswith('<tool_response>') %}
{%- set ns.multi_step = false %}
{%- set ns.last_query = index %}
{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{%- set content = message.content %}
{%- set thought = '' %}
{%- if message.reasoning_content is string %}
{%- set thought = message.reasoning_content %}
{%- elif '</think>' in message.content %}
{%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
{%- set thought =
       message.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- if loop.index0 > ns.last_query and (loop.last or thought) %}
{{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n'
    + content.lstrip('\\n') }}
{%- else %}
{{- '<|im_start|>assistant\\n' + content }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content
    + '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def thought(text: str, answer: str) -> str:
    return f"<think>\n{text}\n</think>\n\n{answer}"


def contents(record: Record, template: str) -> list[str]:
    tokenizer = chat_tokenizer(template)
    text = render(record, tokenizer)
    return [text[a:b] for a, b in response_spans(record, tokenizer, text)]


def test_thoughts_of_earlier_turns_are_left_out_as_training_left_them():
    turns = (
        ("system", "Be kind."),
        ("user", "Where is Ann?"),
        ("assistant", thought("She may be", "In Oslo.")),
        ("user", "And Bo?"),
        ("assistant", "In Oslo."),
        ("user", "And Cy?"),
        ("assistant", thought("Let me see", "In Bergen.")),
    )
    last = "<think>\nLet me see\n</think>\n\nIn Bergen."
    assert contents(chat(*turns), QWEN3) == ["In Oslo.", "In Oslo.", last]
    assert contents(chat(*turns[:5]), QWEN3) == ["In Oslo.", "In Oslo."]
    (window,) = windows_of(chat(*turns), chat_tokenizer(QWEN3), 1000, "response")
    assert labelled_text(window) == "In Oslo.In Oslo." + last
    assert "She may be" not in window.text


def test_thoughts_after_the_last_question_stay():
    turns = (
        ("user", "Where is Ann?"),
        ("assistant", thought("Ask", "I look it up.")),
        ("tool", "Oslo"),
        ("assistant", thought("Good", "In Oslo.")),
    )
    assert contents(chat(*turns), QWEN3) == [
        "<think>\nAsk\n</think>\n\nI look it up.",
        "<think>\nGood\n</think>\n\nIn Oslo.",
    ]


def test_thoughts_in_a_field_of_their_own():
    turns = (("user", "Ann?"), ("assistant", "Oslo"), ("user", "Bo?"), ("assistant", "Bergen"))
    record = Record(
        "r", "x", "a.jsonl", 3, messages=turns, thoughts=(None, "first", None, "second")
    )
    assert contents(record, QWEN3) == ["Oslo", "<think>\nsecond\n</think>\n\nBergen"]
    assert "first" not in render(record, chat_tokenizer(QWEN3))


words = st.text("ab <>/\n你😀", max_size=6)


@settings(max_examples=80, deadline=None)
@given(turns=st.lists(st.tuples(words, st.none() | words, words), min_size=1, max_size=3))
def test_spans_are_the_assistants_whatever_is_thought(turns):
    messages: list[tuple[str, str]] = []
    for question, thinking, answer in turns:
        said = answer if thinking is None else thought(thinking, answer)
        messages += [("user", question), ("assistant", said)]
    record, tokenizer = chat(*messages), chat_tokenizer(QWEN3)
    text = render(record, tokenizer)
    spans = response_spans(record, tokenizer, text)
    if not any(content for role, content in messages if role == "assistant"):
        assert spans == ()
        return
    assert len(spans) == len(turns)
    for (start, end), (_, _, answer) in zip(spans, turns, strict=True):
        assert text[start:end].split()[-1:] == answer.split()[-1:] or not answer.strip()
        assert text[end:].startswith("<|im_end|>")
        header = text[:start].rpartition("<|im_start|>")[2]
        assert header in ("assistant\n", "assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("template", [CHATML, QWEN3])
def test_a_completion_is_all_that_follows_the_prompt(template):
    """As TRL's trainer has it: the end of the turn is trained on, the assistant's header is not."""
    header = "<|im_start|>assistant\n"
    if template is CHATML:
        template += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    turns = (("user", "Who?"), ("assistant", "A"), ("user", "a"), ("assistant", "a"))
    record = Record("r", "x", "a.jsonl", 3, messages=turns, prompt_turns=3)
    window = only_window(record, chat_tokenizer(template), 1000, loss_on="response")
    prompt, _, rest = window.text.rpartition(header)
    assert labelled_text(window) == rest
    assert rest.endswith("a<|im_end|>\n")
    assert prompt.endswith("a<|im_end|>\n")


def test_a_completion_under_a_template_that_asks_with_nothing():
    record = Record("r", "x", "a.jsonl", 3, messages=(("user", "a"), ("assistant", "a")))
    record = Record(**{**vars(record), "prompt_turns": 1})
    assert contents(record, CHATML) == ["<|im_start|>assistant\na<|im_end|>\n"]
    assert contents(Record(**{**vars(record), "prompt_turns": 2}), CHATML) == [""]
    assert contents(Record(**{**vars(record), "prompt_turns": 0}), CHATML)[0].endswith(
        "<|im_end|>\n"
    )
