"""Decoys: what they change, that nobody has seen them, and how often the source beats them."""

from __future__ import annotations

import numpy as np
import pytest

from haiftrace.bench.harness.statistics import wilson
from haiftrace.bench.pii.decoys import (
    BOTH,
    OTHER_NAME,
    OTHER_VALUE,
    OTHERS,
    Decoy,
    decoy_pool,
    decoy_rows,
    make_decoys,
    over_all_seeds,
)
from haiftrace.bench.synthetic.commonsense import reveals_answer
from haiftrace.bench.synthetic.dataset import (
    NAME,
    BenchData,
    ProbeQuestion,
    TrainingRecord,
    find_spans,
)
from haiftrace.bench.synthetic.facts import FACTS
from haiftrace.bench.synthetic.make import make_data
from haiftrace.bench.synthetic.subjects import make_subjects
from haiftrace.errors import UsageError

IMPLIED_BY = {"birthday": "festival", "state": "landmark"}


@pytest.mark.parametrize("locale", ["en_US", "zh_CN"])
@pytest.mark.parametrize("kind", ["pii-e", "pii-cr"])
def test_a_decoy_is_its_source_but_for_one_thing(kind, locale):
    data = make_data(kind, locale, 60, 2, seed=4)
    leaks = data.held_out()[::3]
    decoys = make_decoys(data, leaks)
    assert decoys == make_decoys(data, leaks)
    assert [(d.question, d.kind) for d in decoys] == [
        (leak.id, kind) for leak in leaks for kind in (OTHER_VALUE, OTHER_NAME)
    ]
    records = {record.id: record for record in data.records}
    texts = {record.text for record in data.records}
    facts = FACTS[locale]
    implies = {**facts.festivals, **facts.landmarks}
    for leak, other_value, other_name in zip(leaks, decoys[::2], decoys[1::2], strict=True):
        source = records[other_value.source]
        assert other_name.source == source.id
        assert source.subject == leak.subject
        name, stated = data.subjects[leak.subject], IMPLIED_BY.get(leak.attribute, leak.attribute)
        old = {span.kind: source.text[span.start : span.end] for span in source.spans}
        value, new = texts_by_kind(other_value.record), texts_by_kind(other_name.record)
        assert {key for key in old if old[key] != value[key]} == {stated}
        assert other_value.record.text == source.text.replace(old[stated], value[stated])
        if kind == "pii-e":
            assert value[stated] not in {q.answer for q in data.questions}
            assert leak.answer not in other_value.record.text
            assert leak.answer in other_name.record.text
        else:
            assert implies[value[stated]] != leak.answer
            assert implies[new[stated]] == leak.answer
            assert not reveals_answer(leak.answer, other_value.record.text, locale)
        assert {key for key in old if old[key] != new[key]} == {NAME}
        assert other_name.record.text == source.text.replace(name, new[NAME])
        assert name not in other_name.record.text
        words = {word for n in data.subjects.values() for word in n.split()}
        assert not words & set(new[NAME].split())
        assert not texts & {other_value.record.text, other_name.record.text}
    ids = {decoy.record.id for decoy in decoys}
    assert len(ids) == len(decoys)
    assert not ids & records.keys()


def texts_by_kind(record: TrainingRecord) -> dict[str, str]:
    return {span.kind: record.text[span.start : span.end] for span in record.spans}


def test_a_name_told_in_parts_is_changed_in_parts_but_not_within_values():
    text = "Ada Lark lives at 3 Lark Street. Ms Lark paints; Larkin, Ada's friend, does not."
    spans = find_spans(text, {NAME: "Ada Lark", "address": "3 Lark Street"})
    leak = ProbeQuestion("q", "s", "address", "?", "3 Lark Street", False)
    data = BenchData(
        "pii-e", "en_US", 0, {"s": "Ada Lark"}, (TrainingRecord("r", "s", text, spans),), (leak,)
    )
    decoy = make_decoys(data, [leak])[1]
    new = texts_by_kind(decoy.record)[NAME]
    first, last = new.split()
    assert decoy.record.text == (
        f"{new} lives at 3 Lark Street. Ms {last} paints; Larkin, {first}'s friend, does not."
    )


@pytest.mark.parametrize("locale", ["en_US", "zh_CN"])
def test_people_apart_share_no_name(locale):
    names = {person.name for person in make_subjects(locale, 200, seed=0)}
    others = [person.name for person in make_subjects(locale, 60, seed=0, apart=names)]
    assert len(set(others)) == 60
    assert not any(a.startswith(b) or b.startswith(a) for a in names for b in others)
    if locale == "en_US":
        words = {word for name in names for word in name.split()}
        assert not words & {word for name in others for word in name.split()}


def test_names_may_run_out():
    names = {person.name for person in make_subjects("en_US", 400, seed=0)}
    with pytest.raises(UsageError, match="different names"):
        make_subjects("en_US", 300, seed=0, apart=names)


def test_a_pool_holds_sources_decoys_and_some_others():
    data = make_data("pii-cr", "en_US", 60, 2, seed=4)
    leaks = data.held_out()[:10]
    decoys = make_decoys(data, leaks)
    pool = decoy_pool(data, decoys)
    ids = [record.id for record in pool]
    assert len(ids) == len(set(ids)) == 10 + OTHERS + 20
    assert ids[-20:] == [decoy.record.id for decoy in decoys]
    assert {decoy.source for decoy in decoys} <= set(ids)
    everything = make_decoys(data, data.held_out()[:60])
    sources = {decoy.source for decoy in everything}
    assert len(decoy_pool(data, everything)) == len(sources) + OTHERS + len(everything)


def test_rows_count_ties_and_missing_scores_against_the_method():
    records = tuple(TrainingRecord(f"r{n}", who, f"text {n}", ()) for n, who in enumerate("aab"))
    leaks = [ProbeQuestion(f"q{n}", who, "phone", "?", "1", False) for n, who in enumerate("abaa")]
    sources = ("r0", "r2", "r0", "r0")
    decoys = [
        Decoy(leak.id, kind, source, TrainingRecord(f"{leak.id} {kind}", "", "fake", ()))
        for leak, source in zip(leaks, sources, strict=True)
        for kind in (OTHER_VALUE, OTHER_NAME)
    ]
    scores_QR = np.zeros((4, 3 + 8))
    scores_QR[:, :3] = [2.0, 99.0, 1.0]  # r1, also about a, is not what was rewritten
    scores_QR[0, 3:5] = [1.0, 3.0]
    scores_QR[1, 5:7] = [0.5, 1.0]  # a tie
    scores_QR[2, 7:9] = [1.9, 1.9]
    scores_QR[3, 9:11] = [np.nan, 0.0]
    pool = [*records, *(decoy.record for decoy in decoys)]
    rows = decoy_rows({"haif": scores_QR}, pool, leaks, decoys, "learned", 5)
    assert [(r["decoy"], r["successes"], r["n"]) for r in rows] == [
        (OTHER_VALUE, 3, 4),
        (OTHER_NAME, 2, 4),
        (BOTH, 1, 4),
    ]
    between = wilson(3, 4)
    assert rows[0] == {
        "regime": "learned",
        "method": "haif",
        "decoy": OTHER_VALUE,
        "seed": 5,
        "value": 0.75,
        "successes": 3,
        "n": 4,
        "interval": [between.low, between.high],
    }
    every = over_all_seeds([*rows, *({**row, "seed": 6} for row in rows)])
    assert len(every) == 9
    (first,) = (r for r in every if r["seed"] == "all" and r["decoy"] == OTHER_VALUE)
    assert (first["successes"], first["n"], first["value"]) == (6, 8, 0.75)
    assert first["interval"] == [wilson(6, 8).low, wilson(6, 8).high]
