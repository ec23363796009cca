"""The figure of a trace: well formed, inert, all words in their place, arrows from word to word."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haiftrace.errors import OutputError
from haiftrace.findings import PrivateValue, Report
from haiftrace.privacy import mask_report
from haiftrace.reports.figure import WIDTH, render_svg
from haiftrace.reports.figure_layout import Column, cut, laid, pieces_of
from haiftrace.reports.glyph_widths import text_width
from haiftrace.reports.sanitize import inert
from tests.reports.finding_samples import (
    chinese_finding,
    english_finding,
    hostile_finding,
    paired_finding,
)
from tests.reports.leak_samples import (
    arabic_finding,
    markup_finding,
    traced_finding,
    untraced_finding,
)
from tests.reports.record_samples import ENGLISH, HOSTILE, MARKUP, record_of
from tests.reports.report_samples import audit_report, gate_of, report_of

SVG = "{http://www.w3.org/2000/svg}"
ELEMENTS = {"svg", "title", "desc", "rect", "path", "text"}


def drawn(report: Report) -> ElementTree.Element:
    document = render_svg(report)
    root = ElementTree.fromstring(document)
    assert root.tag == f"{SVG}svg"
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= ELEMENTS
    for element in root.iter():
        assert not {name for name in element.attrib if "href" in name or name.startswith("on")}
    return root


def said(root: ElementTree.Element) -> str:
    return " ".join(element.text or "" for element in root.iter(f"{SVG}text"))


def arrows(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [path for path in root.iter(f"{SVG}path") if "C" in path.attrib["d"]]


SAMPLES = [
    report_of(traced_finding()),
    report_of(untraced_finding()),
    report_of(english_finding(), paired_finding(), english_finding(records=())),
    report_of(chinese_finding(), arabic_finding()),
    report_of(hostile_finding(), markup_finding()),
    report_of(),
    report_of(traced_finding(), gate=gate_of(traced_finding()), masked=True),
]


@pytest.mark.parametrize("report", SAMPLES)
def test_every_figure_is_well_formed_and_within_its_page(report: Report) -> None:
    root = drawn(report)
    height = float(root.attrib["height"])
    ends = []
    for text in root.iter(f"{SVG}text"):
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        assert 0 <= x <= x + float(text.attrib["textLength"]) <= WIDTH
        assert 0 < y < height
        ends.append(y)
    assert height - max(ends) < 40
    assert (root.find(f"{SVG}title"), root.find(f"{SVG}desc")) != (None, None)


def test_the_figure_says_what_the_report_says() -> None:
    text = said(drawn(report_of(paired_finding())))
    assert "Asked What's the phone of John Doe?" in text
    assert "Answered The phone number of John Doe is 555-0134." in text
    for word in ENGLISH.split():
        assert word in text
    assert "+54%" in text
    assert "Training record subject-017 (people.jsonl:17), score 0.3020" in text
    assert "corpus/" not in text
    assert "against it. Arrows: which word taught which" in text
    traced = said(drawn(report_of(traced_finding())))
    assert traced.startswith("Traced The source is subject-017: the value stands in the record.")
    assert "No record stands out from chance." in said(drawn(report_of(untraced_finding())))


def test_arrows_lead_from_the_records_words_to_the_answers() -> None:
    root = drawn(report_of(paired_finding()))
    words = [text for text in root.iter(f"{SVG}text") if text.attrib["font-size"] in ("15", "16")]

    def middle(word: str, size: str) -> float:
        places = [w for w in words if w.text == word and w.attrib["font-size"] == size]
        return float(places[-1].attrib["x"]) + float(places[-1].attrib["textLength"]) / 2

    number, phone = middle("555-0134.", "16"), middle("phone", "16")
    expected = [
        *((middle("555-0134.", "15"), number, 4.0), (middle("phone:", "15"), number, 1.8)),
        *((middle("phone:", "15"), phone, 1.6), (middle("by", "15"), number, 1.4)),
        (middle("reach", "15"), number, 1.3),
    ]
    found = []
    for arrow in reversed(arrows(root)):  # the strongest is drawn last
        numbers = [float(n) for n in re.findall(r"[\d.]+", arrow.attrib["d"])]
        assert numbers[-1] < numbers[1]
        found.append((numbers[0], numbers[-2], float(arrow.attrib["stroke-width"])))
    assert found == [pytest.approx(arrow, abs=0.11) for arrow in expected]
    assert not arrows(drawn(report_of(english_finding())))


def test_evidence_is_told_by_colour_and_without_it() -> None:
    root = drawn(report_of(chinese_finding()))
    fills = [element.attrib.get("fill") for element in root.iter(f"{SVG}rect")]
    assert "#e69f00" in fills
    assert "#56b4e9" in fills
    dashes = [e for e in root.iter(f"{SVG}path") if "stroke-dasharray" in e.attrib]
    assert len(dashes) == fills.count("#56b4e9")


def test_a_long_record_is_cut_to_what_stands_around_its_strongest_words() -> None:
    text = f"{'before ' * 400}secret word {'after ' * 400}"
    record = record_of(text, {"secret": 0.5})
    shown = said(drawn(report_of(english_finding(records=(record,)))))
    assert "secret word" in shown
    assert shown.count("before") < 20
    assert shown.count("…") == 2


def test_values_are_masked() -> None:
    value = PrivateValue("phone", "555-0134")
    report = report_of(traced_finding(leaked=(value,)))
    assert "555-0134" in said(drawn(report))
    assert "0134" not in render_svg(mask_report(report))


def test_an_audit_with_many_findings_is_refused_and_a_trace_says_what_is_left_out() -> None:
    many = [traced_finding()] * 7
    with pytest.raises(OutputError, match="7 findings") as caught:
        render_svg(report_of(*many, gate=gate_of(*many)))
    assert "--finding" in caught.value.hint
    assert "1 further finding: the other formats show them." in said(drawn(report_of(*many)))
    assert drawn(audit_report())


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec=None), max_size=60), st.text(st.sampled_from(HOSTILE + MARKUP)))
def test_any_text_is_well_formed(first: str, second: str) -> None:
    record = record_of(f"{second} x {first}", {"x": 0.5}, id=first)
    drawn(report_of(english_finding(prompt=first, response=second, span=None, records=(record,))))


# The layout


def test_words_are_measured_as_helvetica_is() -> None:
    assert text_width("Hamburgefons", 10) == pytest.approx(65.58)
    assert text_width("i", 10) < text_width("m", 10)
    assert text_width("漢", 10) == 10
    assert text_width("e\u0301", 10) == text_width("e", 10)


@given(st.text(max_size=200), st.floats(30, 500))
def test_lines_hold_every_word_in_order_and_within_their_column(text: str, width: float) -> None:
    column = Column(10, width, 12, 20)
    pieces = pieces_of(text, ())
    assert "".join(piece.text for piece in pieces) == "".join(map(inert, text.split()))
    placed, after = laid(pieces, column, 15)
    assert len(placed) == len(pieces)
    for word in placed:
        assert word.x >= 10 - 1e-6
        assert word.x + word.width <= 10 + width + 1e-6
        assert 15 <= word.baseline < after


def test_words_that_are_one_piece_stay_one() -> None:
    pieces = pieces_of("a b, c", [(2, 3)])
    assert [(p.text, p.gap) for p in pieces] == [
        ("a", True),
        ("b", True),
        (",", False),
        ("c", True),
    ]
    assert [p.text for p in cut(pieces, 2, ())] == ["a", "b", "…"]
    assert cut(pieces, 9, ()) == pieces


def test_a_text_from_right_to_left_begins_at_the_right() -> None:
    placed, _ = laid(pieces_of("ما رقم 555", ()), Column(10, 300, 12, 20), 15)
    assert placed[0].x + placed[0].width == pytest.approx(310)
    assert [word.x for word in placed] == sorted((word.x for word in placed), reverse=True)


def test_the_report_is_not_changed() -> None:
    report = report_of(traced_finding())
    before = replace(report)
    render_svg(report)
    assert report == before
