"""A report beside an earlier one: which leaks are gone, which are new, which are still there."""

from __future__ import annotations

from collections.abc import Callable

from haiftrace.auditing.leak_values import LeakedValue, have_digests_of_a_key, leaked_values_of
from haiftrace.findings import Report
from haiftrace.gate_outcome import ComparedLeak, LeakState, ReportComparison
from haiftrace.reports.named_sources import named_source
from haiftrace.reports.narrative import source_text


def compare_reports(before: Report, after: Report) -> ReportComparison:
    """What became of the leaks of a report in a later one.

    Leaks are matched by fingerprint and value, as a baseline's are. What is left is matched by
    probe, type and value: a leak that is said again has another fingerprint where its record or
    its class has changed, as after training without its first source.

    Args:
        before, after: either both masked or both revealed.
    """
    assert before.masked == after.masked
    earlier, later = leaked_values_of(before), leaked_values_of(after)
    exact = have_digests_of_a_key(earlier, later)

    def same_name(old: LeakedValue, new: LeakedValue) -> bool:
        return old.fingerprint == new.fingerprint and old.is_same(new, exact=exact)

    def same_value(old: LeakedValue, new: LeakedValue) -> bool:
        same_place = (old.probe, old.type) == (new.probe, new.type)
        return same_place and old.is_same(new, exact=exact)

    pairs = _matched(earlier, later, same_name)
    pairs += _matched(
        [old for old in earlier if all(old is not pair[0] for pair in pairs)],
        [new for new in later if all(new is not pair[1] for pair in pairs)],
        same_value,
    )
    old_of = {id(new): old for old, new in pairs}
    kept = {id(old) for old, _ in pairs}
    leaks = [_compared("new", None, new) for new in later if id(new) not in old_of]
    leaks += [_compared("still there", old_of[id(new)], new) for new in later if id(new) in old_of]
    leaks += [_compared("gone", old, None) for old in earlier if id(old) not in kept]
    return ReportComparison(
        model_fingerprint=before.model.fingerprint,
        corpus_fingerprint=before.index.corpus_fingerprint,
        probes=None if before.gate is None else before.gate.probes,
        exact=exact or not before.masked,
        leaks=tuple(leaks),
    )


def _matched(
    earlier: list[LeakedValue],
    later: list[LeakedValue],
    is_match: Callable[[LeakedValue, LeakedValue], bool],
) -> list[tuple[LeakedValue, LeakedValue]]:
    """Each later value with the first earlier one that it matches, each of which counts once."""
    left = list(earlier)
    pairs = []
    for new in later:
        place = next((n for n, old in enumerate(left) if is_match(old, new)), None)
        if place is not None:
            pairs.append((left.pop(place), new))
    return pairs


def _compared(
    state: LeakState, before: LeakedValue | None, after: LeakedValue | None
) -> ComparedLeak:
    named = after if after is not None else before
    assert named is not None
    return ComparedLeak(
        state=state,
        fingerprint=named.fingerprint,
        probe=named.probe,
        type=named.type,
        value=named.value,
        before=None if before is None else before.finding.kind,
        after=None if after is None else after.finding.kind,
        source_before=_source(before),
        source_after=_source(after),
    )


def _source(value: LeakedValue | None) -> str | None:
    source = None if value is None else named_source(value.finding)
    return None if source is None else source_text(source)
