"""Masked reports: no field spells a private value, and every offset still holds."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, fields, replace

from hypothesis import given
from hypothesis import strategies as st

from haiftrace.findings import (
    PairEvidence,
    PrivateValue,
    Probe,
    RecordEvidence,
    ResponseToken,
    Source,
    TokenEvidence,
    Verdict,
)
from haiftrace.privacy import MASK, ValueIndex, mask_report
from haiftrace.text.words import group_words
from tests.reports.finding_samples import english_finding
from tests.reports.record_samples import ENGLISH, record_of
from tests.reports.report_samples import report_of

PHONE = "555-123-4501"
FORMATS = (
    "555-123-4501",
    "(555) 123 4501",
    "5551234501",
    "５５５１２３４５０１",
    "+1 555.123.4501",
)


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from strings(key)
            yield from strings(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from strings(one)


def every_pair(response, cut, record):
    """All pairs of words of a response, cut into tokens, and of a record, as evidence has them."""
    ends = [sum(map(len, cut[: i + 1])) for i in range(len(cut))]
    places = [(end - len(piece), end) for end, piece in zip(ends, cut, strict=True)]
    response_words = [
        (response[word.start : word.end], word.tokens)
        for word in group_words(response, places)
        if word.start < word.end
    ]
    record_words = group_words(record.text, [(t.start, t.end) for t in record.tokens])
    return tuple(
        PairEvidence(
            text,
            positions,
            record.text[word.start : word.end],
            word.tokens,
            word.start,
            word.end,
            0.01,
        )
        for text, positions in response_words
        for word in record_words
    )


def leaking(value=PHONE, **more):
    text = f"Mara's phone is {value}, she said."
    pieces, at = [], 0
    while at < len(text):
        pieces.append((at, min(at + 3, len(text))))
        at += 3
    tokens = tuple(
        TokenEvidence(i, 100 + i, text[a:b], a, b, 0.1, 1.0, 0.01)
        for i, (a, b) in enumerate(pieces)
    )
    record = RecordEvidence(
        1,
        f"r-{value}",
        Source(f"data/{value}.jsonl", 3),
        0.1,
        0.1,
        text,
        tokens,
        content_hash="ab" * 32,
        layers=(0.06, 0.0, 0.04),
    )
    response = f"It is {value}."
    cut = [response[i : i + 2] for i in range(0, len(response), 2)]
    record = replace(record, pairs=every_pair(response, cut, record))
    values = {
        "prompt": f"Whose number is {value}?",
        "response": response,
        "records": (record,),
        "response_tokens": tuple(ResponseToken(i, i, p, 0.1) for i, p in enumerate(cut)),
        "span": value,
        "notes": (f"a note on {value}",),
        "verdict": Verdict("inconclusive", 0.01, reasons=(f"because of {value}",)),
        "probe": Probe(f"ask-{value}", "probes.jsonl", 1, (PrivateValue("phone", PHONE),)),
        "leaked": (PrivateValue("phone", value),),
        "kind": "verbatim",
        "fingerprint": "ht1:" + "5551234501" + "0" * 22,
        "suppressed": f"known number {value}",
    }
    return english_finding(**(values | more))


def test_no_text_of_a_report_spells_the_value_in_any_format():
    for value in FORMATS:
        report = report_of(leaking(value))
        report = replace(
            report, command=f"haiftrace trace '{value}'", settings={"stop": value, "top": 5}
        )
        masked = mask_report(report)
        assert masked.masked
        index = ValueIndex([PHONE])
        finding = masked.findings[0]
        for text in strings(asdict(replace(finding, fingerprint=None))):
            assert not index.find(text), text
        for text in strings([masked.command, masked.settings, masked.model.path]):
            assert not index.find(text), text
        (record,) = finding.records
        for joined in (
            "".join(t.text for t in record.tokens),
            "".join(t.text for t in finding.response_tokens),
        ):
            assert not index.find(joined)
        assert finding.fingerprint == report.findings[0].fingerprint
        assert record.content_hash is None
        assert finding.span in finding.response


def test_tokens_of_a_value_have_no_id_and_all_offsets_hold():
    report = report_of(leaking())
    (old,), (new,) = report.findings[0].records, mask_report(report).findings[0].records
    assert len(new.text) == len(old.text)
    start = old.text.index(PHONE)
    for before, after in zip(old.tokens, new.tokens, strict=True):
        assert after.text == new.text[after.start : after.end]
        inside = before.start < start + len(PHONE) and start < before.end
        assert (after.token_id is None) == inside
        assert replace(after, text="", token_id=0) == replace(before, text="", token_id=0)


def test_the_evidence_of_layers_stays_as_it_is_and_holds_no_text():
    report = report_of(leaking())
    (old,), (new,) = report.findings[0].records, mask_report(report).findings[0].records
    assert new.layers == old.layers == (0.06, 0.0, 0.04)


def test_a_word_of_a_pair_looks_as_it_does_where_it_stands():
    report = report_of(leaking())
    (old,), (new,) = report.findings[0].records, mask_report(report).findings[0].records
    shown = {(pair.response_text, pair.record_text) for pair in new.pairs}
    assert ("5••-•••-••01.", "5••-•••-••01,") in shown
    assert ("It", "Mara's") in shown
    tokens = mask_report(report).findings[0].response_tokens
    for before, after in zip(old.pairs, new.pairs, strict=True):
        assert after.record_text == new.text[after.start : after.end]
        spelled = "".join(tokens[place].text for place in after.response_positions)
        assert spelled.strip() == after.response_text
        assert (MASK in after.response_text) == ("5" in before.response_text)
        assert replace(after, response_text="", record_text="") == replace(
            before, response_text="", record_text=""
        )


def test_words_of_a_value_of_several_are_hidden_in_pairs_too():
    secret = "marine engineer"
    text = "Ana is a marine engineer there."
    tokens = tuple(
        TokenEvidence(i, i, text[a:b], a, b, 0.1, 1.0, 0.01)
        for i, (a, b) in enumerate([(0, 3), (3, 6), (6, 8), (8, 15), (15, 18), (18, 24), (24, 31)])
    )
    record = RecordEvidence(1, "r", Source("d.jsonl", 1), 0.1, None, text, tokens)
    response = "A marine engineer"
    cut = ["A", " mar", "ine", " engineer"]
    record = replace(record, pairs=every_pair(response, cut, record))
    said = tuple(ResponseToken(i, i, piece, 0.1) for i, piece in enumerate(cut))
    finding = english_finding(
        prompt="Who?", response=response, response_tokens=said, span=None, records=(record,)
    )
    (new,) = mask_report(report_of(finding), [secret]).findings[0].records
    assert {pair.response_text for pair in new.pairs} == {"A", "m•••••", "••••••er"}
    assert {p.record_text for p in new.pairs} >= {"m•••••", "••••••er", "Ana", "there."}


def test_a_pair_that_does_not_fit_its_tokens_shows_nothing_of_a_value():
    """Pieces of one character overlap, and a stop text may be cut off behind a response's token."""
    finding = leaking()
    (record,) = finding.records
    said = next(p for p in record.pairs if PHONE in p.response_text)
    odd = (
        replace(said, response_text="555-123-45"),  # its tokens spell more
        replace(said, response_text="4501", response_positions=(99,)),  # of which no token is known
        replace(said, record_text="123", start=0, end=0),
        replace(said, response_text="Mara", response_positions=(0,)),
    )
    finding = replace(finding, records=(replace(record, pairs=odd),))
    (new,) = mask_report(report_of(finding)).findings[0].records
    assert [pair.response_text for pair in new.pairs[:2]] == ["•" * 10, "••••"]
    assert new.pairs[2].record_text == "•••"
    assert new.pairs[3].response_text == "Mara"


def test_the_values_of_any_probe_are_hidden_in_every_finding():
    other = english_finding(records=(record_of(ENGLISH),))
    secret = "marine engineer"
    masked = mask_report(report_of(leaking(), other), [secret])
    for text in strings(asdict(masked.findings[1])):
        assert secret not in text
    assert "555-0134" not in "".join(strings(asdict(masked.findings[1])))  # found by a detector


@dataclass(frozen=True)
class Link:
    said: str
    taught: str
    taught_token_id: int | None
    evidence: float


@dataclass(frozen=True)
class Richer(RecordEvidence):
    links: tuple[Link, ...] = ()


def test_a_further_tuple_of_small_texts_is_masked_without_being_named():
    finding = leaking()
    record = finding.records[0]
    known = {f.name: getattr(record, f.name) for f in fields(record)}
    richer = Richer(**known, links=(Link("12", "45", 7, 0.5), Link(" is", "Mar", 8, 0.1)))
    (new,) = mask_report(report_of(replace(finding, records=(richer,)))).findings[0].records
    assert new.links == (Link("••", "••", None, 0.5), Link(" is", "Mar", 8, 0.1))


@given(
    st.text(alphabet="abc 123-\n", max_size=30),
    st.lists(st.text(alphabet="abc123-", min_size=1, max_size=12), min_size=1, max_size=3),
    st.integers(0, 2**32),
)
def test_no_value_survives_in_records_whatever_the_tokens(text, values, seed):
    cuts = random.Random(seed)
    pieces, at = [], 0
    whole = f"{text} {values[0]} {text}"
    while at < len(whole):
        end = min(len(whole), at + cuts.randint(1, 5))
        pieces.append((at, end, 0.1))
        at = end
    tokens = tuple(
        TokenEvidence(i, i, whole[a:b], a, b, 0.1, 1.0, e) for i, (a, b, e) in enumerate(pieces)
    )
    record = RecordEvidence(1, "r", Source("d.jsonl", 1), 0.1, None, whole, tokens)
    cut = [token.text for token in tokens]
    record = replace(record, pairs=every_pair(whole, cut, record))
    said = tuple(ResponseToken(i, i, piece, 0.1) for i, piece in enumerate(cut))
    finding = english_finding(
        records=(record,), response=whole, prompt=text, span=None, response_tokens=said
    )
    (masked,) = mask_report(report_of(finding), values).findings
    index = ValueIndex(values)
    (new,) = masked.records
    for shown in (masked.prompt, masked.response, new.text, "".join(t.text for t in new.tokens)):
        assert not index.find(shown)
    for pair in new.pairs:
        assert not index.find(pair.response_text)
        assert not index.find(pair.record_text)
    assert all(t.text == new.text[t.start : t.end] for t in new.tokens)
    assert all(MASK not in t.text or t.token_id is None for t in new.tokens)
