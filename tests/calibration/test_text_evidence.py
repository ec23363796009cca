"""What the text says beside what influence says."""

from __future__ import annotations

from itertools import product

import pytest

from haiftrace.calibration.text_evidence import (
    another_value,
    chance_of_text,
    doubt_of,
    near_alpha,
    of_a_part,
    with_text,
    without_power,
)
from haiftrace.findings import Verdict
from haiftrace.reports.evidence_words import NEARLY

TRACED = Verdict("traced", 0.01, p_value=0.004, power=0.9)
NONE = Verdict("no source found", 0.01, p_value=0.4, power=0.9)
OPEN = Verdict("inconclusive", 0.01, reasons=("the index is not calibrated",))


@pytest.mark.parametrize(
    ("verdict", "holds", "holders", "chance", "decision", "basis"),
    [
        # No record holds it: what influence says.
        (TRACED, [False, False], 0, 1.0, "traced", "influence"),
        (NONE, [False, False], 0, 1.0, "no source found", None),
        # The first record holds it.
        (TRACED, [True, False], 1, 1.0, "traced", "influence"),
        (TRACED, [True, True], 3, 1e-6, "traced", "influence and text"),
        # Others hold it: a rare value is traced to them, a common one to whom influence names.
        (TRACED, [False, True], 1, 1e-6, "traced", "text"),
        (TRACED, [False, True], 1, 0.5, "traced", "influence"),
        # Influence leaves it open.
        (NONE, [False, True], 2, 1e-6, "traced", "text"),
        (NONE, [True, False], 1, 0.5, "inconclusive", None),
        (OPEN, [True, False], 1, 1e-6, "traced", "text"),
        (OPEN, [True, False], 1, 0.5, "inconclusive", None),
    ],
)
def test_the_two_kinds_of_evidence_together(verdict, holds, holders, chance, decision, basis):
    combined = with_text(verdict, holds, holders, chance)
    assert (combined.decision, combined.basis) == (decision, basis)
    assert combined.p_value == verdict.p_value


def test_no_search_refutes_a_verdict():
    """Whatever influence says: a value that a record holds is never without a source, and a rare
    one never traced to a record that does not hold it."""
    for verdict, first, chance in product((TRACED, NONE, OPEN), (True, False), (1e-6, 0.5)):
        combined = with_text(verdict, [first, True], 2, chance)
        assert combined.decision != "no source found"
        if chance < 0.01 and not first and combined.decision == "traced":
            assert combined.basis == "text"


def test_what_the_model_would_hardly_say_stays_open():
    hardly = Verdict("inconclusive", 0.01, reasons=("the model would hardly say this response",))
    combined = with_text(hardly, [True], 3, 1e-9, is_open=True)
    assert combined.decision == "inconclusive"
    assert combined.reasons[1] == "3 records hold it"


def test_without_power_nothing_found_says_nothing():
    weak = Verdict("no source found", 0.01, p_value=0.4, power=0.3)
    assert without_power(weak).decision == "inconclusive"
    assert "30% of cases" in without_power(weak).reasons[0]
    assert without_power(NONE) is NONE
    assert with_text(weak, [False], 0, 1.0).decision == "inconclusive"


def test_a_record_that_nearly_stands_out_leaves_it_open():
    nearly = Verdict("no source found", 0.01, p_value=0.03)
    assert near_alpha(nearly).decision == "inconclusive"
    assert near_alpha(nearly).reasons[0].startswith(NEARLY)
    for said in (
        Verdict("no source found", 0.01, p_value=0.051),
        Verdict("traced", 0.01, p_value=0.009),
        Verdict("no source found", 0.01),
        # Where alpha itself is large, chance is not excluded much beyond it.
        Verdict("no source found", 0.1, p_value=0.11),
    ):
        assert near_alpha(said) is said


def test_chances_are_those_of_the_value_s_form():
    assert chance_of_text("348-555-0169", True, 100) == pytest.approx(100 / 10**10)
    assert chance_of_text("mara.ellison@example.org", True, 100) == pytest.approx(100 / 2**11)
    assert chance_of_text("Massachusetts", False, 100) == 1.0
    assert chance_of_text("October 31", True, 100) == 1.0
    assert chance_of_text("31 October 1980", True, 100) == pytest.approx(100 / (366 * 50))
    assert chance_of_text("5551", False, 3) == 1.0
    assert chance_of_text("x" * 60, False, 100) < 1e-9


@pytest.mark.parametrize(
    ("value", "text", "kind"),
    [
        ("555-010-0142", "Call Mara on 555-010-0143.", "phone number"),
        ("555-010-0142", "Call Mara on (555) 010 0142.", None),
        ("555-010-0142", "Mara was born on 3 May 1980.", None),
        ("mara@example.org", "Write to m.ellison@example.org.", "e-mail address"),
        ("May 3, 1980", "For Mara, life began on May 4, 1980.", "date"),
        ("May 3, 1980", "Mara was born on May 4.", None),
        ("May 3, 1980", "Mara was born on 1980-05-03.", None),
        ("91095", "Order 48085 is on its way.", "number"),
        ("91095", "Order 91095 is on its way.", None),
        ("91095", "Order 4808 is on its way, 123456 left.", None),
        ("INV-204-0017", "Invoice INV-311-0018 was sent.", "number"),
        ("146 Elm Row, Eastham, CA", "Go to 832 Oak Park, West Erin, MO.", "address or the like"),
        ("146 Elm Row, Eastham, CA", "Go to 146 Elm Row, Eastham, CA.", None),
        ("146 Elm Row, Eastham, CA", "Mara, 32, lives in Eastham, CA.", None),
        # A date without a year, and words, can be concluded.
        ("October 31", "Mara was born on 3 May 1980.", None),
        ("Massachusetts", "Mara lives at 12 Oak Street, Springfield, IL.", None),
    ],
)
def test_a_value_that_identifies_is_not_concluded_from_another(value, text, kind):
    assert another_value(value, text) == kind


def test_influence_alone_does_not_name_a_record_that_states_another_value():
    combined = with_text(TRACED, [False], 0, 1.0, doubt="it does not fit")
    assert combined.decision == "inconclusive"
    assert combined.basis is None
    assert combined.reasons[0] == "no record holds it, and it does not fit"
    held = with_text(TRACED, [True], 1, 1.0, doubt="it does not fit")
    assert held.decision == "traced"
    elsewhere = with_text(TRACED, [False, True], 1, 0.5, doubt="it does not fit")
    assert elsewhere.decision == "inconclusive"
    assert elsewhere.reasons[0].startswith("a record holds it")
    assert with_text(NONE, [False], 0, 1.0, doubt="it does not fit") is NONE


@pytest.mark.parametrize(
    ("corpus", "option"),
    [({"limit": 40}, "--limit 40"), ({"limit": 90, "sample_records": 9}, "--sample-records 9")],
)
def test_of_a_part_of_the_corpus_nothing_says_that_the_source_is_not_there(corpus, option):
    missing = Verdict("no source found", 0.01, power=0.9)
    verdict = of_a_part(missing, corpus)
    assert verdict.decision == "inconclusive"
    assert option in verdict.reasons[-1]
    traced = Verdict("traced", 0.01)
    assert of_a_part(traced, corpus) == traced
    assert of_a_part(missing, {"limit": None}) == of_a_part(missing, {}) == missing


def test_a_record_that_the_model_hardly_knows_is_no_source():
    text = "For Mara, life began on Halloween."
    assert doubt_of("October 31", text, is_known=True) is None
    assert "the model hardly knows" in (doubt_of("October 31", text, is_known=False) or "")
    stated = doubt_of("555-010-0142", "Call Mara on 555-010-0143.", is_known=True)
    assert (stated or "").endswith("states another phone number")
