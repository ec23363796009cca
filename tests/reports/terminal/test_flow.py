"""The flow of lines: where they break, and what an excerpt of a long text keeps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from haiftrace.reports.sanitize import inert
from haiftrace.reports.terminal.flow import Unit, excerpt, plain_units, wrap
from tests.reports.record_samples import HOSTILE

any_text = st.text(st.characters(codec=None) | st.sampled_from(HOSTILE), max_size=60)


def units_of(text: str) -> list[Unit]:
    return list(plain_units(text, inert))


def plain(units: list[Unit], width: int) -> list[str]:
    return [line.plain for line in wrap(units, width)]


def test_lines_break_at_spaces_and_between_han_but_not_before_punctuation() -> None:
    assert plain(units_of("one two  three\nfour"), 9) == ["one two", "three ↵", "four"]
    assert plain(units_of("一二三四。五"), 8) == ["一二三", "四。五"]
    assert plain(units_of("x" * 12), 5) == ["xxxxx", "xxxxx", "xx"]
    assert plain([], 10) == [""]


@given(any_text, st.integers(8, 40))
def test_lines_fit_and_lose_nothing(text: str, width: int) -> None:
    units = units_of(text)
    lines = plain(units, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(unit.text for unit in units)


def test_an_excerpt_shows_what_stands_around_its_keys() -> None:
    units = [Unit(f"w{index}", gap=True, key=index in {50, 52}) for index in range(100)]
    shown, is_cut = excerpt(units, limit=100, context=8)
    assert is_cut
    assert [unit.text for unit in shown] == [
        "…",
        "w48",
        "w49",
        "w50",
        "w51",
        "w52",
        "w53",
        "w54",
        "…",
    ]
    assert excerpt(units, limit=1000, context=8) == (units, False)


def test_an_excerpt_without_keys_is_the_beginning_and_the_end() -> None:
    units = [Unit(f"w{index}", gap=True) for index in range(100)]
    shown, is_cut = excerpt(units, limit=16, context=8)
    assert is_cut
    assert [unit.text for unit in shown] == ["w0", "w1", "…", "w98", "w99"]


def test_an_excerpt_cuts_a_run_without_spaces() -> None:
    (shown,), is_cut = excerpt([Unit("x" * 5000)], limit=100, context=8)
    assert is_cut
    assert "…" in shown.text
    assert cell_len(shown.text) < 100
