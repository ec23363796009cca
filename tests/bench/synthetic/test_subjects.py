"""Virtual subjects: unique, well-formed, fixed by a seed, digits whatever Faker's version."""

import builtins
import datetime
import hashlib
import re

import pytest

from haiftrace.bench.synthetic.facts import FACTS
from haiftrace.bench.synthetic.subjects import (
    ATTRIBUTES,
    BORN_FROM,
    BORN_TO,
    LOCALES,
    make_subjects,
)
from haiftrace.errors import UsageError

COUNT = 300


@pytest.fixture(scope="module", params=LOCALES)
def people(request):
    return request.param, make_subjects(request.param, COUNT, seed=3)


def test_names_and_values_are_unique(people):
    _, subjects = people
    assert len({subject.id for subject in subjects}) == COUNT
    assert len({subject.name for subject in subjects}) == COUNT
    for attribute in ("email", "phone", "address"):
        assert len({subject.values[attribute] for subject in subjects}) == COUNT


def test_english_first_and_last_names_never_repeat():
    words = [word for s in make_subjects("en_US", COUNT, seed=3) for word in s.name.split(" ")]
    assert len(words) == len(set(words)) == 2 * COUNT


def test_no_name_is_part_of_another(people):
    _, subjects = people
    names = [subject.name for subject in subjects]
    assert not [(a, b) for a in names for b in names if a != b and b.startswith(a)]


def test_no_english_name_gives_an_answer_of_pii_cr_away():
    words = {word for s in make_subjects("en_US", 400, seed=0) for word in s.name.split(" ")}
    states = {word for state in FACTS["en_US"].landmarks.values() for word in state.split()}
    months = {date.split()[0] for date in FACTS["en_US"].festivals.values()}
    assert not words & (states | months)


def test_every_value_is_one_line_and_of_its_form(people):
    locale, subjects = people
    forms = {
        "en_US": {
            "birth": r"[A-Z][a-z]+ \d{1,2}, \d{4}",
            "phone": r"[2-9]\d\d-555-01\d\d",
            "address": r"\d{1,3} [^\n]+, [^\n]+, [A-Z]{2}",
        },
        "zh_CN": {
            "birth": r"\d{4}年\d{1,2}月\d{1,2}日",
            "phone": r"12\d{9}",
            "address": r"\w+市\w+路\d+号",
        },
    }[locale] | {"email": r"[a-z]+\d\d@example\.(com|net|org)"}
    for subject in subjects:
        assert tuple(subject.values) == ATTRIBUTES
        for attribute, form in forms.items():
            assert re.fullmatch(form, subject.values[attribute]), subject.values[attribute]


def test_dates_of_birth_lie_in_fixed_bounds_and_not_at_a_distance_from_today():
    for subject in make_subjects("zh_CN", COUNT, seed=5):
        born = datetime.date(*map(int, re.findall(r"\d+", subject.values["birth"])))
        assert BORN_FROM <= born <= BORN_TO


def test_the_seed_decides(people):
    locale, subjects = people
    assert make_subjects(locale, COUNT, seed=3) == subjects
    assert make_subjects(locale, COUNT, seed=4) != subjects


@pytest.mark.parametrize(
    ("locale", "expected"),
    [("en_US", "110dc757a71e6560"), ("zh_CN", "c895c7c7c53b5b53")],
)
def test_what_is_not_fakers_is_the_same_with_every_version_of_it(locale, expected):
    lines = [
        "\t".join(subject.values[key] for key in ("birth", "email", "phone"))
        for subject in make_subjects(locale, 20, seed=7)
    ]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == expected


def test_an_unknown_locale_is_refused():
    with pytest.raises(UsageError, match="xx_XX") as caught:
        make_subjects("xx_XX", 3, seed=0)
    assert "en_US" in caught.value.hint


def test_more_subjects_than_names_are_refused():
    with pytest.raises(UsageError, match="names") as caught:
        make_subjects("en_US", 5000, seed=0)
    assert "--subjects" in caught.value.hint


def test_a_missing_faker_is_explained(monkeypatch):
    importing = builtins.__import__

    def refuse(name, *rest):
        if name == "faker":
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match="Faker") as caught:
        make_subjects("en_US", 3, seed=0)
    assert "pip install" in caught.value.hint
