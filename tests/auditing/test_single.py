"""A single response: each value by itself, and each sentence without one."""

from __future__ import annotations

import pytest

from haiftrace.auditing.probes import single_probe
from haiftrace.auditing.single import response_leaks
from tests import kit
from tests.kit import ANSWER, PROMPT, cli
from tests.query.query_kit import leak


def spans(response: str, *values: str) -> list[str | None]:
    case = single_probe(PROMPT, response, values)
    return [each.query.span for each in response_leaks(case, leak(PROMPT, response))]


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("555-0142.", ["555-0142"]),
        ("not known.", [None]),
        ("555-0142. She was born in Brackwater.", ["555-0142", "She was born in Brackwater."]),
        (
            "555-0142 or 555-0109. Ask her! She knows",
            ["555-0142", "555-0109", "Ask her!", "She knows"],
        ),
        ("first line\nsecond line", ["first line", "second line"]),
        ("... !", [None]),
    ],
)
def test_values_come_first_then_sentences_without_one(response, right):
    assert spans(response, "555-0142", "555-0109") == right


def test_each_label_is_of_its_span():
    case = single_probe(PROMPT, None, ["555-0142"])
    query = leak(PROMPT, "555-0142. She was born in Brackwater.")
    for each in response_leaks(case, query):
        traced = "".join(
            piece
            for piece, label in zip(each.query.pieces, each.query.labels, strict=True)
            if label
        )
        assert each.query.span.strip() in traced
        assert len(traced) <= len(each.query.span) + 2


def test_the_command_traces_what_the_response_says_in_pieces():
    options = ("--index", kit.index_path(), "-q", "-o", "-")
    response = f"{ANSWER} Ines Quillfeather was born in Brackwater."
    asked = ("trace", PROMPT, "--response", response, "--protect", "555-0142", *options)
    pieces = cli(*asked)
    assert pieces.code == 0, pieces.err
    findings = pieces.report["findings"]
    assert [finding["span"] is None for finding in findings] == [False, False]
    assert findings[0]["verdict"]["basis"] == "text"
    assert [holder["id"] for holder in findings[0]["holders"]] == ["r1"]
    assert findings[0]["records"][0]["holds"] is True
    (whole,) = cli(*asked, "--whole").report["findings"]
    assert whole["span"] is None
