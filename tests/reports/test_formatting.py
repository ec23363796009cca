"""Numbers and long words as the reports write them."""

from __future__ import annotations

import math

from rich.cells import cell_len

from haiftrace.reports.formatting import (
    clip,
    cosine_text,
    count_text,
    has_percentages,
    percent_text,
    score_text,
    size_text,
)


def test_scores_and_cosines() -> None:
    assert [score_text(x) for x in (0.42131, 0.42, 1234.2, 1.25e-5, -3.0, -0.0)] == [
        "0.4213",
        "0.4200",
        "1234",
        "1.250e-05",
        "-3.000",
        "0.000",
    ]
    assert [cosine_text(x) for x in (0.4211, -0.5, 0.0, -0.0001)] == [
        "+0.421",
        "-0.500",
        "+0.000",
        "+0.000",
    ]


def test_percentages_keep_the_sign_of_the_evidence() -> None:
    assert percent_text(0.31, 1.0) == "+31%"
    assert percent_text(0.31, -1.0) == "+31%"
    assert percent_text(-0.004, 1.0) == "-0.4%"
    assert percent_text(1.5, 1.0) == "+150%"


def test_a_score_that_cancels_out_has_no_percentages() -> None:
    assert has_percentages(1.0, [2.0, -1.0])
    assert not has_percentages(1e-18, [0.5, -0.5])
    assert not has_percentages(0.0, [])
    assert not has_percentages(math.nan, [math.nan])
    assert percent_text(0.5, 0.0, as_percent=False) == "+0.5"


def test_counts_and_sizes() -> None:
    assert count_text(1, "record") == "1 record"
    assert count_text(1200, "token") == "1,200 tokens"
    assert [size_text(x) for x in (0, 960, 1500, 134_515_008, 999_900_000, 70 * 10**9)] == [
        "0",
        "960",
        "1.50K",
        "135M",
        "1.00B",
        "70.0B",
    ]


def test_a_long_word_loses_its_middle() -> None:
    assert clip("short") == "short"
    assert clip("abcdefghij", 7) == "abc…hij"
    for word in ("x" * 100, "张" * 100, "a张" * 50):
        assert 20 <= cell_len(clip(word, 24)) <= 24
        assert clip(word)[-1] == word[-1]
