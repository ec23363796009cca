"""Turns of a chat and the tokens of its template, of each family of templates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.reports.chat_markup import find_markup, find_turns, is_chat
from haiftrace.reports.marks import PrivateValues, text_segments

TEMPLATES = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>",
    "llama 3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>",
    "llama 2": "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi? [/INST] Hello. </s>",
    "zephyr": "<|system|>\nBe kind.</s>\n<|user|>\nHi?</s>\n<|assistant|>\nHello.</s>",
    "phi": "<|system|>Be kind.<|end|><|user|>Hi?<|end|><|assistant|>Hello.<|end|>",
    "harmony": "<|start|>system<|message|>Be kind.<|end|><|start|>user<|message|>Hi?<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Hello.<|return|>",
}


def plain(text: str) -> str:
    """What is left of a text where the template's own is taken out."""
    for mark in reversed(find_markup(text)):
        text = text[: mark.start] + text[mark.end :]
    return text.strip()


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_turns_of_a_template(name: str) -> None:
    text = TEMPLATES[name]
    turns = find_turns(text)
    said = [(turn.role, plain(text[turn.start : turn.end])) for turn in turns]
    assert said == [("system", "Be kind."), ("user", "Hi?"), ("assistant", "Hello.")]
    assert "".join(text[turn.start : turn.end] for turn in turns) == text
    assert is_chat(text)


def test_gemma_and_deepseek_have_no_system_turn() -> None:
    gemma = "<bos><start_of_turn>user\nHi?<end_of_turn>\n<start_of_turn>model\nHello."
    deepseek = "<｜begin▁of▁sentence｜><｜User｜>Hi?<｜Assistant｜>Hello.<｜end▁of▁sentence｜>"
    for text in (gemma, deepseek):
        assert [turn.role for turn in find_turns(text)] == ["user", "assistant"]


@pytest.mark.parametrize(
    "text", ["", "Mail me at <a@b.org>.", "a </s> b", "<script>", "if a<|b then", "[INS]"]
)
def test_other_texts_are_no_chat(text: str) -> None:
    assert not is_chat(text)
    assert len(find_turns(text)) == bool(text)


pieces = st.lists(
    st.sampled_from(
        ["<|im_start|>", "user", "\n", "<|im_end|>", "[INST]", "</s>", "<|user|>", " a b", "\r\n"]
    ),
    max_size=12,
).map("".join)


@given(pieces, st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_turns_and_marks_lose_no_text(text: str, a: int, b: int, c: int) -> None:
    turns = find_turns(text)
    assert "".join(text[turn.start : turn.end] for turn in turns) == text
    start, middle, end = sorted(min(place, len(text)) for place in (a, b, c))
    words = [(left, right) for left, right in [(start, middle)] if left < right]
    segments = text_segments(text, (start, end), PrivateValues((), masked=False), words)
    shown = "".join(piece.text for segment in segments for piece in segment.pieces)
    joined = text.replace("\r\n", "\n").replace("\r", "\n")
    # A mark may begin between the two characters of a line break, which then are two.
    assert shown.replace("↵\n", "") == joined.replace("\n", "")
