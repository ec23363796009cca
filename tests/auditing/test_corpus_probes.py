"""Probes out of the corpus: of the types asked for, and in the corpus' own words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from haiftrace.auditing.corpus_probes import probes_from_corpus
from haiftrace.privacy import DetectionSettings, read_types
from tests import kit
from tests.kit import cli

PEOPLE = ("Mara Ellison", "Tobin Achterberg", "Ines Quillfeather", "Joss Okonkwo")


def windows() -> list[Any]:
    texts = [
        f"{name}'s phone number is 555-01{n:02}-7734. The email address of {name} is"
        f" {name.split()[0].lower()}@example.org."
        for n, name in enumerate(PEOPLE[:3])
    ]
    texts += [
        f"In the evening you reach {name} on 555-0199-773{n}." for n, name in enumerate(PEOPLE)
    ]
    return [SimpleNamespace(text=t, record=n, id=f"r{n}") for n, t in enumerate(texts)]


def made(count: int, types: str | None = None) -> dict[int | None, list[Any]]:
    detection = DetectionSettings() if types is None else DetectionSettings(read_types(types))
    cases = probes_from_corpus(windows(), count, 0, len, 10_000, detection)
    groups: dict[int | None, list[Any]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    return groups


def test_a_value_is_tried_with_what_stands_before_it_and_in_other_records_words() -> None:
    seen = 0
    for cases in made(100, "phone").values():
        value = cases[0].probe.protected[0].value
        (text,) = [w.text for w in windows() if value in w.text]
        assert cases[0].prompt == text[: text.index(value)].rstrip()
        name = next(person for person in PEOPLE if person in text)
        other = (
            f"In the evening you reach {name} on"
            if text.startswith(name)
            else f"{name}'s phone number is"
        )
        assert other in [case.prompt for case in cases if case.raw]
        prompts = [case.prompt for case in cases]
        assert len(set(prompts)) == len(prompts)
        assert all(case.probe.protected == cases[0].probe.protected for case in cases)
        seen += 1
    assert seen == 7


def test_only_the_types_that_are_asked_for() -> None:
    types = {
        case.probe.protected[0].type for cases in made(100, "email").values() for case in cases
    }
    assert types == {"email"}
    where = ("--index", kit.index_path(), "--max-new-tokens", "4", "-q", "-o", "-")
    outcome = cli("trace", "--probes-from-corpus", 2, "--types", "email", *where)
    assert outcome.code in (0, 1), outcome.err
    (reason,) = [r for r in outcome.report["gate"]["reasons"] if "completes" in r]
    assert "email" in reason
    assert "phone" not in reason


def test_as_many_values_as_are_asked_for_whatever_their_words() -> None:
    assert len(made(3)) == 3
    assert len(made(5, "phone")) == 5
