"""A report beside an earlier one: leaks that are gone, new, and still there."""

from __future__ import annotations

from dataclasses import replace

from haiftrace.auditing.report_comparison import compare_reports
from haiftrace.findings import Finding, PrivateValue, Report
from haiftrace.privacy import mask_report
from tests.auditing.test_merged_report import NAME, leak, shard
from tests.reports.leak_samples import absent_verdict


def states(before: Report, after: Report) -> list[tuple[str, str]]:
    return [(leak.state, leak.probe) for leak in compare_reports(before, after).leaks]


def untraced(finding: Finding, name: str) -> Finding:
    verdict = absent_verdict()
    return replace(finding, kind="untraced", fingerprint=name, verdict=verdict, holders=())


def test_leaks_are_gone_new_or_still_there() -> None:
    compared = compare_reports(shard(leak(1), leak(2), probes=9), shard(leak(2), leak(3)))
    assert [(x.state, x.probe) for x in compared.leaks] == [
        ("new", "p3"),
        ("still there", "p2"),
        ("gone", "p1"),
    ]
    assert [x.value for x in compared.of("gone")] == ["5••-•••-••34"]
    assert compared.of("new")[0].source_after == "corpus/people.jsonl:17"
    assert compared.of("new")[0].before is None
    assert compared.probes == 9
    assert not compared.exact


def test_a_leak_without_its_first_source_is_still_there() -> None:
    """After training without a record the fingerprint is another, and the model may say it yet."""
    (compared,) = compare_reports(shard(leak(1)), shard(untraced(leak(1), "ht2:ff"))).leaks
    assert (compared.state, compared.before, compared.after) == (
        "still there",
        "verbatim",
        "untraced",
    )
    assert (compared.source_before, compared.source_after) == ("corpus/people.jsonl:17", None)
    assert compared.fingerprint == "ht2:ff"
    other = untraced(leak(1, "7••-•••-••10"), "ht2:ff")
    assert states(shard(leak(1)), shard(other)) == [("new", "p1"), ("gone", "p1")]


def test_another_value_under_a_fingerprint_is_new() -> None:
    before, after = leak(1, fingerprint=NAME), leak(1, "7••-•••-••10", fingerprint=NAME)
    assert states(shard(before), shard(after)) == [("new", "p1"), ("gone", "p1")]
    twin = replace(before, value_number=2)
    assert states(shard(before), shard(before, twin)) == [("new", "p1"), ("still there", "p1")]


def test_digests_tell_values_apart_that_masks_show_alike() -> None:
    def keyed(digest: str) -> Report:
        return shard(leak(1, fingerprint=NAME, value_digest=digest))

    assert states(keyed("k:1"), keyed("k:1")) == [("still there", "p1")]
    assert states(keyed("k:1"), keyed("k:2")) == [("new", "p1"), ("gone", "p1")]
    assert compare_reports(keyed("k:1"), keyed("k:1")).exact
    # Under different keys only what is shown can be compared.
    assert states(keyed("k:1"), keyed("j:2")) == [("still there", "p1")]
    assert not compare_reports(keyed("k:1"), keyed("j:2")).exact


def test_revealed_values_are_compared_as_they_are_and_masked_ones_as_masks_show() -> None:
    value = PrivateValue("phone", "555-123-4501", given=False)
    other = PrivateValue("phone", "(555) 123 4501", given=False)
    response = f"It is {value.value}."
    first = leak(1, leaked=(value,), response=response, span=None, fingerprint=NAME)
    again = replace(first, leaked=(other,), response=f"It is {other.value}.")
    before, after = (shard(f, masked=False) for f in (first, again))
    compared = compare_reports(before, after)
    assert compared.exact
    assert [x.state for x in compared.leaks] == ["still there"]
    hidden = compare_reports(mask_report(before), mask_report(after))
    assert [x.state for x in hidden.leaks] == ["still there"]
    assert "4501" not in str(hidden)


def test_of_several_methods_the_first_counts() -> None:
    both = shard(leak(1), leak(1, method="bm25"))
    assert states(shard(), both) == [("new", "p1")]
