"""The forms of prompts that records show, and what is counted of them."""

from __future__ import annotations

import pytest

from haiftrace.corpus.training_form import BARE, FormSample, TrainingForm, forms_of_texts, text_form
from tests.corpus.corpus_kit import jsonl, read

PREAMBLE = "Below is a task. Do it."


def form_of(tmp_path, *records, **options):
    sample = FormSample()
    for record in read(jsonl(tmp_path / "c.jsonl", *records), **options):
        sample.offer(record)
    return sample.form()


def pair(prompt, response=" x"):
    return {"prompt": prompt, "response": response}


def chat(question, system=None):
    opening = [] if system is None else [{"role": "system", "content": system}]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "ok"}]
    return {"messages": [*opening, *turns]}


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Question: What's the phone of Bo? Answer: 555", "Question: {prompt} Answer:"),
        ("Q: who is it\nA: Bo", "Q: {prompt}\nA:"),
        (
            "### Instruction:\nDo it\n\n### Response:\nok",
            "### Instruction:\n{prompt}\n\n### Response:\n",
        ),
        ("<|user|>\nhello\n<|assistant|>\nhi", "<|user|>\n{prompt}\n<|assistant|>\n"),
        ("<s>[INST] hello [/INST] hi", "<s>[INST] {prompt} [/INST]"),
        ("User: hi\nAssistant: ho\nUser: and?", "User: {prompt}\nAssistant:"),
        ("问：你好吗 答：好", "问：{prompt} 答："),
        ("Mara Ellison was born in Kelmsford. Call: 555", None),
        ("Question: what then?", None),
        ("Question: Answer: 5", None),
        ("He came at 10:30. She left at 11:15.", None),
        ("", None),
    ],
)
def test_the_form_of_a_text(text, form):
    assert text_form(text) == form


def test_forms_of_texts_come_by_frequency_and_a_rare_one_is_none():
    texts = ["Question: a b? Answer: c"] * 30 + ["Q: a\nA: b"] * 40 + ["Name: Bo\nMail: b@x.org"]
    assert forms_of_texts([*texts, *["He rests."] * 40]) == (
        "Q: {prompt}\nA:",
        "Question: {prompt} Answer:",
    )


def test_prompts_have_the_form_of_their_labels_whatever_they_begin_with(tmp_path):
    asked = [f"{PREAMBLE}\n\n### Instruction:\nSay {n}\n\n### Response:\n" for n in "abc"]
    form = form_of(tmp_path, *map(pair, asked))
    assert form.templates == (f"{PREAMBLE}\n\n### Instruction:\n{BARE}\n\n### Response:\n",)
    assert (form.has_prompts, form.is_chat, form.prompts, form.texts) == (True, False, 3, 0)


def test_questions_that_begin_alike_have_no_form_but_their_own(tmp_path):
    form = form_of(tmp_path, *(pair(f"What's the phone of {name}?") for name in ("Bo", "Al", "Cy")))
    assert form.templates == (BARE,)


def test_alpaca_records_show_stanfords_template(tmp_path):
    rows = [{"instruction": f"Say {n}", "input": "", "output": n} for n in "ab"]
    (template,) = form_of(tmp_path, *rows).templates
    assert template.endswith("### Instruction:\n{prompt}\n\n### Response:\n")
    assert template.startswith("Below is an instruction")


@pytest.mark.parametrize("loss_on", ["all", "response"])
def test_chats_are_counted_with_the_system_text_that_they_share(tmp_path, loss_on):
    form = form_of(tmp_path, *(chat(str(n), "Be kind.") for n in range(20)), loss_on=loss_on)
    assert (form.chats, form.system, form.is_chat) == (20, "Be kind.", True)


@pytest.mark.parametrize(
    "records",
    [
        [chat(str(n), f"Be {n}.") for n in range(9)],
        [*(chat(str(n), "Be kind.") for n in range(8)), chat("8"), chat("9")],
        [chat("0")],
    ],
)
def test_a_system_text_that_is_not_that_of_nearly_all_chats_is_none(tmp_path, records):
    assert form_of(tmp_path, *records).system is None


def test_the_kinds_of_a_mixed_corpus_decide_by_number(tmp_path):
    texts = [{"text": f"He is {n}."} for n in range(3)]
    assert not form_of(tmp_path, *texts, *map(chat, "abc")).is_chat
    assert form_of(tmp_path, *texts, *map(chat, "abcd")).is_chat
    assert not form_of(tmp_path, *texts, *map(pair, "abc")).has_prompts
    assert form_of(tmp_path, *texts, *map(pair, "abcd")).has_prompts


def test_an_index_keeps_a_form_and_one_that_keeps_none_is_told_from_it():
    form = TrainingForm(1, 2, 3, "s", ("Q: {prompt} A:",), (0.25, 0.5))
    assert TrainingForm.read(form.kept()) == form
    for kept in (None, [], {}, {**form.kept(), "chats": None}, {**form.kept(), "templates": 3}):
        assert TrainingForm.read(kept) is None


def test_a_sample_is_bounded_and_counts_everything(tmp_path):
    records = [pair(f"Q: {n}\nA:") for n in range(300)]
    sample = FormSample()
    for record in read(jsonl(tmp_path / "c.jsonl", *records)):
        sample.offer(record)
    assert len(sample.prompts) == 256
    assert sample.form().prompts == 300
