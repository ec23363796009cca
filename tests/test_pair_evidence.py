"""Which word of the answer was taught by which word of the record, against dense gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from haiftrace.evidence import MOST_PAIRS, word_pairs
from haiftrace.methods import find_methods
from haiftrace.methods.settings import LateSettings, MethodSettings
from haiftrace.progress import Silent
from haiftrace.query import Asking
from haiftrace.scopes import select_parameters
from haiftrace.scoring.best import Scored, Tally
from haiftrace.scoring.late import LateScorer, LateSearch
from haiftrace.trace import Leak, TraceSettings
from tests import kit
from tests.kit import ANSWER, PROMPT
from tests.methods_kit import unit
from tests.oracle import Oracle
from tests.tiny_models import SENTENCES

POWER = 3.0
LEAK = Leak(PROMPT, ANSWER)


def asked_rows(name, method, scope):
    """The query's unit gradients [Q, P], and the positions of its tokens."""
    encoded = kit.checkpoint(name).tokenizer(f"{PROMPT} {ANSWER}", return_offsets_mapping=True)
    wanted = [end > len(PROMPT) + 1 for _, end in encoded["offset_mapping"]][1:]
    if method == "haif-r":
        return unit(kit.answer_gradient(name, scope)).unsqueeze(0), [None]
    gradients = kit.oracle(name, scope).gradients[-1][wanted]
    rows = unit(gradients)
    if method == "haif-rli":
        whole = unit(kit.answer_gradient(name, scope)).unsqueeze(0)
        rows = torch.cat([whole, rows]), gradients.norm(dim=1).tolist()
    return rows, [place for place, is_wanted in enumerate(wanted, 1) if is_wanted]


def dense_pairs(method, records, asked):
    """[Q, m] of each record, by the definition, pair for pair; records [m, P] of unit rows."""
    if method == "haif-rli":
        return pairs_with_whole(records, asked)
    met, y = [], []
    for rows in records:
        c = [[max(0.0, float(q @ g)) ** POWER for g in rows] for q in asked]
        met.append(c)
        y.append([(sum(row) / len(rows) ** 0.5) ** (1 / POWER) for row in c])
    shares = np.array(y)
    if method == "haif-li":
        spread = np.maximum(shares.std(0), 1e-3)
        shares = np.maximum((shares - np.median(shares, 0)) / spread, 0)
    return [
        np.array(
            [[share * x / (sum(row) or 1.0) for x in row] for row, share in zip(c, of, strict=True)]
        )
        for c, of in zip(met, shares, strict=True)
    ]


def pairs_with_whole(records, asked):
    """Half of HAIF-RLI's score by the tokens' pairs, half by the whole's: v is a sum over tokens,
    and so is its cosine with a label, whose positive terms divide what that label adds."""
    (whole, *tokens), norms = asked
    alone = dense_pairs("haif-r", records, [whole])
    each = dense_pairs("haif-li", records, tokens)
    found = []
    for rows, of_whole, of_tokens in zip(records, alone, each, strict=True):
        score = math.sqrt(of_whole.sum() * of_tokens.sum())
        pairs = np.zeros(of_tokens.shape)
        for j, row in enumerate(rows):
            terms = [max(0.0, n * float(q @ row)) for q, n in zip(tokens, norms, strict=True)]
            for i, term in enumerate(terms):
                if score and any(terms):
                    pairs[i, j] = score / 2 * of_tokens[i, j] / of_tokens.sum()
                    pairs[i, j] += score / 2 * of_whole[0, j] / of_whole.sum() * term / sum(terms)
        found.append(pairs)
    return found


def all_scored(over, method, scope="attention"):
    """Every record's best window as the scorer gives it, and the query."""
    (late,) = find_methods(method)
    with kit.precisely():
        query, question = over.question(LEAK, Asking())
        settings = LateSettings(scope=scope)
        scorer = LateScorer(over.index, over.engine_over(scope), settings, 512 << 20)
        tally = Tally(100)
        scorer.trace(late, [LateSearch(question, range(len(over.index)), tally)], 100, Silent())
    return tally.result(), query


@pytest.mark.parametrize("method", ["haif-r", "haif-li", "haif-rli"])
@pytest.mark.parametrize(
    ("name", "scope"), [("gpt2", "attention"), ("gpt2", "value"), ("llama", "attention")]
)
def test_every_pair_is_that_of_the_definition_and_they_sum_to_the_score(name, scope, method):
    asked, positions = asked_rows(name, method, scope)
    records = [unit(rows) for rows in kit.oracle(name, scope).gradients[:-1]]
    right = dense_pairs(method, records, asked)
    found, query = all_scored(kit.tracer(name), method, scope)
    assert len(found) == len(SENTENCES)
    assert positions == [None] or [query.labels[p] for p in positions] == [True] * len(positions)
    size = max(float(pairs.sum()) for pairs in right)
    for one in found:
        assert list(one.pairs) == positions
        pairs_QT = np.stack(list(one.pairs.values()))
        expected = right[int(one.window.id[1:])]
        assert not pairs_QT[:, 0].any()  # the first token is no label
        assert np.abs(pairs_QT[:, 1:] - expected).max() <= 1e-9 * size
        assert pairs_QT.sum() == pytest.approx(one.score, abs=1e-9 * size)
        np.testing.assert_allclose(pairs_QT.sum(0), one.evidence, rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize("method", ["haif-r", "haif-li", "haif-rli"])
def test_positions_in_a_record_of_several_windows_are_those_of_the_record(method):
    over = kit.tracer(context=8)
    asked, _ = asked_rows("gpt2", method, "attention")
    found, query = all_scored(over, method)
    model = kit.checkpoint().model
    windows = list(over.index.iter_windows())
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    try:
        with kit.precisely():
            whole = Oracle.of(model, [window.token_ids for window in windows])
    finally:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    gradients = whole.over(select_parameters(model, "attention")).gradients
    labels = [torch.tensor(window.labels) for window in windows]
    rows = [unit(g)[label[1:]] for g, label in zip(gradients, labels, strict=True)]
    right = dense_pairs(method, rows, asked)
    assert any(one.window.start > 0 for one in found)
    size = max(float(pairs.sum()) for pairs in right)
    for one in found:
        pairs_QT = np.stack(list(one.pairs.values()))
        label = np.array(one.window.labels)
        assert np.abs(pairs_QT[:, label] - right[one.window.row]).max() <= 1e-9 * size
        assert not pairs_QT[:, ~label].any()
        at = dict(enumerate(one.window.offsets, one.window.start))
        ids = kit.checkpoint().tokenizer(SENTENCES[int(one.window.id[1:])])["input_ids"]
        for pair in word_pairs(one, query):
            first, last = (at[p] for p in (pair.record_positions[0], pair.record_positions[-1]))
            assert one.window.text[first[0] : last[1]].strip() == pair.record_text.strip()
            assert one.window.text[pair.start : pair.end] == pair.record_text
            spelled = kit.checkpoint().tokenizer.decode([ids[p] for p in pair.record_positions])
            assert spelled.strip() == pair.record_text.strip()


@pytest.mark.parametrize("method", ["haif-r", "haif-li", "haif-rli"])
def test_words_pair_as_their_pieces_do_together(method):
    found, query = all_scored(kit.tracer(), method)
    for one in found:
        pairs = word_pairs(one, query)
        assert math.fsum(p.evidence for p in pairs) == pytest.approx(one.score, abs=1e-12)
        assert [p.evidence for p in pairs] == sorted((p.evidence for p in pairs), reverse=True)
        for pair in pairs:
            rows = pair.response_positions or (None,)
            pieces = [
                one.pairs[q][p - one.window.start] for q in rows for p in pair.record_positions
            ]
            assert pair.evidence == pytest.approx(sum(pieces), rel=1e-12)
            assert len(pair.record_text.split()) <= 1  # a token of white space is a word of its own
        if method == "haif-r":
            assert {(p.response_text, p.response_positions) for p in pairs} == {
                ("", ())
            } or not pairs
        else:
            assert {p.response_text for p in pairs} <= {ANSWER}


def test_a_finding_holds_the_strongest_pairs_of_late_interaction_only():
    with kit.precisely():
        late, plain = kit.tracer().trace(
            LEAK, TraceSettings("haif-li,haif", top=3, methods=MethodSettings()), Silent()
        )
    found, query = all_scored(kit.tracer(), "haif-li")
    for record, one in zip(late.records, found, strict=False):
        assert 0 < len(record.pairs) <= MOST_PAIRS
        right = word_pairs(one, query)[:MOST_PAIRS]
        assert [replace(p, evidence=0.0) for p in record.pairs] == [
            replace(p, evidence=0.0) for p in right
        ]
        size = [p.evidence for p in right]
        assert [p.evidence for p in record.pairs] == pytest.approx(size, rel=1e-9)
        told = {token.position for token in late.response_tokens}
        assert all(set(pair.response_positions) <= told for pair in record.pairs)
    assert late.records[0].id == "r1"
    assert late.records[0].pairs[0].response_text == ANSWER
    assert all(record.pairs == () for record in plain.records)


def scored(text, offsets, pairs, start=0):
    """Pairs made by hand, over a window of these tokens."""
    window = SimpleNamespace(text=text, offsets=offsets, start=start)
    total = np.sum(list(pairs.values()), 0)
    return Scored(window, float(total.sum()), None, total, pairs)


def test_pieces_and_special_tokens_by_hand():
    text = "Ann moved on Halloween."
    offsets = [(0, 0), (0, 3), (3, 9), (9, 12), (12, 18), (18, 22), (22, 23)]
    query = SimpleNamespace(
        text="When? October 31",
        offsets=[(0, 4), (4, 5), (5, 9), (9, 13), (13, 16)],
    )
    pairs = {
        2: np.array([0.0, 0.5, 0.0, 0.0, 2.0, 1.0, 0.0]),
        3: np.array([0.25, 0.0, 0.0, 0.0, 1.0, 0.0, 0.5]),
        4: np.array([0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0]),
    }
    found = word_pairs(scored(text, offsets, pairs, start=40), query)
    shown = [(p.response_text, p.record_text, p.evidence) for p in found]
    assert shown == [
        ("October", "Halloween.", 4.5),
        ("31", "Halloween.", 3.0),
        ("October", "Ann", 0.5),
        ("October", "", 0.25),
    ]
    best, special = found[0], found[-1]
    assert (best.response_positions, best.record_positions) == ((2, 3), (44, 45, 46))
    assert text[best.start : best.end] == "Halloween."
    assert (special.record_positions, special.start, special.end) == ((40,), 0, 0)
    as_one = word_pairs(scored(text, offsets, {None: pairs[2]}), query)
    assert [(p.response_text, p.response_positions) for p in as_one] == [("", ())] * 2
    assert word_pairs(Scored(SimpleNamespace(), 1.0, None, np.ones(1)), query) == []
