"""BM25 against its formula, and how a score is distributed over tokens."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from haiftrace.text.bm25 import LexicalIndex
from haiftrace.text.terms import terms
from tests.text.strategies import CHARACTERS, texts_of

WORDS = st.lists(st.sampled_from(["ann", "lee", "phone", "is", "555", "0142", "of"]), max_size=12)
"""Words, so that splitting at spaces is all that an oracle needs to find the terms."""


def by_formula(query: list[str], records: list[list[str]]) -> np.ndarray:
    """[N] BM25 as it is written down, for records and a query given as words."""
    mean = sum(map(len, records)) / len(records)
    scores = []
    for record in records:
        score = 0.0
        for word in query:
            holding = sum(word in other for other in records)
            frequency = record.count(word)
            if frequency:
                idf = math.log(1 + (len(records) - holding + 0.5) / (holding + 0.5))
                length = 1 - 0.75 + 0.75 * len(record) / mean
                score += idf * frequency / (frequency + 1.2 * length)
        scores.append(score)
    return np.array(scores)


# Scores


@given(records=st.lists(WORDS, min_size=1, max_size=8), query=WORDS)
def test_scores_are_those_of_the_formula(records, query):
    got = LexicalIndex(map(" ".join, records)).scores(" ".join([*query, "unheard"]))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, by_formula(query, records), rtol=1e-12, atol=0)


@given(texts=st.lists(CHARACTERS, min_size=1, max_size=5), query=CHARACTERS)
def test_scores_of_any_text_are_those_of_its_terms(texts, query):
    right = by_formula(texts_of(query), [texts_of(text) for text in texts])
    np.testing.assert_allclose(LexicalIndex(texts).scores(query), right, rtol=1e-12, atol=0)


def test_a_repeated_word_of_the_query_counts_each_time():
    index = LexicalIndex(["ann lee", "lee"])
    once, twice = index.scores("ann lee"), index.scores("Ann lee ANN")
    np.testing.assert_allclose(twice, once + index.scores("ann"), rtol=1e-12)
    assert twice[0] > once[0]


@pytest.mark.parametrize("query", ["", "?!", " \u200d\u0301", "unheard"])
@pytest.mark.parametrize("texts", [["ann"], ["", "ann lee"], ["", "..."], []])
def test_a_query_that_matches_nothing_scores_zero(query, texts):
    index = LexicalIndex(texts)
    np.testing.assert_array_equal(index.scores(query), np.zeros(len(texts)))
    for row, text in enumerate(texts):
        spans = [(i, i + 1) for i in range(len(text))]
        assert not index.evidence(query, row, text, spans).any()


def test_no_word_counts_against_a_record():
    """Not even one that stands in every record, as it may in other variants."""
    assert LexicalIndex(["ann"]).scores("ann")[0] > 0
    scores = LexicalIndex(["ann lee", "ann", "ann is"]).scores("ann")
    assert (scores > 0).all()


def test_texts_are_read_once_in_order():
    texts = iter(["lee", "ann", "is"])
    index = LexicalIndex(texts)
    assert next(texts, None) is None
    assert [index.scores(word).argmax() for word in ("lee", "ann", "is")] == [0, 1, 2]


def test_the_library_is_silent(capfd, caplog):
    with caplog.at_level(logging.DEBUG):
        LexicalIndex(["ann lee"] * 50).scores("ann")
    assert capfd.readouterr() == ("", "")
    assert not [r for r in caplog.records if r.name.startswith("bm25s")]


def test_importing_the_module_leaves_the_library_alone():
    code = "import haiftrace.text.bm25, sys; sys.exit('bm25s' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# The record that holds the answer

RECORDS = [
    "Mara Ellison was born in Leeds. Her telephone number is +44 (0) 555-0142.",
    "Jörg Straßer writes from joerg.strasser@mail.example.org, or calls 555 0199.",
    "张伟，1990年3月5日出生于北京市海淀区，电话13800138000。",
    "张娜住在上海市浦东新区，邮箱是zhangna@example.com。",
    "山田花子さんは東京タワーの近くに住んでいます。",
    "김민준의 전화번호는 010-5550-1234 입니다.",
    "Of the telephone, the number and the birth nothing is known here.",
]


@pytest.mark.parametrize(
    ("answer", "row"),
    [
        ("Her telephone number is +44 (0) 555-0142.", 0),
        ("555.0142", 0),
        ("MARA ELLISON", 0),
        ("joerg.strasser@mail.example.org", 1),
        ("JÖRG STRASSER", 1),
        ("Jo\u0308rg Stra\u00dfer", 1),
        ("13800138000", 2),
        ("１３８００１３８０００", 2),
        ("北京市海淀区", 2),
        ("张伟", 2),
        ("张娜的邮箱", 3),
        ("zhangna", 3),
        ("東京ﾀﾜｰ", 4),
        ("山田花子", 4),
        (unicodedata.normalize("NFD", "김민준"), 5),
        ("010-5550-1234", 5),
    ],
)
def test_the_record_with_the_answer_is_first(answer, row):
    scores = LexicalIndex(RECORDS).scores(answer)
    assert scores.argmax() == row
    assert np.sort(scores)[-2] < scores[row]


# Evidence


def evidence_slowly(index, query, row, text, spans) -> np.ndarray:
    """The rule as it is written down, character by character."""
    evidence = np.zeros(len(spans))
    for word in set(texts_of(query)):
        contribution = index.scores(word)[row] * texts_of(query).count(word)
        places = [t for t in terms(text) if t.text == word]
        covers = [
            [i for i in range(t.start, t.end) if any(a <= i < b for a, b in spans)] for t in places
        ]
        covers = [characters for characters in covers if characters]
        for characters in covers:
            for i in characters:
                holders = [j for j, (a, b) in enumerate(spans) if a <= i < b]
                for j in holders:
                    evidence[j] += contribution / len(covers) / len(characters) / len(holders)
    total = evidence.sum()
    return evidence * (index.scores(query)[row] / total) if total else evidence


@st.composite
def spans_in(draw, text: str) -> list[tuple[int, int]]:
    """Spans of tokens as any tokenizer might give them: gaps, overlaps, none."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    spans = list(pairwise(cuts))
    ends = st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))
    spans += [(min(pair), max(pair)) for pair in draw(st.lists(ends, max_size=3))]
    return [*spans, (0, 0)]


@given(data=st.data(), records=st.lists(WORDS, min_size=1, max_size=4), query=WORDS)
def test_evidence_follows_the_rule_and_sums_to_the_score(data, records, query):
    texts = [", ".join(record) for record in records]
    row = data.draw(st.integers(0, len(texts) - 1))
    spans = data.draw(spans_in(texts[row]))
    index, words = LexicalIndex(texts), " ".join(query)
    got = index.evidence(words, row, texts[row], spans)
    assert got.shape == (len(spans),)
    assert got.dtype == np.float64
    assert (got >= 0).all()
    slow = evidence_slowly(index, words, row, texts[row], spans)
    assume(slow.any())  # otherwise no occurrence is covered: the tests below
    np.testing.assert_allclose(got, slow, rtol=1e-9, atol=1e-12)
    assert got.sum() == pytest.approx(index.scores(words)[row], rel=1e-9)


@given(data=st.data(), texts=st.lists(CHARACTERS, min_size=1, max_size=4), query=CHARACTERS)
def test_evidence_sums_to_the_score_of_any_text(data, texts, query):
    row = data.draw(st.integers(0, len(texts) - 1))
    spans = data.draw(spans_in(texts[row]))
    index = LexicalIndex(texts)
    evidence = index.evidence(query, row, texts[row], spans)
    total = index.scores(query)[row] if any(a < b for a, b in spans) else 0.0
    assert evidence.sum() == pytest.approx(total, rel=1e-9)


def test_a_terms_score_is_divided_equally_among_its_occurrences():
    text = "ann, ann lee"
    index = LexicalIndex([text, "is"])
    evidence = index.evidence("ann lee", 0, text, [(0, 3), (3, 4), (4, 8), (8, 12)])
    ann, lee = (index.scores(word)[0] for word in ("ann", "lee"))
    np.testing.assert_allclose(evidence, [ann / 2, 0, ann / 2, lee], rtol=1e-12)


def test_an_occurrences_score_is_divided_by_the_characters_that_tokens_cover():
    text = "is 555-0142"
    index = LexicalIndex([text])
    spans = [(0, 2), (2, 5), (5, 8), (8, 11), (0, 0)]  # "is", " 55", "5-0", "142"
    score = index.scores("555")[0]
    evidence = index.evidence("555-0142", 0, text, spans)
    np.testing.assert_allclose(
        evidence, np.array([0, 2 / 3, 1 / 3 + 1 / 4, 3 / 4, 0]) * score, rtol=1e-12
    )


def test_byte_pieces_divide_the_score_of_their_character():
    text = "张伟 Ann"
    index = LexicalIndex([text])
    spans = [(0, 1), (0, 1), (0, 1), (1, 2), (3, 6)]
    score = index.scores("张伟")[0]
    evidence = index.evidence("张伟", 0, text, spans)
    np.testing.assert_allclose(evidence, np.array([1, 1, 1, 3, 0]) * score / 6, rtol=1e-12)


def test_bigrams_overlap():
    text = "北京市"
    index = LexicalIndex([text])
    evidence = index.evidence("北京市", 0, text, [(0, 1), (1, 2), (2, 3)])
    score = index.scores("北京市")[0]
    np.testing.assert_allclose(evidence, np.array([1, 2, 1]) / 4 * score, rtol=1e-12)


def test_what_no_token_covers_goes_to_the_others():
    text = "ann ann lee is"
    index = LexicalIndex([text, "is"])
    score, ann, lee = (index.scores(query)[0] for query in ("ann lee", "ann", "lee"))
    # One of two occurrences; a term without any; no occurrence at all; no token with text.
    got = index.evidence("ann lee", 0, text, [(4, 7), (8, 11)])
    np.testing.assert_allclose(got, [ann, lee], rtol=1e-12)
    got = index.evidence("ann lee", 0, text, [(4, 7), (12, 14)])
    np.testing.assert_allclose(got, [score, 0], rtol=1e-12)
    got = index.evidence("ann lee", 0, text, [(11, 12), (12, 14)])
    np.testing.assert_allclose(got, [score / 3, 2 * score / 3], rtol=1e-12)
    assert index.evidence("ann lee", 0, text, [(0, 0)]).tolist() == [0]
    assert index.evidence("ann lee", 0, text, []).shape == (0,)


def test_a_text_that_is_not_the_rows():
    index = LexicalIndex(["ann lee", "is"])
    with pytest.raises(ValueError, match="not the one that the row was built from") as caught:
        index.evidence("ann", 0, "is", [(0, 2)])
    assert "ann" not in str(caught.value)


@pytest.mark.parametrize("span", [(0, 8), (-1, 3), (3, 2)])
def test_a_span_that_is_not_in_the_text(span):
    with pytest.raises(ValueError, match="not in the text"):
        LexicalIndex(["ann lee"]).evidence("ann", 0, "ann lee", [span])
