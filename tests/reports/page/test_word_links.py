"""Words of the answer and of the records, and which belongs to which."""

from __future__ import annotations

from dataclasses import replace

from haiftrace.findings import PairEvidence, ResponseToken
from haiftrace.reports.page.word_links import answer_words, record_links, strong_pairs
from tests.reports.finding_samples import english_finding, paired_finding


def words_of(finding) -> list[str]:
    words = answer_words(finding, finding.records)
    return [finding.response[word.start : word.end] for word in words]


def test_answer_words_stand_in_the_answers_order() -> None:
    assert words_of(paired_finding()) == ["phone", "555-0134"]
    assert words_of(english_finding()) == []


def test_a_record_word_names_what_it_taught_and_how_strongly() -> None:
    finding = paired_finding()
    words = answer_words(finding, finding.records)
    record = finding.records[0]
    links = {
        record.text[start : start + 5]: link for start, link in record_links(record, words).items()
    }
    # "phone:" taught both words, each a little; the number itself most of all.
    assert links == {"555-0": "1:3", "phone": "1:2 0:2", "by ph"[:5]: "1:1", "reach": "1:1"}


def test_pairs_near_nothing_light_up_nothing() -> None:
    record = paired_finding().records[0]
    weak = PairEvidence("is", (39,), "children", (30,), 150, 158, record.score * 1e-6)
    against = PairEvidence("is", (39,), "children", (30,), 150, 158, -record.score)
    assert strong_pairs(replace(record, pairs=(*record.pairs, weak, against))) == [
        pair for pair in record.pairs if pair.evidence >= 0.05 * record.pairs[0].evidence
    ]


def test_places_come_from_the_tokens_where_a_word_stands_twice() -> None:
    tokens = (ResponseToken(5, 1, " one", 0.1), ResponseToken(6, 2, " one", 0.1))
    record = replace(
        english_finding().records[0],
        pairs=(PairEvidence("one", (6,), "John", (0,), 0, 4, 0.5),),
    )
    finding = english_finding(
        response="Say one one", span="one one", response_tokens=tokens, records=(record,)
    )
    (word,) = answer_words(finding, finding.records)
    assert (word.start, word.end) == (8, 11)
    unknown = replace(finding, response_tokens=())
    assert answer_words(unknown, unknown.records) == []
