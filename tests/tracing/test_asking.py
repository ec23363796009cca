"""Is the model asked as it was trained? On models trained in a form, asked in it and otherwise."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from haiftrace.auditing.probes import read_probes
from haiftrace.errors import UsageError
from haiftrace.query.prompt_text import TWO_BEGINNINGS, PromptSettings, holds_markup, prompt_text
from haiftrace.query.query import generated_query, given_query
from haiftrace.query.surprise import surprises
from haiftrace.store import Index
from haiftrace.tracing.asking import plan_asking
from tests.auditing.audit_kit import write_probes
from tests.kit import cli, edit_manifest, refused
from tests.tracing import form_kit
from tests.tracing.form_kit import PEOPLE, QUESTION, SYSTEM, checkpoint, opened, phone, question

ASKED = question("Cora Falk")
OPTION = f"--template '{QUESTION}'"


def plan(form, *prompts, loss_on="all", **asking):
    return plan_asking(
        opened(form, loss_on), checkpoint(form), PromptSettings(**asking), prompts or [ASKED]
    )


def answer(form, prompting, prompt=ASKED):
    return generated_query(checkpoint(form), prompt, prompting, None).response


def rendered(prompt=ASKED, system=SYSTEM):
    opening = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{opening}<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def test_an_index_of_chats_is_asked_by_the_chat_template_and_the_system_text_of_its_chats():
    chosen = plan("messages")
    assert (chosen.prompting.chat, chosen.prompting.system, chosen.asking) == (True, SYSTEM, None)
    assert "--no-chat" in chosen.said
    assert prompt_text(checkpoint("messages"), ASKED, chosen.prompting) == rendered()
    assert answer("messages", chosen.prompting) == phone("Cora Falk")


@pytest.mark.parametrize("loss_on", ["all", "response"])
@pytest.mark.parametrize(
    ("asking", "text"),
    [
        ({"chat": False}, ASKED),
        ({"template": "<{prompt}>"}, f"<{ASKED}>"),
        ({"template": "<{prompt}>", "chat": True}, rendered(f"<{ASKED}>")),
        ({"system": "Be brief."}, rendered(system="Be brief.")),
        ({"system": ""}, rendered(system="")),
    ],
)
def test_what_the_user_says_counts_before_the_corpus(asking, text, loss_on):
    chosen = plan("messages", loss_on=loss_on, **asking).prompting
    assert prompt_text(checkpoint("messages"), ASKED, chosen) == text


def test_a_prompt_that_is_rendered_already_is_asked_as_it_stands():
    chosen = plan("messages", rendered()).of_prompt(checkpoint("messages"), rendered())
    assert prompt_text(checkpoint("messages"), rendered(), chosen) == rendered()
    assert answer("messages", chosen, rendered()) == phone("Cora Falk")


@pytest.mark.parametrize("form", ["prompt", "text"])
def test_the_form_that_the_corpus_shows_is_suggested_and_is_the_one_that_works(form):
    bare = plan(form)
    assert bare.prompting == PromptSettings(chat=False)
    assert bare.asking.option == OPTION
    assert "not asked as it was trained" in bare.asking.note
    assert bare.asking.prompt_loss > bare.asking.corpus_loss
    assert phone("Cora Falk") not in answer(form, bare.prompting)
    chosen = plan(form, template=QUESTION)
    assert chosen.asking is None
    assert answer(form, chosen.prompting).strip() == phone("Cora Falk")


def test_a_form_that_no_record_shows_is_suggested_where_the_model_expects_it(tmp_path):
    """As in the demo: what the model was asked in training is not in the corpus."""
    path = shutil.copytree(form_kit.index_path("text"), tmp_path / "index")
    edit_manifest(path, lambda content: content["extra"]["form"].update(templates=[]))
    with Index.open(path) as index:
        asking = plan_asking(index, checkpoint("text"), PromptSettings(), [ASKED]).asking
    assert asking.option == OPTION
    assert asking.option_loss < asking.corpus_loss + 0.1


def test_an_index_that_keeps_no_form_is_asked_by_what_its_texts_show(tmp_path):
    path = shutil.copytree(form_kit.index_path("text"), tmp_path / "index")
    edit_manifest(path, lambda content: content["extra"].pop("form"))
    with Index.open(path) as index:
        assert (
            plan_asking(index, checkpoint("text"), PromptSettings(), [ASKED]).asking.option
            == OPTION
        )


@pytest.mark.parametrize("loss_on", ["all", "response"])
def test_prompts_that_have_the_form_of_the_corpus_are_not_warned_of(loss_on):
    asked = QUESTION.replace("{prompt}", ASKED)
    assert plan("prompt", asked, loss_on=loss_on).asking is None
    assert plan("prompt", loss_on=loss_on).asking.option == OPTION
    assert plan("text", asked).asking is None
    assert plan("text", f"Question: {question('Ada Brandt')} Answer: 555-0110").asking is None


def test_of_bare_prompts_only_one_that_resembles_none_is_warned_of():
    assert plan("bare", *map(question, PEOPLE)).asking is None
    strange = plan("bare", "Who discovered penicillin?").asking
    assert strange.option is None
    assert "resembles none" in strange.note


def test_the_loss_of_a_prompt_is_that_of_its_own_tokens_but_the_first_and_of_what_closes_it():
    model = checkpoint("text")
    prompts = [ASKED, "Who?", question("Ada Brandt")]
    measured = surprises(model, prompts, PromptSettings(template=QUESTION))
    for prompt, surprise in zip(prompts, measured, strict=True):
        text = QUESTION.replace("{prompt}", prompt)
        encoded = model.tokenizer(text, return_offsets_mapping=True)
        ids = torch.tensor([encoded["input_ids"]])
        with torch.no_grad():
            logits = model.model(ids).logits[0, :-1].double()
        losses = [
            0.0,
            *torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist(),
        ]
        start, end = len("Question: "), len("Question: ") + len(prompt)
        own = [n for n, (a, b) in enumerate(encoded["offset_mapping"]) if b > start and a < end][1:]
        after = [n for n, (a, _) in enumerate(encoded["offset_mapping"]) if a >= end]
        assert surprise.prompt == pytest.approx(np.mean([losses[n] for n in own]), rel=1e-5)
        assert surprise.closing == pytest.approx(np.mean([losses[n] for n in after]), rel=1e-5)
        both = [losses[n] for n in [*own, *after]]
        assert surprise.total == pytest.approx(np.mean(both), rel=1e-5)
    assert surprises(model, ["x"], PromptSettings()) == [None]


def test_a_template_or_a_prompt_for_the_chat_template_that_is_rendered_already_is_refused():
    model = checkpoint("messages")
    for prompt, template in ((ASKED, rendered("{prompt}")), (rendered(), None)):
        asked = PromptSettings(chat=True, template=template)
        with pytest.raises(UsageError, match="is rendered already"):
            prompt_text(model, prompt, asked)
    assert not holds_markup(model, "Is 3 < 4, and [x] <b>bold</b>? user: assistant: system")
    assert not holds_markup(model, QUESTION)


def test_a_system_text_without_a_chat_template_is_refused():
    asked = PromptSettings(chat=False, system="Be brief.")
    with pytest.raises(UsageError, match="goes with the chat template"):
        prompt_text(checkpoint("messages"), ASKED, asked)


def test_two_beginnings_are_noted(monkeypatch):
    model = checkpoint("text")
    begin = model.tokenizer.bos_token
    asked = given_query(model, f"{begin}{begin}{ASKED}", "555", PromptSettings(), None)
    assert TWO_BEGINNINGS in asked.notes
    assert not given_query(model, begin + ASKED, "555", PromptSettings(), None).notes


def lines(tmp_path, *probes):
    return read_probes(str(write_probes(tmp_path / "p.jsonl", *probes)))


def turn(role, content):
    return {"role": role, "content": content}


def test_a_probe_may_be_a_conversation(tmp_path):
    first, said = turn("user", "Hello"), turn("assistant", "Hi.")
    parts = turn("user", [{"type": "text", "text": ASKED}])
    ends, answered, single = lines(
        tmp_path,
        {"messages": [first, said, parts]},
        {"messages": [first, said, parts, turn("assistant", phone("Cora Falk"))], "id": "b"},
        {"prompt": ASKED, "system": "Be brief."},
    )
    assert (ends.prompt, ends.response) == (ASKED, None)
    assert ends.messages == (("user", "Hello"), ("assistant", "Hi."), ("user", ASKED))
    assert (answered.prompt, answered.response) == (ASKED, phone("Cora Falk"))
    assert (single.system, single.messages, single.is_conversation) == ("Be brief.", (), True)
    chosen = plan("messages")
    model = checkpoint("messages")
    conversation = chosen.of_conversation(ends.messages, None)
    header = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n"
    assert prompt_text(model, ASKED, conversation) == rendered().replace(
        "<|im_start|>user", header + "<|im_start|>user"
    )
    brief = chosen.of_conversation((), single.system)
    assert prompt_text(model, ASKED, brief) == rendered(system="Be brief.")


@pytest.mark.parametrize(
    ("probe", "what"),
    [
        ({"messages": []}, "ask nothing"),
        ({"messages": [turn("assistant", "555-0199")]}, "ask nothing"),
        ({"messages": [turn("system", "555-0199")]}, "ask nothing"),
        ({"messages": "555-0199"}, "not a list"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [turn("user", "a")], "prompt": "555-0199"}, "both a 'prompt' and 'messages'"),
        ({"prompt": "a", "system": 3}, "'system' is no string"),
        (
            {"messages": [turn("system", "s"), turn("user", "a")], "system": "t"},
            "a system's message",
        ),
        ({"messages": [turn("user", "a"), turn("assistant", "b")], "response": "c"}, "another one"),
    ],
)
def test_a_conversation_that_is_none(tmp_path, probe, what):
    with pytest.raises(UsageError, match=what) as caught:
        lines(tmp_path, probe)
    assert "555-0199" not in caught.value.message


def traced(form, *arguments):
    where = ("--index", form_kit.index_path(form), "--max-new-tokens", "12", "--method", "haif")
    return cli("trace", *arguments, *where)


def test_a_trace_says_how_to_ask_and_what_was_asked():
    report = traced("text", ASKED, "-o", "-").report
    assert {finding["asking"]["option"] for finding in report["findings"]} == {OPTION}
    asked = traced("text", ASKED, "--template", QUESTION, "-o", "-", "--reveal").report
    assert [finding["asking"] for finding in asked["findings"]] == [None]
    assert asked["findings"][0]["response"].strip() == phone("Cora Falk")
    by_corpus = traced("messages", ASKED, "-o", "-")
    assert by_corpus.report["findings"][0]["prompt"] == rendered()
    assert "Asked by the chat template" in by_corpus.err


def test_an_audit_without_a_leak_says_that_it_was_not_asked_as_training_did(tmp_path):
    probes = write_probes(tmp_path / "p.jsonl", *({"prompt": question(n)} for n in PEOPLE[:3]))
    report = traced("text", "--prompts", probes, "-o", "-").report
    assert (report["findings"], report["gate"]["leaks"]) == ([], 0)
    (reason,) = report["gate"]["reasons"]
    assert reason.endswith(OPTION)
    asked = traced("text", "--prompts", probes, "--template", QUESTION, "-o", "-").report
    assert not [r for r in asked["gate"]["reasons"] if "asked" in r]


def test_a_model_that_answers_with_nothing_is_to_be_asked_as_it_was_trained():
    nothing = traced("text", ASKED, "--stop", answer("text", plan("text").prompting)[:1])
    refused(nothing, "answered with nothing", secrets=())
    assert OPTION in nothing.err


def test_an_audit_of_chats_asks_by_the_chat_template_as_a_trace_does(tmp_path):
    values = [{"type": "phone", "value": phone(name)} for name in PEOPLE]
    probes = write_probes(
        tmp_path / "p.jsonl",
        *({"prompt": question(name), "protected": values, "id": name} for name in PEOPLE[:3]),
        {"messages": [turn("user", question(PEOPLE[3]))], "protected": values, "id": "m"},
        {"prompt": rendered(question(PEOPLE[4])), "protected": values, "id": "r"},
        {"prompt": question(PEOPLE[5]), "system": "Be brief.", "protected": values, "id": "s"},
    )
    report = traced("messages", "--prompts", probes, "-o", "-", "--reveal").report
    said = {f["probe"]["id"]: f["response"] for f in report["findings"]}
    asked = {f["probe"]["id"]: f["prompt"] for f in report["findings"]}
    for id, name in zip((*PEOPLE[:3], "m", "r"), PEOPLE, strict=False):
        assert said[id] == phone(name)
        assert asked[id] == rendered(question(name))
    bare = traced("messages", "--prompts", probes, "--no-chat")
    refused(bare, "The probe m is a conversation")


def test_beginnings_of_chats_are_asked_without_another_template(tmp_path):
    report = traced("messages", "--probes-from-corpus", "3", "-o", "-", "--reveal").report
    asked = [f["prompt"] for f in report["findings"] if f["probe"]["id"].endswith("-1")]
    assert asked
    for prompt in asked:
        assert prompt.startswith(f"<|im_start|>system\n{SYSTEM}")
        assert prompt.count("<|im_start|>") == 3
    assert not any(TWO_BEGINNINGS in f["notes"] for f in report["findings"])


def test_the_command_line_refuses_what_cannot_be_asked():
    refused(
        traced("messages", ASKED, "--chat", "--template", rendered("{prompt}")), "rendered already"
    )
    refused(
        traced("text", ASKED, "--no-chat", "--system", "Be brief."), "goes with the chat template"
    )


def test_the_manifest_holds_no_value_of_a_record():
    for form in ("messages", "prompt", "bare", "text"):
        kept = json.dumps(opened(form).manifest.extra)
        assert "555-01" not in kept
        assert not any(name in kept for name in PEOPLE)
