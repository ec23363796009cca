"""Paired differences of two methods over the same leaks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.bench.ablation import DEFAULT, FIRST, Variation
from haiftrace.bench.pii.paired_difference import Paired, compare, paired_rows, paired_table
from haiftrace.bench.pii.ranking import Ranks

COUNTS = st.integers(0, 200)


def test_the_published_example():
    # Newcombe 1998, Statistics in Medicine 17, 2635: 36, 12, 2, 0 has 0.0569 to 0.3404.
    paired = Paired(36, 12, 2, 0)
    between = paired.interval
    assert paired.difference == pytest.approx(0.2)
    assert between is not None
    assert (between.low, between.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_an_interval_holds_its_difference_and_turns_with_it(both, first, second, neither):
    paired, turned = Paired(both, first, second, neither), Paired(both, second, first, neither)
    if not paired.n:
        assert (paired.difference, paired.interval) == (None, None)
        return
    between, back = paired.interval, turned.interval
    assert paired.difference is not None
    assert between is not None
    assert back is not None
    assert -1 <= between.low <= paired.difference + 1e-12
    assert paired.difference - 1e-12 <= between.high <= 1
    assert (between.low, between.high) == pytest.approx((-back.high, -back.low))


def test_methods_that_agree_leave_less_doubt_than_their_shares_alone():
    alike = Paired(both=45, first=5, second=0, neither=50).interval
    unlike = Paired(both=23, first=27, second=22, neither=28).interval
    assert alike is not None
    assert unlike is not None
    assert alike.low > 0 > unlike.low


def _ranks(method, ranks, leaks, seed=0, variation=DEFAULT, regime="memorised"):
    attributes = ("phone",) * len(ranks)
    return Ranks(regime, method, variation, seed, tuple(ranks), attributes, tuple(leaks))


def test_only_leaks_that_both_traced_are_compared(monkeypatch):
    monkeypatch.setattr("haiftrace.bench.pii.paired_difference.DEFAULT_METHOD", "haif-t")
    all_ranks = [
        _ranks("haif", (1, 2, 1, 3), "abcd"),
        _ranks("haif", (1,), "a", seed=1),
        _ranks("haif-t", (1, 1), "bd"),  # not a and c
        _ranks("haif-t", (2,), "a", seed=1),
        _ranks("haif-t", (2, 2), "bd", variation=Variation(pool=FIRST)),
        _ranks("haif-t", (1,), "a", regime="learned"),  # alone there
    ]
    rows = paired_rows(all_ranks)
    assert [(r["regime"], r["method"], r["against"]) for r in rows] == [
        ("memorised", "haif", "haif-t"),
        ("memorised", "haif-t", "haif"),
    ]
    row = rows[1]
    counts = {"n": 3, "both": 0, "method_only": 2, "against_only": 1}
    assert counts.items() <= row.items()
    assert row["difference"] == pytest.approx(1 / 3)
    assert row["interval"][0] < 1 / 3 < row["interval"][1]
    table = paired_table(rows)
    assert table is not None
    haif, haif_t = table.splitlines()[2:]
    assert "-33 (" in haif
    assert "+33 (" in haif_t
    assert haif_t.count("–") == 1


def test_without_haif_and_the_default_there_is_no_table():
    all_ranks = [_ranks("bm25", (1,), "a"), _ranks("ek-fac", (1,), "a")]
    assert len(paired_rows(all_ranks)) == 2
    assert paired_table(paired_rows(all_ranks)) is None
    assert paired_table([]) is None


def test_no_common_leak_is_no_difference():
    assert compare({(0, "a"): True}, {(1, "a"): True}) == Paired(0, 0, 0, 0)
