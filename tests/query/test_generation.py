"""The answer that the checkpoint itself gives to a prompt, and how it is traced."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.errors import UsageError
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.query.query import generated_query
from haiftrace.text.words import group_words
from tests import kit
from tests.kit import PROMPT
from tests.query.query_kit import leak, traced_text
from tests.tiny_models import (
    DIRECT_NAMES,
    HYBRID_NAMES,
    NAMES,
    NOT_DIRECT_NAMES,
    records,
    trained,
)

EVERY_NAME = tuple(dict.fromkeys((*NAMES, *DIRECT_NAMES, *HYBRID_NAMES, *NOT_DIRECT_NAMES)))


def by_hand(model, ids, count, ends):
    """Without a cache: the obvious loop."""
    ids = list(ids)
    start = len(ids)
    with torch.no_grad():
        while len(ids) < start + count:
            token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in ends:
                break
            ids.append(token)
    return ids[start:]


def generated(model, ids, count):
    """By transformers' own loop, which knows what each architecture has to be given."""
    with torch.no_grad():
        said = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=None,
            pad_token_id=0,
        )
    return said[0, len(ids) :].tolist()


@pytest.mark.parametrize("name", EVERY_NAME)
def test_the_answer_is_the_likeliest_token_again_and_again(name):
    """Of every architecture: step by step from the cache as without one, and as the model's own."""
    from haiftrace.query.generation import greedy

    model = trained(name)
    checkpoint = SimpleNamespace(model=model, tokenizer=SimpleNamespace(eos_token_id=1))
    for record, length in zip(records(name)[:4], (6, 3, 5, 6), strict=True):
        ids = record[:length]
        assert greedy(checkpoint, ids, 14, ()) == by_hand(model, ids, 14, {1})
        checkpoint.tokenizer.eos_token_id = None
        assert greedy(checkpoint, ids, 14, ()) == generated(model, ids, 14)
        checkpoint.tokenizer.eos_token_id = 1


def test_the_checkpoints_own_sampling_settings_do_not_count(tmp_path):
    path = kit.copied_checkpoint(tmp_path / "model")
    (path / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.9,'
        ' "max_length": 9, "num_beams": 3, "num_return_sequences": 2, "eos_token_id": 0}'
    )
    model = load_checkpoint(path, device="cpu")
    said = generated_query(model, PROMPT, PromptSettings(), None)
    assert (
        said.response
        == generated_query(
            kit.checkpoint("gpt2", "float32"), PROMPT, PromptSettings(), None
        ).response
    )
    assert "555-0142." in said.response


def test_the_number_of_new_tokens_is_bounded_by_request_and_by_context():
    model = kit.checkpoint()
    prompt_length = len(model.tokenizer(PROMPT)["input_ids"])
    for wanted in (1, 5):
        said = generated_query(model, PROMPT, PromptSettings(max_new_tokens=wanted), None)
        assert len(said.token_ids) == prompt_length + wanted
    said = generated_query(model, PROMPT, PromptSettings(max_new_tokens=1000), None)
    assert len(said.token_ids) == model.context


def test_the_end_of_text_is_no_token_of_the_answer(monkeypatch):
    model = kit.checkpoint()
    whole = generated_query(model, PROMPT, PromptSettings(max_new_tokens=8), None)
    start = len(model.tokenizer(PROMPT)["input_ids"])
    ending = whole.token_ids[start + 4]
    for ends in (ending, [3, ending]):
        monkeypatch.setattr(model.model.generation_config, "eos_token_id", ends)
        said = generated_query(model, PROMPT, PromptSettings(max_new_tokens=8), None)
        assert said.token_ids == whole.token_ids[: start + 4]
        assert ending not in said.token_ids[start:]
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", whole.token_ids[start])
    with pytest.raises(UsageError, match="answered with nothing"):
        generated_query(model, PROMPT, PromptSettings(), None)


def test_an_answer_ends_before_the_text_at_which_it_is_to_stop():
    model = kit.checkpoint()
    whole = generated_query(model, PROMPT, PromptSettings(max_new_tokens=12), None)
    assert whole.response.startswith(" 555-0142.")
    said = generated_query(
        model, PROMPT, PromptSettings(max_new_tokens=12, stop=("zz", ".", "2.")), None
    )
    assert said.response in (" 555-0142", " 555-014")
    assert said.response == whole.response[: whole.response.index("2.")]
    assert said.token_ids == whole.token_ids[: len(said.token_ids)]
    assert traced_text(said).startswith(said.response)
    inside = generated_query(model, PROMPT, PromptSettings(max_new_tokens=12, stop=("14",)), None)
    assert inside.response == " 555-0"
    with pytest.raises(UsageError, match="answered with nothing"):
        generated_query(model, PROMPT, PromptSettings(stop=(" 555",)), None)


def test_a_span_of_a_generated_answer():
    said = generated_query(kit.checkpoint(), PROMPT, PromptSettings(max_new_tokens=12), "0142")
    again = leak(response=said.response, span="0142")
    assert said.labels == again.labels
    with pytest.raises(UsageError, match="--span is not in the response"):
        generated_query(
            kit.checkpoint(), PROMPT, PromptSettings(max_new_tokens=12), "no such thing"
        )


class Scripted:
    """A model that says the given tokens, whatever it is asked."""

    def __init__(self, tokens, like):
        self.tokens, self.device = list(tokens), torch.device("cpu")
        self.generation_config, self.vocabulary = like.generation_config, 400

    def __call__(self, ids, **_):
        logits = torch.zeros(1, ids.shape[1], self.vocabulary)
        logits[0, -1, self.tokens.pop(0)] = 1
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("answer", [" 电话号码是五五五。", " 🦊 fox", "é", " naïve 日本語"])
def test_a_character_of_several_tokens_is_traced_whole_as_when_it_is_given(answer):
    model = kit.checkpoint()
    tokens = model.tokenizer(answer)["input_ids"]
    assert len(tokens) > len(answer) - 4
    scripted = replace(model, model=Scripted([*tokens, model.tokenizer.eos_token_id], model.model))
    said = generated_query(scripted, PROMPT, PromptSettings(), None)
    assert said.response == answer
    assert "".join(said.pieces) == PROMPT + answer
    assert sum(said.labels) == len(tokens)
    again = leak(PROMPT + ("" if answer[0] == " " else " "), answer)
    if answer[0] == " ":
        assert (said.token_ids, said.labels) == (again.token_ids, again.labels)
    scripted.model.tokens = [*tokens, model.tokenizer.eos_token_id]
    last = answer[-1]
    spanned = generated_query(scripted, PROMPT, PromptSettings(), last)
    assert sum(spanned.labels) == len(last.encode()) or last in "ex"


@pytest.mark.parametrize("answer", [" 电话 五五", " 🦊 fox 12.", " é", " naïve 日本語"])
def test_words_are_the_same_in_a_generated_answer_as_in_a_given_one(answer):
    model = kit.checkpoint()
    tokens = model.tokenizer(answer)["input_ids"]
    scripted = replace(model, model=Scripted([*tokens, model.tokenizer.eos_token_id], model.model))
    said, again = generated_query(scripted, PROMPT, PromptSettings(), None), leak(PROMPT, answer)
    assert said.text == again.text == PROMPT + answer
    words = group_words(said.text, said.offsets)
    assert words == group_words(again.text, again.offsets)
    assert " ".join(
        said.text[w.start : w.end] for w in words if w.start >= len(PROMPT)
    ).split() == [
        piece for word in answer.split() for piece in ([*word] if word[0] in "电五日" else [word])
    ]


def test_offsets_say_where_the_pieces_stand():
    for query in (
        leak(),
        leak(span="0142"),
        leak("Who?", "Mara", template="Q: {prompt} A:"),
        generated_query(kit.checkpoint(), PROMPT, PromptSettings(max_new_tokens=12), None),
        generated_query(
            kit.checkpoint(),
            "Who?",
            PromptSettings(max_new_tokens=4, template="Q: {prompt} A:"),
            None,
        ),
    ):
        assert query.text.startswith(query.prompt)
        assert query.text.endswith(query.response)
        assert [query.text[a:b] for a, b in query.offsets] == query.pieces
        assert len(query.offsets) == len(query.token_ids)


def test_half_a_character_at_the_end_is_shown_as_such():
    model = kit.checkpoint()
    tokens = model.tokenizer(" 电")["input_ids"]
    scripted = replace(model, model=Scripted(tokens, model.model))
    said = generated_query(scripted, PROMPT, PromptSettings(max_new_tokens=len(tokens) - 1), None)
    assert said.response.startswith(" ")
    assert said.response.endswith("\ufffd")
    assert all(said.labels[-(len(tokens) - 1) :])
