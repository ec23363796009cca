"""From prompt and response to traced tokens: the seam, spans, templates, chats, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given as given_examples
from hypothesis import strategies as st

from haiftrace.errors import UsageError
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.query.query import generated_query
from tests import kit
from tests.kit import ANSWER, PROMPT
from tests.query.query_kit import leak, traced_text
from tests.tiny_models import END_OF_TEXT

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def with_special_tokens(checkpoint):
    """The checkpoint with a tokenizer that begins every text with end-of-text, and ends it so."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{END_OF_TEXT} $A {END_OF_TEXT}",
        special_tokens=[(END_OF_TEXT, tokenizer.eos_token_id)],
    )
    return replace(checkpoint, tokenizer=tokenizer)


@pytest.fixture
def chatting():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(kit.checkpoint_path(), local_files_only=True)
    tokenizer.chat_template = CHAT
    return replace(kit.checkpoint(), tokenizer=tokenizer)


# The seam


@pytest.mark.parametrize(
    ("prompt", "response", "whole"),
    [
        ("The phone is", "555.", "The phone is 555."),
        ("The phone is ", "555.", "The phone is 555."),
        ("The phone is", " 555.", "The phone is 555."),
        ("The phone is\n", "\n555.", "The phone is\n\n555."),
        ("The phone is:", "(555)", "The phone is: (555)"),
        ("", "555.", "555."),
        ("电话号码是", "五五五", "电话号码是五五五"),
        ("电话号码是", "555", "电话号码是555"),
        ("phone:", "五五五", "phone:五五五"),
        ("电话号码：", "555", "电话号码：555"),
        ("他说「", "555", "他说「555"),
        ("《手册》", "Page 5", "《手册》Page 5"),
        ("名前は", "山田", "名前は山田"),
        ("ﾃﾚﾌｫﾝ", "555", "ﾃﾚﾌｫﾝ555"),
        ("전화", "555", "전화555"),
        ("電話\u3000", "555", "電話\u3000555"),
        ("Le téléphone est", "555", "Le téléphone est 555"),
        ("α", "β", "α β"),
    ],
)
def test_one_space_goes_between_where_neither_side_has_one_nor_is_cjk(prompt, response, whole):
    query = leak(prompt, response)
    assert kit.checkpoint().tokenizer.decode(query.token_ids) == whole
    assert query.token_ids == kit.checkpoint().tokenizer(whole)["input_ids"]
    assert (query.prompt, query.response) == (prompt, response)


words = st.text(st.sampled_from("ab 5-\n电话，「ñ"), max_size=12)


@given_examples(prompt=words, response=words.filter(str.strip))
def test_the_labels_are_the_tokens_with_a_character_of_the_response(prompt, response):
    tokenizer = kit.checkpoint().tokenizer
    try:
        query = leak(prompt, response)
    except UsageError:
        assert not prompt
        assert len(tokenizer(response)["input_ids"]) == 1
        return
    whole = tokenizer.decode(query.token_ids)
    first = len(whole) - len(response)
    offsets = tokenizer(whole, return_offsets_mapping=True)["offset_mapping"]
    expected = [end > first for _, end in offsets]
    assert bool(query.notes) == expected[0]
    assert query.labels == [False, *expected[1:]]


def test_tokenised_as_one_string_and_not_side_by_side():
    query = leak("Mara Elli", "son")
    assert kit.checkpoint().tokenizer.decode(query.token_ids) == "Mara Elli son"
    joined = leak("Mara Ell", "ison", template="{prompt} ")
    assert joined.response == "ison"
    assert traced_text(joined).strip() == "ison"


def test_special_tokens_at_the_end_are_no_part_of_the_query():
    model = with_special_tokens(kit.checkpoint())
    eos = model.tokenizer.eos_token_id
    query = leak(model=model)
    assert query.token_ids[0] == eos
    assert eos not in query.token_ids[1:]
    assert not query.labels[0]
    assert traced_text(query).strip() == ANSWER
    asked = generated_query(model, PROMPT, PromptSettings(max_new_tokens=4), None)
    assert asked.token_ids.count(eos) == 1
    alone = leak("", ANSWER, model=model)  # with something before it, all of it is traced
    assert traced_text(alone) == ANSWER
    assert not alone.notes


# Spans and losses on the prompt


def test_a_span_traces_the_tokens_with_its_characters_only():
    query = leak(response="555-0142. Call 555-0142 at six.", span="Call")
    assert traced_text(query).strip() == "Call"
    assert query.span == "Call"
    first = leak(response="555-0142. Call 555-0142 at six.", span="0142")
    assert query.token_ids == first.token_ids
    positions = [i for i, label in enumerate(first.labels) if label]
    assert "".join(first.pieces[: positions[0]]).endswith("555-")
    assert len(positions) < sum(leak(response="555-0142. Call 555-0142 at six.").labels)


def test_the_span_is_looked_for_in_the_response_and_not_in_the_prompt():
    query = leak("Call 555. The phone number is", "555 or 444", span="555")
    (position,) = [i for i, label in enumerate(query.labels) if label][:1]
    assert position > query.pieces.index(" number")


def test_losses_on_the_prompt_too():
    query = leak(loss_on_all=True)
    assert query.labels == [False, *[True] * (len(query.token_ids) - 1)]
    assert query.notes == ()  # the response's own tokens all count
    spanned = leak(loss_on_all=True, span="0142")
    assert spanned.labels != query.labels
    only = leak(span="0142")
    first = query.token_ids.index(leak().token_ids[leak().labels.index(True)])
    assert spanned.labels == [False, *[True] * (first - 1), *only.labels[first:]]


def test_losses_on_the_prompt_of_a_generated_answer():
    said = generated_query(
        kit.checkpoint(), PROMPT, PromptSettings(loss_on_all=True, max_new_tokens=5), None
    )
    assert said.labels == [False, *[True] * (len(said.token_ids) - 1)]
    again = leak(response=said.response, loss_on_all=True)
    assert (again.token_ids, again.labels, again.notes) == (said.token_ids, said.labels, ())


def test_the_first_token_of_all_has_nothing_to_be_predicted_from():
    query = leak("", "555-0142.")
    assert not query.labels[0]
    assert all(query.labels[1:])
    (note,) = query.notes
    assert "not traced" in note


# Templates and chats


def test_a_template_goes_around_the_prompt():
    query = leak("Who?", "Mara", template="Question: {prompt} Answer:")
    assert query.prompt == "Question: Who? Answer:"
    assert "".join(query.pieces) == "Question: Who? Answer: Mara"
    said = generated_query(
        kit.checkpoint(), "Mara Ellison's phone", PromptSettings("{prompt} number is"), None
    )
    assert (
        said.token_ids
        == generated_query(kit.checkpoint(), PROMPT, PromptSettings(), None).token_ids
    )


def test_a_prompt_may_hold_the_templates_own_marks():
    assert leak("{prompt} {x}", "Mara", template="Q: {prompt} A:").prompt == "Q: {prompt} {x} A:"


def test_a_template_without_a_place_for_the_prompt_is_refused():
    with pytest.raises(UsageError, match=r"no \{prompt\}"):
        leak(template="Question: {} Answer:")


def test_a_chat_is_rendered_and_nothing_is_added(chatting):
    query = leak("Who?", "Mara", model=chatting, chat=True)
    assert query.prompt == "<user>Who?<assistant>"
    assert "".join(query.pieces) == "<user>Who?<assistant>Mara"
    assert traced_text(query).endswith("Mara")
    said = generated_query(chatting, "Who?", PromptSettings(chat=True, max_new_tokens=3), None)
    assert said.prompt == query.prompt
    both = leak("Who?", "Mara", model=chatting, chat=True, template="Q: {prompt}")
    assert both.prompt == "<user>Q: Who?<assistant>"


def test_a_chat_gets_no_special_tokens_twice(chatting):
    model = with_special_tokens(chatting)
    model.tokenizer.chat_template = END_OF_TEXT + CHAT
    for query in (
        leak("Who?", "Mara", model=model, chat=True),
        generated_query(model, "Who?", PromptSettings(chat=True, max_new_tokens=2), None),
    ):
        assert query.token_ids[0] == model.tokenizer.eos_token_id
        assert query.token_ids.count(model.tokenizer.eos_token_id) == 1


def test_a_chat_without_a_template_or_with_one_that_refuses_is_told(chatting):
    with pytest.raises(UsageError, match="no chat template"):
        leak(chat=True)
    chatting.tokenizer.chat_template = "{{ raise_exception('no ' + messages[0].content) }}"
    with pytest.raises(UsageError, match="refuses the prompt") as caught:
        leak("my secret", model=chatting, chat=True)
    assert "secret" not in caught.value.message


# What cannot be traced


@pytest.mark.parametrize("response", ["", " ", "\n\t", "\u3000"])
def test_a_response_without_text_is_refused(response):
    with pytest.raises(UsageError, match="response is empty"):
        leak(response=response)


def test_a_response_that_tokenises_to_nothing_is_refused():
    model = replace(kit.checkpoint(), tokenizer=Dropping(kit.checkpoint().tokenizer))
    with pytest.raises(UsageError, match="no token"):
        leak(response="\u200b", model=model)
    for asking in ({}, {"loss_on_all": True}):
        for prompt in ("", PROMPT):
            with pytest.raises(UsageError, match="no token"):
                leak(prompt, "\u200b", model=model, **asking)


class Dropping:
    """A tokenizer that normalises invisible characters away, as some do."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, text, **settings):
        return self._tokenizer(text.replace("\u200b", "").rstrip(), **settings)


def test_a_single_token_with_nothing_before_it_is_refused():
    with pytest.raises(UsageError, match="no token that the model predicts"):
        leak("", "5")


def test_a_span_that_is_not_there_is_refused():
    for span in ("0199", "", PROMPT):
        with pytest.raises(UsageError, match="--span is not in the response"):
            leak(span=span)


def test_an_empty_prompt_generates_only_where_something_begins_it():
    with pytest.raises(UsageError, match="prompt is empty"):
        generated_query(kit.checkpoint(), "", PromptSettings(), None)
    said = generated_query(
        with_special_tokens(kit.checkpoint()), "", PromptSettings(max_new_tokens=3), None
    )
    assert len(said.token_ids) == 4


def test_what_does_not_fit_the_context_is_refused():
    long = "Mara Ellison " * 40
    with pytest.raises(UsageError, match="leaves no room for an answer"):
        generated_query(kit.checkpoint(), long, PromptSettings(), None)
    for prompt, response in ((long, "555"), ("555", long)):
        with pytest.raises(UsageError, match="the model's context has 64") as caught:
            leak(prompt, response)
        assert "Ellison" not in caught.value.message


def test_what_is_not_unicode_is_refused():
    for prompt, response in (("\udcff", ANSWER), (PROMPT, "\udcff5")):
        with pytest.raises(UsageError, match="not valid UTF-8"):
            leak(prompt, response)
    with pytest.raises(UsageError, match="not valid UTF-8"):
        generated_query(kit.checkpoint(), "\udcff", PromptSettings(), None)


def test_a_token_beyond_the_embedding_is_refused():
    with pytest.raises(UsageError, match="no row for"):
        leak(model=replace(kit.checkpoint(), vocabulary=10))
