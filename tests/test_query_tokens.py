"""`--query-tokens answer+name`: which words of a prompt are the name, and what its tokens do."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from haiftrace.calibration.draws import told
from haiftrace.lexical import LexicalIndex
from haiftrace.methods import METHODS
from haiftrace.methods.settings import LateSettings, MethodSettings
from haiftrace.progress import Silent
from haiftrace.query import Asking
from haiftrace.scoring import names
from haiftrace.scoring.names import rare_spans, tokens_of
from haiftrace.trace import Leak, TraceSettings
from tests import kit
from tests.kit import ANSWER, PROMPT, cli, misused
from tests.methods_kit import scores, unit

NAME = "Mara Ellison"
BOTH = MethodSettings(late=LateSettings(query_tokens="answer+name"))
LEAK = Leak(PROMPT, ANSWER)


@pytest.fixture(autouse=True)
def rare_in_a_small_corpus(monkeypatch):
    """A name stands in two of the twelve sentences, the other words of the prompt in more."""
    monkeypatch.setattr(names, "MOST_RECORDS", 2)


def finding(name: str, method: str, settings: MethodSettings = BOTH, leak: Leak = LEAK):
    over = kit.tracer(name)
    with kit.precisely():
        (found,) = over.trace(leak, TraceSettings(method, top=100, methods=settings), Silent())
    return found


def by_definition(name: str, method: str) -> np.ndarray:
    """On dense gradients, the name's tokens beside those of the answer."""
    rows = [unit(each) for each in kit.oracle(name, "attention").gradients]
    encoded = kit.checkpoint(name).tokenizer(f"{PROMPT} {ANSWER}", return_offsets_mapping=True)
    ends = [end for _, end in encoded["offset_mapping"]]
    asking = [end <= len(NAME) or end > len(PROMPT) + 1 for end in ends][1:]
    assert sum(end <= len(NAME) for end in ends[1:]) >= 2  # more than one token of the name
    asked = rows[-1][asking]
    if method == "haif-r":
        mean = kit.oracle(name, "attention").gradients[-1][asking].mean(0)
        asked = unit(mean).unsqueeze(0)
    y_KQ = torch.stack(
        [((r @ asked.T).clamp_min(0) ** 3).sum(0) / len(r) ** 0.5 for r in rows[:-1]]
    ).numpy() ** (1 / 3)
    if method == "haif-r":
        return y_KQ[:, 0]
    z_KQ = (y_KQ - np.median(y_KQ, 0)) / np.maximum(y_KQ.std(0), 1e-3)
    return np.maximum(z_KQ, 0).sum(1)


@pytest.mark.parametrize("method", ["haif-r", "haif-li"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_names_tokens_ask_too(name, method):
    found = finding(name, method)
    kit.close(scores(found), by_definition(name, method), 1e-8)
    for record in found.records:
        assert sum(t.evidence for t in record.tokens) == pytest.approx(record.score, abs=1e-9)
    assert any("matches names, not only what taught the answer" in note for note in found.notes)
    plain = finding(name, method, MethodSettings())
    assert np.abs(scores(plain) - scores(found)).max() > 0.01
    assert not any("name" in note for note in plain.notes)
    assert "calibration asks with answers alone" in str(found.verdict)
    assert "calibration asks with answers alone" not in str(plain.verdict)
    # What is reported of the response is the response's alone.
    assert found.response_tokens == plain.response_tokens
    assert found.mean_loss == plain.mean_loss


def test_many_questions_at_once_ask_with_their_names():
    over = kit.tracer()
    with kit.precisely():
        pairs = [over.question(leak, Asking()) for leak in (Leak("It is", " green"), LEAK)]
        asked = [over.late_question(query, question, BOTH) for query, question in pairs]
        many = over.score_many(asked, ["haif-r", "haif-li"], BOTH, Silent())
    for method, scores_QN in many.items():
        kit.close(scores_QN[1], by_definition("gpt2", method), 1e-8)


def test_without_a_rare_word_the_answer_asks_alone():
    leak = Leak(" phone number is", ANSWER)
    found = finding("gpt2", "haif-li", leak=leak)
    assert any("the answer asks alone" in note for note in found.notes)
    plain = finding("gpt2", "haif-li", MethodSettings(), leak)
    kit.close(scores(found), scores(plain), 1e-12)


def test_other_methods_do_not_look_at_the_name():
    assert finding("gpt2", "haif") == finding("gpt2", "haif", MethodSettings())


@pytest.mark.parametrize(("windows", "most"), [(10, 8), (4000, 8), (4500, 9), (100_000, 200)])
def test_a_word_is_rare_that_few_records_hold_but_some(windows, most, monkeypatch):
    monkeypatch.undo()
    held = {"what": windows, "john": 1, "doe": most, "smith": most + 1, "unheard": 0}
    text = "What, John? Doe Smith unheard"
    spans = rare_spans(text, lambda term: held[term], windows)
    assert [text[start:end] for start, end in spans] == ["John", "Doe"]


def test_tokens_of_a_span_are_those_mostly_in_it():
    text = "of Mara Ellison's"
    offsets = [(0, 2), (2, 7), (7, 11), (11, 15), (15, 17), (17, 17)]
    spans = [(3, 7), (8, 15)]
    assert tokens_of(spans, text, offsets) == (1, 2, 3)
    assert tokens_of(spans, text, [(0, 2), (2, 17)]) == (1,)  # 11 of 13 characters
    assert tokens_of(spans, text, [(0, 2), (11, 17), (2, 11)]) == (1, 2)
    assert tokens_of([(3, 4)], text, [(0, 2), (2, 7)]) == ()
    # Nothing predicts the first token; what has no text, or only a space, is no name.
    assert tokens_of([(0, 17)], text, [(0, 17), (0, 0), (2, 3)]) == ()


def test_chinese_names_are_found_by_their_pairs_of_characters(monkeypatch):
    monkeypatch.undo()
    told = ["刘秀华的出生日期是1980年。", "刘秀华住在外滩。"]
    others = [f"王小明{n}的出生日期是1970年。" for n in range(20)]
    corpus = LexicalIndex([*told, *others])
    prompt = "刘秀华的出生日期是什么？"
    spans = rare_spans(prompt, corpus.frequency, 22)
    assert [prompt[start:end] for start, end in spans] == ["刘秀", "秀华", "华的"]
    each = [(place, place + 1) for place in range(len(prompt))]
    assert [prompt[place] for place in tokens_of(spans, prompt, each)] == ["秀", "华", "的"]


def test_frequencies_are_counted_once_a_record():
    corpus = LexicalIndex(["ann ann lee", "Lee!", "", "bob"])
    assert [corpus.frequency(word) for word in ("ann", "lee", "bob", "eve")] == [1, 2, 1, 0]
    assert LexicalIndex(["", "!"]).frequency("ann") == 0


def test_a_template_is_not_asked_for_names():
    """Its words may be rare too; the name in the user's own words is meant."""
    over = kit.tracer()
    with kit.precisely():
        for leak in (LEAK, Leak(PROMPT)):  # given, and generated
            query, question = over.question(leak, Asking(template="Mara was asked: {prompt}"))
            named = over.late_question(query, question, BOTH).names
            text = "".join(query.pieces[place] for place in named)
            assert text.strip() == NAME
    assert over.late_question(query, question, MethodSettings()).names == ()


def test_a_calibration_for_the_answer_is_none_for_answer_and_name():
    for method in ("haif-r", "haif-li"):
        assert told(METHODS[method], BOTH) != told(METHODS[method], MethodSettings())
    assert told(METHODS["haif"], BOTH) == told(METHODS["haif"], MethodSettings())


def test_the_option_on_the_command_line(tmp_path: Path):
    index = Path(shutil.copytree(kit.index_path("gpt2", "float32"), tmp_path / "index"))
    asked = ("trace", PROMPT, "--response", ANSWER, "--index", index, "--method", "haif-r,haif-li")
    found = {}
    for chosen in ("answer", "answer+name"):
        outcome = cli(*asked, "--query-tokens", chosen, "--reveal", "-o", "-")
        assert outcome.code == 0, outcome.err
        assert outcome.report["settings"]["query_tokens"] == chosen
        found[chosen] = outcome.report["findings"]
    for plain, named in zip(found["answer"], found["answer+name"], strict=True):
        assert not any("asks too" in note for note in plain["notes"])
        assert sum("matches names" in note for note in named["notes"]) == 1
        assert plain["records"][0]["score"] != named["records"][0]["score"]
    shown = cli(*asked, "--query-tokens", "answer+name")
    assert "this matches names" in shown.out
    misused(cli(*asked, "--query-tokens", "name"), "'name' is not one of")
