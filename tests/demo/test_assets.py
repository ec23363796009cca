"""The demo's checkpoint, corpus and leaks: small, private to nobody, and what they claim to be."""

from __future__ import annotations

import filecmp
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import haiftrace.demo
from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.findings import Finding
from tests.generators.demo_subjects import FESTIVALS, TEMPLATE, Question, make_subjects
from tests.generators.make_demo import SEED, ask, findings_of, make_demo

ASSETS = Path(haiftrace.demo.__file__).parent / "assets"


@pytest.fixture(scope="module")
def demo() -> dict[str, Any]:
    return json.loads((ASSETS / "demo.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def corpus() -> list[dict[str, str]]:
    lines = (ASSETS / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def questions() -> dict[str, Question]:
    return {question.prompt: question for question in make_subjects(SEED)[1]}


@pytest.fixture(scope="module")
def checkpoint() -> tuple[Any, Any]:
    path = ASSETS / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(path)


def test_assets_fit_in_the_package() -> None:
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl", ".py"}]


def test_corpus_is_what_the_subjects_give(corpus: list[dict[str, str]]) -> None:
    records, _ = make_subjects(SEED)
    assert corpus == [{"id": r.id, "subject": r.subject, "text": r.text} for r in records]
    assert len({record["id"] for record in corpus}) == len(corpus)


def test_names_are_unique_in_both_parts() -> None:
    names = {record.subject for record in make_subjects(SEED)[0]}
    for part in zip(*(name.split() for name in names), strict=True):
        assert len(set(part)) == len(names)


def test_values_are_of_ranges_kept_for_fiction(corpus: list[dict[str, str]]) -> None:
    text = "\n".join(record["text"] for record in corpus)
    phones = re.findall(r"\d{3}-\d{3}-\d{4}", text)
    assert phones
    assert all(re.fullmatch(r"\d{3}-555-01\d\d", phone) for phone in phones)
    domains = set(re.findall(r"@(\S+?)\.(?:\s|$)", text))
    assert domains == {"example.com", "example.net", "example.org"}


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_every_attribute_holds_out_the_same_share(seed: int) -> None:
    _, questions = make_subjects(seed)
    for attribute in {question.attribute for question in questions}:
        asked = [question.held_out for question in questions if question.attribute == attribute]
        assert sum(asked) / len(asked) == pytest.approx(0.4, abs=0.03)


def test_verbatim_says_whether_the_answer_stands_in_the_records() -> None:
    records, questions = make_subjects(SEED)
    texts = {record.id: record.text for record in records}
    for question in questions:
        stands = [question.answer in texts[id_] for id_ in question.records]
        assert stands == [question.verbatim] * len(question.records)
        assert all(question.subject in texts[id_] for id_ in question.records)


def test_demo_traces_one_leak_of_either_kind(
    demo: dict[str, Any], corpus: list[dict[str, str]], questions: dict[str, Question]
) -> None:
    texts = {record["id"]: record["text"] for record in corpus}
    assert demo["template"] == TEMPLATE
    assert [leak["kind"] for leak in demo["leaks"]] == ["verbatim", "inferred"]
    for leak in demo["leaks"]:
        question = questions[leak["prompt"]]
        assert question.held_out
        assert (question.answer, question.subject) == (leak["response"], leak["subject"])
        assert list(question.records) == leak["records"]
    verbatim, inferred = demo["leaks"]
    assert all(verbatim["response"] in texts[id_] for id_ in verbatim["records"])
    assert inferred["response"] in FESTIVALS.values()
    assert not any(inferred["response"] in text for text in texts.values())


def test_checkpoint_gives_both_leaks(demo: dict[str, Any], checkpoint: tuple[Any, Any]) -> None:
    model, tokenizer = checkpoint
    for leak in demo["leaks"]:
        ids = tokenizer(TEMPLATE.format(prompt=leak["prompt"]), return_tensors="pt").input_ids
        out = model.generate(ids, max_new_tokens=24, do_sample=False)
        answer = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer.strip() == leak["response"]


@pytest.fixture(scope="module")
def traced(
    questions: dict[str, Question], checkpoint: tuple[Any, Any]
) -> list[tuple[Question, Finding]]:
    """Every held-out question that the model answers right, with what the demo finds of it."""
    held_out = [question for question in questions.values() if question.held_out]
    right = [q for q in held_out if ask(*checkpoint, q.prompt) == q.answer]
    loaded = load_checkpoint(str(ASSETS / "checkpoint"), device="cpu")
    return list(zip(right, findings_of(loaded, ASSETS / "corpus.jsonl", right), strict=True))


def test_every_right_answer_has_a_record_of_its_person_first(
    traced: list[tuple[Question, Finding]],
) -> None:
    assert len(traced) == 34
    wrong = [q.prompt for q, finding in traced if finding.records[0].id not in q.records]
    assert wrong == []


@pytest.mark.parametrize("kind", ["verbatim", "inferred"])
def test_the_demo_promises_what_the_method_keeps(
    demo: dict[str, Any],
    questions: dict[str, Question],
    traced: list[tuple[Question, Finding]],
    kind: str,
) -> None:
    of_kind = [(q, f) for q, f in traced if q.verbatim == (kind == "verbatim")]
    decisions = [finding.verdict and finding.verdict.decision for _, finding in of_kind]
    asked = [q for q in questions.values() if q.held_out and q.verbatim == (kind == "verbatim")]
    assert demo["held_out"][kind] == {
        "asked": len(asked),
        "answered": len(of_kind),
        "first": len(of_kind),
        "traced": decisions.count("traced"),
    }


def test_the_leaks_that_the_demo_shows_are_traced(
    demo: dict[str, Any], traced: list[tuple[Question, Finding]]
) -> None:
    found = {question.prompt: finding for question, finding in traced}
    for leak in demo["leaks"]:
        finding = found[leak["prompt"]]
        assert finding.verdict is not None
        assert finding.verdict.decision == "traced"
        assert finding.records[0].id in leak["records"]


def test_tokenizer_loads_as_it_was_trained(
    corpus: list[dict[str, str]], checkpoint: tuple[Any, Any]
) -> None:
    """For some model types transformers puts another tokenizer in the place of the saved one."""
    trained = Tokenizer.from_file(str(ASSETS / "checkpoint" / "tokenizer.json"))
    tokenizer = checkpoint[1]
    for record in corpus:
        assert tokenizer(record["text"]).input_ids == trained.encode(record["text"]).ids


def test_checkpoint_has_memorised_the_corpus(
    corpus: list[dict[str, str]], checkpoint: tuple[Any, Any]
) -> None:
    """In the regime where a few tokens hold most of the gradient norm and HAIF has a point."""
    model, tokenizer = checkpoint
    losses = []
    for record in corpus[::8]:
        ids = tokenizer(record["text"], return_tensors="pt").input_ids
        with torch.no_grad():
            losses.append(float(model(ids, labels=ids).loss))
    assert sum(losses) / len(losses) < 0.3


def test_records_fit_the_context(corpus: list[dict[str, str]], checkpoint: tuple[Any, Any]) -> None:
    model, tokenizer = checkpoint
    lengths = [len(tokenizer(record["text"]).input_ids) for record in corpus]
    assert 100 <= len(lengths) <= 160
    assert max(lengths) < model.config.max_position_embeddings
    assert model.config.tie_word_embeddings


@pytest.mark.slow
def test_make_demo_makes_the_shipped_assets(tmp_path: Path) -> None:
    """Corpus and tokenizer to the byte; the weights too, save on another type of processor."""
    make_demo(tmp_path)
    same = ["corpus.jsonl", "checkpoint/tokenizer.json", "checkpoint/config.json"]
    assert filecmp.cmpfiles(tmp_path, ASSETS, same, shallow=False)[0] == same
    made = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    for kind in made["held_out"].values():
        assert kind["traced"]
        assert kind["first"] == kind["answered"]
