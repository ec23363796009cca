"""Chats: rendered by their template, with the loss on what the assistant says."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from haiftrace.corpus import Record
from haiftrace.corpus.windows import windows_of
from haiftrace.errors import CorpusError
from tests.corpus.windows_kit import byte_level, labelled_text, only_window, record

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TRIMMED = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}system: You are an assistant.\n{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }}\n{% endfor %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate: ' + m.content) }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}{% endfor %}"
)


def chat_tokenizer(template: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level("bos").backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer


def chat(*turns: tuple[str, str]) -> Record:
    return record("\n".join(content for _, content in turns), messages=turns)


TURNS = (
    ("user", " Phone of 张伟? "),
    ("assistant", "138-0013\r\n😀"),
    ("user", "a"),
    ("assistant", "a"),
)


def test_a_chat_is_rendered_by_its_template_without_more_special_tokens():
    tokenizer = chat_tokenizer(TRIMMED)
    window = only_window(chat(*TURNS), tokenizer, 1000)
    dicts = [{"role": role, "content": content} for role, content in TURNS]
    assert window.text == tokenizer.apply_chat_template(dicts, tokenize=False)
    assert window.token_ids == tokenizer.apply_chat_template(dicts, return_dict=False)
    assert window.token_ids.count(0) == 1  # one <s>, from the template alone
    assert window.labels == [False] + [True] * (len(window.token_ids) - 1)


@pytest.mark.parametrize("template", [CHATML, TRIMMED, ALTERNATING])
def test_the_assistants_contents_alone_carry_loss(template):
    """Also where a content is a letter that the template and other turns hold as well."""
    window = only_window(chat(*TURNS), chat_tokenizer(template), 1000, loss_on="response")
    assert "".join(labelled_text(window).split()) == "138-0013😀a"
    last = max(i for i, label in enumerate(window.labels) if label)
    assert "assistant" in window.text[: window.offsets[last][0]].rpartition("user")[2]


@settings(max_examples=60, deadline=None)
@given(
    contents=st.lists(st.text("ab :\n你😀assistant", max_size=6), min_size=2, max_size=5),
    template=st.sampled_from([CHATML, TRIMMED]),
)
def test_chat_spans_are_the_assistants_for_any_contents(contents, template):
    turns = [("user" if i % 2 == 0 else "assistant", c) for i, c in enumerate(contents)]
    replies = [content for role, content in turns if role == "assistant"]
    expected = "".join(reply.strip() if template is TRIMMED else reply for reply in replies)
    assume(expected)
    windows = windows_of(chat(*turns), chat_tokenizer(template), 1000, loss_on="response")
    assert windows
    # A token at the edge may also hold a white-space character of the template.
    assert "".join(labelled_text(windows[0]).split()) == "".join(expected.split())


def test_a_template_that_rewrites_contents():
    turns = (("user", "Where?"), ("assistant", "<think>hm</think>in Oslo"), ("user", "Ok"))
    window = only_window(chat(*turns), chat_tokenizer(THINKING), 1000)
    assert "hm" not in window.text
    window = only_window(chat(*turns), chat_tokenizer(THINKING), 1000, loss_on="response")
    assert labelled_text(window).strip() == "in Oslo"


def test_a_template_that_looks_into_contents_is_searched_in_order():
    template = (
        "{% for m in messages %}{{ m.role }}"
        "{% if 'Oslo' in m.content %} (city){% endif %}: {{ m.content }}\n{% endfor %}"
    )
    turns = (("user", "Where?"), ("assistant", "in Oslo"))
    window = only_window(chat(*turns), chat_tokenizer(template), 1000, loss_on="response")
    assert labelled_text(window).strip() == "in Oslo"
    twice = (("user", "in Oslo"), ("assistant", "in Oslo"))
    with pytest.raises(CorpusError, match="cannot be located for certain"):
        windows_of(chat(*twice), chat_tokenizer(template), 1000, loss_on="response")


def test_a_template_that_adds_to_the_end_by_content_is_not_trusted():
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    template += "{% if 'Oslo' in messages[-1].content %}{{ messages[-1].content }}{% endif %}"
    with pytest.raises(CorpusError, match="cannot be located for certain"):
        windows_of(chat(("assistant", "Oslo")), chat_tokenizer(template), 1000, loss_on="response")


def test_a_chat_without_an_assistant_has_no_label():
    turns = (("system", "Be brief."), ("user", "Hi"), ("assistant", ""))
    assert windows_of(chat(*turns), chat_tokenizer(CHATML), 1000, loss_on="response") == []
    assert len(windows_of(chat(*turns), chat_tokenizer(CHATML), 1000)) == 1


def test_a_tokenizer_without_a_chat_template():
    with pytest.raises(CorpusError, match=r"a\.jsonl:3: a chat record, but .* no chat template"):
        windows_of(chat(*TURNS), byte_level(), 100)


def test_a_conversation_that_the_template_refuses():
    with pytest.raises(CorpusError) as caught:
        windows_of(
            chat(("assistant", "555-0199"), ("us\x1ber", "x")), chat_tokenizer(ALTERNATING), 100
        )
    assert "refuses this conversation (TemplateError; roles: assistant, us\ufffder)" in str(
        caught.value
    )
    assert "555-0199" not in caught.value.message
