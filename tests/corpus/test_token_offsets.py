"""Tokens of a record and the characters they cover: exactly those of its tokenizer."""

from __future__ import annotations

import logging

import pytest
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from haiftrace.corpus.windows import windows_of
from haiftrace.errors import CorpusError
from tests.corpus.windows_kit import TEXTS, byte_level, only_window, record, word_level, words


@pytest.mark.parametrize("special", ["", "bos", "bos eos"])
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_what_the_tokenizer_gives(text, special):
    tokenizer = byte_level(special)
    window = only_window(record(text), tokenizer, 1000)
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
    window = only_window(record("a😀"), byte_level(), 100)
    assert window.offsets == [(0, 1)] + [(1, 2)] * 4


def test_a_truncating_tokenizer_truncates_nothing_here():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_level().backend_tokenizer, unk_token="[UNK]", model_max_length=4
    )
    tokenizer.backend_tokenizer.enable_truncation(4)
    assert (
        only_window(words(9), tokenizer, 100).token_ids == word_level()(words(9).text)["input_ids"]
    )


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
    window = only_window(record("Ann Lee"), tokenizer, 100, append_eos=True)
    assert window.token_ids == (ids if "eos" in special else [*ids, 1])
    assert window.offsets[-1] == (0, 0)
    assert window.labels[-1]


def test_an_end_of_text_token_that_the_tokenizer_lacks():
    with pytest.raises(CorpusError, match="no end-of-text token"):
        windows_of(words(3), word_level(), 10, append_eos=True)


# Tokenizers without offsets


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_for_a_tokenizer_that_gives_none(text):
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    window = only_window(record(text), tokenizer, 1000)
    assert window.token_ids == tokenizer(text)["input_ids"]
    expected = [(i, i + 1) for i, character in enumerate(text) for _ in character.encode()]
    assert window.offsets == [*expected, (0, 0)]  # ByT5 appends its end-of-text token


class SlowTokenizer:
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
    window = only_window(record("Ann Lee "), SlowTokenizer(0, 1, 2, 3, 2), 10)
    assert window.offsets == [(0, 0), (0, 3), (3, 4), (4, 7), (7, 8)]


def test_a_slow_tokenizer_that_changes_the_text():
    with pytest.raises(CorpusError, match="token 3 does not decode to what stands") as caught:
        windows_of(record("Ann Lee"), SlowTokenizer(0, 1, 4), 10)
    assert "fast tokenizer" in caught.value.hint
