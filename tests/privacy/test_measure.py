"""How much detectors see: floors for precision and recall, in every spelling."""

from __future__ import annotations

import pytest

from haiftrace.privacy import DEFAULT_TYPES, Masker
from tests.privacy.measure import (
    is_hidden,
    precision_and_recall,
    read_lines,
    recall_by_spelling,
    spelled,
)
from tests.privacy.spellings import SPELLINGS

PRECISION = RECALL = 0.98
IN_ANY_SPELLING = 0.95


def test_there_are_enough_lines_of_every_kind_and_locale():
    lines = read_lines()
    private = [line for line in lines if line.kind]
    assert len(private) >= 400
    assert len(lines) - len(private) >= 400
    assert len({line.locale for line in private}) >= 10
    assert {line.kind for line in private} == set(DEFAULT_TYPES) - {"crypto"}
    assert all(line.text[line.start : line.end] == line.value for line in private)


def test_precision_and_recall_keep_their_floors():
    for kind, (_, wrong, precision, recall, _) in precision_and_recall().items():
        assert precision >= PRECISION, (kind, wrong)
        assert recall >= RECALL, kind


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_value_in_another_spelling_is_still_seen(name):
    changed = [new for line in read_lines()[::3] if line.kind and (new := spelled(line, name))]
    hidden = sum(map(is_hidden, changed))
    assert hidden >= IN_ANY_SPELLING * len(changed), name


@pytest.mark.slow
def test_every_value_in_every_spelling():
    for name, (count, right) in recall_by_spelling().items():
        assert right >= IN_ANY_SPELLING * count, name


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_known_value_is_covered_in_every_spelling(name):
    for line in read_lines()[::3]:
        new = spelled(line, name) if line.kind else None
        if new is None:
            continue
        masked = Masker([line.value]).masked(new.text)
        letters = [i for i in range(new.start, new.end) if new.text[i].isalnum()]
        # A percent escape's own letters may stand before the first one of the value.
        touched = sum(masked.touched[i] for i in letters)
        assert touched >= len(letters) - 2 * ("percent" in name), (line.value, masked.text)
