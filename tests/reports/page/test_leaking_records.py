"""What is to be removed, how many values and people there are, and the map of the corpus."""

from __future__ import annotations

import shlex
from dataclasses import replace

from haiftrace.findings import Holder, Source
from haiftrace.reports.page.corpus_map import corpus_map
from haiftrace.reports.page.leaking_records import (
    LeakingRecord,
    leaking_records,
    remedy,
    tally_of,
)
from haiftrace.reports.page.people import person_of
from haiftrace.reports.page.places import Places
from tests.reports.finding_samples import chinese_finding, english_finding
from tests.reports.leak_samples import traced_finding, untraced_finding
from tests.reports.report_samples import report_of


def places_of(*paths: str) -> Places:
    return Places(Source(path, 1) for path in paths)


def held(*lines: int):
    holders = tuple(Holder(f"h{line}", Source("corpus/people.jsonl", line)) for line in lines)
    return traced_finding(holders=holders)


def test_records_that_leak_most_come_first() -> None:
    findings = [held(17), held(17, 40), untraced_finding()]
    records = leaking_records(enumerate(findings, 1), places_of("corpus/people.jsonl"))
    assert [(r.name, r.place, r.findings) for r in records] == [
        ("h17", "people.jsonl:17", [1, 2]),
        ("subject-017", "people.jsonl:17", [1, 2]),
        ("h40", "people.jsonl:40", [2]),
    ]
    assert records[0].why == ["holds the value"]
    assert records[0].types == ["phone"]


def test_a_value_of_two_probes_is_one() -> None:
    twice = [traced_finding(), traced_finding(fingerprint="other")]
    tally = tally_of([*twice, untraced_finding()], 1)
    assert tally is not None
    assert (tally.values, tally.people, tally.records) == (2, 2, 1)
    assert tally.text == (
        "2 values of 2 people (by name) can be had from the model; 1 record of the corpus is named"
        " as the source."
    )
    assert tally_of([english_finding()], 0) is None


def test_people_are_left_out_where_one_is_not_known() -> None:
    tally = tally_of([traced_finding(prompt="and the phone?", kind="inferred")], 0)
    assert tally is not None
    assert tally.people is None
    assert tally.text.startswith("1 value can be had from the model; no record")


def test_the_commands_name_the_corpus_quoted_and_the_file_that_was_written() -> None:
    record = LeakingRecord(Source("my corpus/it's.jsonl", 3), "r3", "it's.jsonl:3")
    report = replace(report_of(), command="haiftrace trace --prompts p.jsonl")
    first, second = remedy(report, [record])
    assert first == "haiftrace trace --prompts p.jsonl --sources sources.jsonl"
    assert shlex.split(second)[:6] == [
        "haiftrace", "redact", "--corpus", "my corpus/it's.jsonl", "--sources", "sources.jsonl",
    ]  # fmt: skip
    (only,) = remedy(replace(report, command="haiftrace trace --sources out.jsonl"), [record])
    assert "--sources out.jsonl" in only
    parquet = replace(record, source=Source("data.parquet", None))
    assert len(remedy(report, [parquet])) == 1  # which redact does not read
    assert remedy(report, []) == []


def test_people_are_named_as_the_question_and_the_source_name_them() -> None:
    assert person_of(traced_finding()) == "John Doe"
    assert person_of(traced_finding(prompt="Send John Doe's mail")) == "John Doe"
    assert person_of(untraced_finding()) == "Maria Doe"
    assert person_of(chinese_finding()) == ""


def test_the_corpus_own_groups_count_before_names() -> None:
    def about(subject: str):
        finding = traced_finding()
        records = (replace(finding.records[0], subject=subject), *finding.records[1:])
        return replace(finding, records=records)

    assert person_of(about("customer 7")) == "customer 7"
    tally = tally_of([about("customer 7"), about("customer 8")], 1)
    assert tally is not None
    assert tally.text.startswith("2 values of 2 people can be had")
    # What is masked may be two people's.
    assert person_of(about("c••••••• •")) == "John Doe"


def test_places_lose_what_all_have_in_common() -> None:
    places = places_of("/data/corpus/a.jsonl", "/data/corpus/b/c.jsonl")
    assert places.short(Source("/data/corpus/b/c.jsonl", 4)) == "b/c.jsonl:4"
    mixed = places_of("/data/a.jsonl", "b.jsonl")
    assert mixed.short(Source("/data/a.jsonl", None)) == "/data/a.jsonl"


def record_at(line: int | None, leaks: int = 1, path: str = "a.jsonl") -> LeakingRecord:
    return LeakingRecord(Source(path, line), f"r{line}", "", findings=list(range(leaks)))


def test_a_map_has_a_tile_a_record_shaded_by_leaks() -> None:
    (strip,) = corpus_map([record_at(1), record_at(62, 5), record_at(63, 2)], 130)
    assert [(tile.x, tile.y, tile.level) for tile in strip.tiles] == [
        (0, 0, 1), (10, 10, 3), (20, 10, 2),
    ]  # fmt: skip
    assert strip.plain.count("M") == 127
    assert strip.tiles[1].title == "r62: 5 leaks"
    assert "A square is a record" in strip.caption


def test_a_large_corpus_has_a_tile_for_several_records() -> None:
    (strip,) = corpus_map([record_at(1), record_at(80), record_at(99_999)], 100_000)
    assert [tile.level for tile in strip.tiles] == [2, 1]
    assert strip.plain.count("M") + len(strip.tiles) <= 1_200
    assert "84 records" in strip.caption


def test_files_have_strips_and_records_without_lines_have_tiles() -> None:
    strips = corpus_map([record_at(3), record_at(9, path="b.jsonl"), record_at(4)], 100)
    assert [strip.name for strip in strips] == ["a.jsonl", "b.jsonl"]
    assert "up to line 9" in strips[1].caption
    (strip,) = corpus_map([record_at(None, path="x.txt"), record_at(None, path="y.txt")], 50)
    assert len(strip.tiles) == 2
    assert corpus_map([], 50) == []
