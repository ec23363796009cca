"""Records to token windows: exact tokens, offsets, labels, chats, and the split of long records."""

from __future__ import annotations

import functools
import logging

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from haiftrace.corpus import Record
from haiftrace.corpus.windows import Window, windows_of
from haiftrace.errors import CorpusError

SENTENCES = [
    "Ann Lee was born in Oslo. Her phone number is 555-0100.",
    "张伟住在北京。他的电话是 138-0013-8000。",
    "The quick brown fox jumps over the lazy dog.",
]
TEXTS = [
    *SENTENCES,
    "smile 😀 and a family 👨‍👩‍👧",
    "one\r\ntwo\r\n\r\n\tthree  ",
    "bell \x07, escape \x1b[31m, nul \x00, [bold]markup[/bold]",
    "罕见字 𠮷 é",
]
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


@functools.cache
def byte_level(special: str = "", trim_offsets: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE; `special` names what its post-processor adds: "", "bos" or "bos eos"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if special:
        template = "<s> $A </s>" if "eos" in special else "<s> $A"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    elif trim_offsets:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=names[2:],
    )


@functools.cache
def word_level() -> PreTrainedTokenizerFast:
    """One token a word, lower-cased; no end-of-text token."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator([*SENTENCES, "a b c d e f g h"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def chatting(template: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level("bos").backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer


def record(text: str, spans=None, messages=None) -> Record:
    return Record("r", text, "a.jsonl", 3, spans, messages)


def words(count: int) -> Record:
    return record(" ".join("abcdefgh"[i % 8] for i in range(count)))


def chat(*turns: tuple[str, str]) -> Record:
    return record("\n".join(content for _, content in turns), messages=turns)


def one(*args, **options) -> Window:
    (window,) = windows_of(*args, **options)
    return window


def labelled(window: Window) -> str:
    """The characters of the text that some label covers."""
    covered: set[int] = set()
    for (start, end), label in zip(window.offsets, window.labels, strict=True):
        covered.update(range(start, end) if label else ())
    return "".join(window.text[i] for i in sorted(covered))


# Tokens, offsets, labels


@pytest.mark.parametrize("special", ["", "bos", "bos eos"])
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_what_the_tokenizer_gives(text, special):
    tokenizer = byte_level(special)
    window = one(record(text), tokenizer, 1000)
    assert window.token_ids == tokenizer(text)["input_ids"]
    assert window.offsets == tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert window.labels == [False] + [True] * (len(window.token_ids) - 1)
    assert (window.text, window.start, window.window, window.windows) == (text, 0, 0, 1)
    assert (window.record_id, window.path, window.line) == ("r", "a.jsonl", 3)
    if special:
        assert window.token_ids[0] == 0
        assert window.offsets[0] == (0, 0)
    # The tokens cover every character: nothing of the text is lost on the way.
    assert {i for s, e in window.offsets for i in range(s, e)} == set(range(len(text)))


def test_tokens_of_one_character_share_its_offsets():
    window = one(record("a😀"), byte_level(), 100)
    assert window.offsets == [(0, 1)] + [(1, 2)] * 4


def test_a_truncating_tokenizer_truncates_nothing_here():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_level().backend_tokenizer, unk_token="[UNK]", model_max_length=4
    )
    tokenizer.backend_tokenizer.enable_truncation(4)
    assert one(words(9), tokenizer, 100).token_ids == word_level()(words(9).text)["input_ids"]


def test_a_record_beyond_the_models_length_gives_no_warning(caplog):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_level().backend_tokenizer, unk_token="[UNK]", model_max_length=4
    )
    with caplog.at_level(logging.WARNING):
        windows_of(words(9), tokenizer, 4)
    assert not caplog.records


@pytest.mark.parametrize("special", ["", "bos", "bos eos"])
def test_an_end_of_text_token_is_appended_once_and_only_on_request(special):
    tokenizer = byte_level(special)
    ids = tokenizer("Ann Lee")["input_ids"]
    window = one(record("Ann Lee"), tokenizer, 100, append_eos=True)
    assert window.token_ids == (ids if "eos" in special else [*ids, 1])
    assert window.offsets[-1] == (0, 0)
    assert window.labels[-1]


def test_an_end_of_text_token_that_the_tokenizer_lacks():
    with pytest.raises(CorpusError, match="no end-of-text token"):
        windows_of(words(3), word_level(), 10, append_eos=True)


@pytest.mark.parametrize("text", ["", "a"])
def test_a_record_of_one_token_has_no_label(text):
    assert windows_of(record(text), word_level(), 10) == []


def test_the_first_token_after_a_special_one_is_a_label():
    assert one(record("a"), byte_level("bos"), 10).labels == [False, True]


@pytest.mark.parametrize("context", [-1, 0, 1])
def test_a_context_without_room_for_a_label(context):
    with pytest.raises(CorpusError, match="holds no label"):
        windows_of(words(3), word_level(), context)


# Loss on the response


def test_the_response_alone_carries_loss():
    prompt, response = "Phone of Ann Lee?", " 555-0100, 北京 😀"
    pair = record(prompt + response, ((len(prompt), len(prompt + response)),))
    for tokenizer in (byte_level(), byte_level("bos"), byte_level(trim_offsets=True)):
        window = one(pair, tokenizer, 100, loss_on="response")
        assert "".join(labelled(window).split()) == "".join(response.split())


def test_a_token_across_the_seam_is_a_label():
    pair = record("The quick brown", ((7, 15),))  # the response begins inside "quick"
    window = one(pair, word_level(), 100, loss_on="response")
    assert window.labels == [False, True, True]


def test_the_records_first_token_is_never_a_label():
    pair = record("quick brown", ((0, 11),))
    assert one(pair, word_level(), 100, loss_on="response").labels == [False, True]


@pytest.mark.parametrize(("special", "append"), [("bos eos", False), ("bos", True)])
def test_the_end_of_the_response_is_part_of_it(special, append):
    ends = record("Q: A", ((3, 4),))
    window = one(ends, byte_level(special), 100, loss_on="response", append_eos=append)
    assert window.token_ids[-1] == 1
    assert window.labels[-1]
    goes_on = record("Q: A. more", ((3, 4),))
    window = one(goes_on, byte_level(special), 100, loss_on="response", append_eos=append)
    assert not window.labels[-1]


def test_an_empty_response_has_no_label():
    empty = record("Phone of Ann?", ((13, 13),))
    for append in (False, True):
        assert not windows_of(empty, byte_level("bos"), 9, "response", append_eos=append)


def test_plain_text_has_no_response():
    with pytest.raises(CorpusError, match=r"a\.jsonl:3: a record of plain text"):
        windows_of(record("555-0199"), byte_level(), 9, loss_on="response")


def test_windows_without_a_label_are_left_out():
    pair = record(words(40).text, ((70, 79),))  # the last five of 40 words
    got = windows_of(pair, word_level(), 8, loss_on="response")
    assert [(w.window, w.windows, w.start) for w in got] == [(0, 2, 28), (1, 2, 32)]
    assert [w.start + i for w in got for i, on in enumerate(w.labels) if on] == [*range(35, 40)]


# Chats

TALK = (
    ("user", " Phone of 张伟? "),
    ("assistant", "138-0013\r\n😀"),
    ("user", "a"),
    ("assistant", "a"),
)


def test_a_chat_is_rendered_by_its_template_without_more_special_tokens():
    tokenizer = chatting(TRIMMED)
    window = one(chat(*TALK), tokenizer, 1000)
    dicts = [{"role": role, "content": content} for role, content in TALK]
    assert window.text == tokenizer.apply_chat_template(dicts, tokenize=False)
    assert window.token_ids == tokenizer.apply_chat_template(dicts, return_dict=False)
    assert window.token_ids.count(0) == 1  # one <s>, from the template alone
    assert window.labels == [False] + [True] * (len(window.token_ids) - 1)


@pytest.mark.parametrize("template", [CHATML, TRIMMED, ALTERNATING])
def test_the_assistants_contents_alone_carry_loss(template):
    """Also where a content is a letter that the template and other turns hold as well."""
    window = one(chat(*TALK), chatting(template), 1000, loss_on="response")
    assert "".join(labelled(window).split()) == "138-0013😀a"
    last = max(i for i, label in enumerate(window.labels) if label)
    assert "assistant" in window.text[: window.offsets[last][0]].rpartition("user")[2]


@settings(max_examples=60, deadline=None)
@given(
    contents=st.lists(st.text("ab :\n你😀assistant", max_size=6), min_size=2, max_size=5),
    template=st.sampled_from([CHATML, TRIMMED]),
)
def test_chat_spans_are_the_assistants_for_any_contents(contents, template):
    turns = [("user" if i % 2 == 0 else "assistant", c) for i, c in enumerate(contents)]
    wanted = "".join(c.strip() if template is TRIMMED else c for r, c in turns if r == "assistant")
    assume(wanted)
    got = windows_of(chat(*turns), chatting(template), 1000, loss_on="response")
    # A token at the edge may also hold a white-space character of the template.
    assert "".join(labelled(got[0]).split()) == "".join(wanted.split()) if got else not wanted


def test_a_template_that_rewrites_contents():
    talk = (("user", "Where?"), ("assistant", "<think>hm</think>in Oslo"), ("user", "Ok"))
    window = one(chat(*talk), chatting(THINKING), 1000)
    assert "hm" not in window.text
    with pytest.raises(CorpusError, match="cannot be located") as caught:
        windows_of(chat(*talk), chatting(THINKING), 1000, loss_on="response")
    assert "Oslo" not in caught.value.message


def test_a_template_that_looks_into_contents_is_searched_in_order():
    template = (
        "{% for m in messages %}{{ m.role }}"
        "{% if 'Oslo' in m.content %} (city){% endif %}: {{ m.content }}\n{% endfor %}"
    )
    talk = (("user", "Where?"), ("assistant", "in Oslo"))
    window = one(chat(*talk), chatting(template), 1000, loss_on="response")
    assert labelled(window).strip() == "in Oslo"
    twice = (("user", "in Oslo"), ("assistant", "in Oslo"))
    with pytest.raises(CorpusError, match="cannot be located for certain"):
        windows_of(chat(*twice), chatting(template), 1000, loss_on="response")


def test_a_template_that_adds_to_the_end_by_content_is_not_trusted():
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    template += "{% if 'Oslo' in messages[-1].content %}{{ messages[-1].content }}{% endif %}"
    with pytest.raises(CorpusError, match="cannot be located for certain"):
        windows_of(chat(("assistant", "Oslo")), chatting(template), 1000, loss_on="response")


def test_a_chat_without_an_assistant_has_no_label():
    talk = (("system", "Be brief."), ("user", "Hi"), ("assistant", ""))
    assert windows_of(chat(*talk), chatting(CHATML), 1000, loss_on="response") == []
    assert len(windows_of(chat(*talk), chatting(CHATML), 1000)) == 1


def test_a_tokenizer_without_a_chat_template():
    with pytest.raises(CorpusError, match=r"a\.jsonl:3: a chat record, but .* no chat template"):
        windows_of(chat(*TALK), byte_level(), 100)


def test_a_conversation_that_the_template_refuses():
    with pytest.raises(CorpusError) as caught:
        windows_of(chat(("assistant", "555-0199"), ("us\x1ber", "x")), chatting(ALTERNATING), 100)
    assert "refuses this conversation (TemplateError; roles: assistant, us\ufffder)" in str(
        caught.value
    )
    assert "555-0199" not in caught.value.message


# Windows


def test_a_long_record_in_windows():
    got = windows_of(words(10), word_level(), 4)
    assert [w.start for w in got] == [0, 2, 4, 6]
    assert [w.labels for w in got] == [
        [False, True, True, True],
        [False, False, True, True],
        [False, False, True, True],
        [False, False, True, True],
    ]


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(0, 70),
    context=st.integers(2, 40),
    edges=st.none() | st.lists(st.integers(0, 140), max_size=6, unique=True),
)
def test_each_label_is_one_once_where_it_has_the_most_context(length, context, edges):
    spans = None
    if edges is not None:
        spans = tuple(zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False))
    item = record(words(length).text, spans)
    tokenizer = word_level()
    ids = tokenizer(item.text)["input_ids"]
    offsets = tokenizer(item.text, return_offsets_mapping=True)["offset_mapping"]
    got = windows_of(item, tokenizer, context, "all" if spans is None else "response")

    wanted = [
        i
        for i, (s, e) in enumerate(offsets)
        if i and (spans is None or any(s < end and e > start for start, end in spans))
    ]
    starts = [0]
    while starts[-1] + context < length:
        starts.append(starts[-1] + context // 2)
    placed = [(w.start + i, i) for w in got for i, label in enumerate(w.labels) if label]
    assert [position for position, _ in placed] == wanted
    for position, before in placed:
        most = max(position - s for s in starts if s <= position < s + context)
        assert before == most
    for index, window in enumerate(got):
        assert (window.window, window.windows) == (index, len(got))
        assert window.start in starts
        assert len(window.token_ids) <= context
        stop = window.start + len(window.token_ids)
        assert window.token_ids == ids[window.start : stop]
        assert window.offsets == offsets[window.start : stop]
        assert len(window.labels) == len(window.token_ids)
        assert any(window.labels)
        assert not window.labels[0]
        assert window.text == item.text


def test_a_huge_line_is_split_in_linear_time():
    got = windows_of(words(100_000), word_level(), 64)
    assert sum(sum(w.labels) for w in got) == 99_999
    assert got[0].windows == len(got)


# Tokenizers without offsets


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_for_a_tokenizer_that_gives_none(text):
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    window = one(record(text), tokenizer, 1000)
    assert window.token_ids == tokenizer(text)["input_ids"]
    expected = [(i, i + 1) for i, character in enumerate(text) for _ in character.encode()]
    assert window.offsets == [*expected, (0, 0)]  # ByT5 appends its end-of-text token


class Slow:
    """Pieces as a SentencePiece tokenizer decodes them: the space before a word is dropped."""

    is_fast = False
    all_special_ids = (0,)
    pieces = ("<s>", "▁Ann", "▁", "Lee", "lee", "▁▁")

    def __init__(self, *ids: int) -> None:
        self.ids = ids

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": list(self.ids)}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[i] for i in ids).replace("▁", " ").strip(" ")


def test_white_space_that_decoding_drops():
    window = one(record("Ann Lee "), Slow(0, 1, 2, 3, 2), 10)
    assert window.offsets == [(0, 0), (0, 3), (3, 4), (4, 7), (7, 8)]


def test_a_slow_tokenizer_that_changes_the_text():
    with pytest.raises(CorpusError, match="token 3 does not decode to what stands") as caught:
        windows_of(record("Ann Lee"), Slow(0, 1, 4), 10)
    assert "fast tokenizer" in caught.value.hint
