"""The HTML report: what it shows, that it is well formed, and that only its own script can act."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haiftrace.findings import PairEvidence, Report
from haiftrace.reports import write_report
from haiftrace.reports.html_report import render_html
from haiftrace.reports.marks import PrivateValues, record_segments, text_segments
from haiftrace.reports.page.assets import asset
from tests.reports.finding_samples import (
    chinese_finding,
    english_finding,
    hostile_finding,
    paired_finding,
)
from tests.reports.leak_samples import (
    arabic_finding,
    inconclusive_verdict,
    judged,
    markup_finding,
    traced_finding,
    untraced_finding,
)
from tests.reports.record_samples import CHINESE, ENGLISH, HOSTILE, MARKUP, record_of
from tests.reports.report_samples import audit_findings, audit_report, gate_of, report_of

VOID = {"meta", "link", "img", "br", "hr", "input"}
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\u2028\u2029]")


class Document(HTMLParser):
    """Checks that every tag is closed in its turn, and gathers tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]

    @property
    def plain(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))


def assert_harmless(text: str) -> Document:
    document = Document(text)
    assert text.count("<script>") == document.tags.count("script") == 1
    assert text.endswith(f"<script>{asset('report.js')}</script>\n</body>\n</html>")
    assert f"<style>{asset('report.css')}</style>" in text
    assert not {"img", "iframe", "link", "object", "form", "base"} & set(document.tags)
    for _, name, value in document.attributes:
        assert not name.startswith("on")
        assert name not in {"src", "srcset", "style", "action"}
        if name == "href":
            assert re.fullmatch(r"#(f\d+|findings|corpus|run)", value)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not STEERING.search(text.replace(asset("report.js"), ""))
    return document


def whole_report() -> Report:
    findings = (*audit_findings(), hostile_finding(), markup_finding(), chinese_finding())
    return report_of(*findings, gate=gate_of(*findings), masked=True)


REPORTS = {
    "audit": audit_report(),
    "trace": report_of(traced_finding()),
    "no verdict": report_of(english_finding()),
    "several": report_of(*audit_findings(), markup_finding(), hostile_finding()),
    "everything": whole_report(),
    "pairs": report_of(paired_finding()),
    "empty": report_of(),
    "empty audit": report_of(gate=gate_of(exit_code=3, partial=True)),
    "inconclusive": report_of(
        judged(english_finding(), inconclusive_verdict(), (None, None, None))
    ),
    "no record": report_of(english_finding(records=(), prompt="", response="")),
}


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_is_well_formed_and_harmless(name: str) -> None:
    document = assert_harmless(render_html(REPORTS[name]))
    policy = next(value for value in document.values("content") if "default-src" in value)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert len(document.values("id")) == len(set(document.values("id")))
    targets = {value.removeprefix("#") for value in document.values("href")}
    assert targets <= set(document.values("id"))


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = render_html(audit_report())
    assert "http:" not in text
    assert "https:" not in text
    text = text.replace(asset("report.js"), "")
    assert "//" not in re.sub(r"</?[a-z]+/?>", "", text)


def test_the_policy_names_the_script_and_the_style_by_their_hashes() -> None:
    text = render_html(audit_report())
    content = next(value for value in Document(text).values("content") if "script-src" in value)
    for tag in ("style", "script"):
        inside = text[text.index(f"<{tag}>") + len(tag) + 2 : text.index(f"</{tag}>")]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in content


def test_the_script_makes_no_markup_and_asks_nobody() -> None:
    script = asset("report.js")
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "fetch(",
        "XMLHttpRequest",
        "import(",
        "localStorage",
        "cookie",
    ):
        assert way not in script
    assert "</" not in script
    assert "<!--" not in script


def test_the_gate_and_its_counts_stand_first() -> None:
    plain = assert_harmless(render_html(audit_report())).plain
    order = ["Gate failed", "4 leaks in 7 probes.", "exit code 1", "4 leaks, and none is allowed."]
    order += ["phone-017", "What this can and cannot say", "How it was made"]
    places = [plain.index(part) for part in order]
    assert places == sorted(places)
    assert "Private values are masked" in plain
    assert "1 answer holds no private value" in plain
    assert "keep this file as safe" in render_html(report_of(traced_finding()))


def test_a_finding_shows_its_verdict_reasons_words_and_null() -> None:
    text = render_html(report_of(traced_finding()))
    document = assert_harmless(text)
    assert "The source is subject-017: the value stands in the record." in document.plain
    assert "of 512 controls whose source was left out, 0 reached" in document.plain
    assert "Remove or redact corpus/people.jsonl:17" in document.plain
    assert 'class="w for3" title="+62% of the score">555-0134</span>' in text
    assert 'class="w against2" title="-15% of the score">Lisbon</span>' in text
    assert '<bdi class="private" title="private: phone">' in text
    assert "2 further records below: chance" in document.plain
    assert "path" in document.tags
    assert any("512 controls" in value for value in document.values("aria-label"))
    assert "haiftrace trace &#34;What&#39;s the phone" in text


def test_pairs_are_a_table_under_their_record() -> None:
    document = assert_harmless(render_html(report_of(paired_finding())))
    same = "the same, as it stands in the record"
    expected = f"phone ← {same}+10% 555-0134 ← {same}+50% phone+12% by+6%"
    assert expected in document.plain
    assert "555-0134 ← 555-0199+75%" in document.plain
    assert document.tags.count("table") == 2
    assert sum("record's words" in value for value in document.values("aria-label")) == 2
    assert "answer ← record" in document.plain.replace("\xa0", " ")
    none = render_html(report_of(english_finding()))
    assert "←" not in none
    assert 'class="pairs"' not in none


def test_the_sign_of_evidence_is_not_by_colour_alone() -> None:
    text = render_html(report_of(traced_finding()))
    assert "underline solid var(--for)" in text
    assert "underline dashed var(--against)" in text
    assert ">+62%</small>" in text
    assert ">-15%</small>" in text


def test_what_passes_says_why() -> None:
    plain = assert_harmless(render_html(audit_report())).plain
    assert "Does not count – known: the baseline holds it" in plain
    assert "Does not count – ignored: a published press contact" in plain


def test_it_fits_dark_paper_and_phones() -> None:
    text = render_html(report_of())
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 48rem"):
        assert rule in text
    assert 'content="width=device-width, initial-scale=1"' in text


def joined(segments: list) -> str:
    return "".join(piece.text for segment in segments for piece in segment.pieces)


def test_private_values_are_marked_wherever_they_stand() -> None:
    private = PrivateValues([traced_finding(), untraced_finding()], masked=False)
    assert [ENGLISH[a:b] for a, b, _ in private.find(ENGLISH)] == ["555-0134"]
    (before, value, after) = text_segments("to maria@example.org now", (3, 8), private)
    assert (before.private, value.private, after.private) == ("", "email", "")
    assert [piece.mark for piece in value.pieces] == ["traced", ""]
    masked = PrivateValues([], masked=True)
    assert [kind for _, _, kind in masked.find("call 5••-•••-••01, or not")] == ["private"]
    assert "5••-•••-••01" in joined(text_segments("call 5••-•••-••01, or", None, masked))
    assert PrivateValues([], masked=False).find("5••") == []


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_marking_loses_no_text(text: str) -> None:
    record = record_of(text, {text[3:9]: 0.5})
    for masked in (True, False):
        private = PrivateValues([traced_finding(), arabic_finding()], masked=masked)
        assert joined(record_segments(record, 0.5, private)) == text


hostile_text = st.text(st.sampled_from(list(HOSTILE + MARKUP + "张伟👨‍👩 •")), max_size=40)


@settings(max_examples=40, deadline=None)
@given(hostile_text, hostile_text, hostile_text)
def test_no_text_becomes_markup(a: str, b: str, c: str) -> None:
    def tags(x: str, y: str, z: str) -> tuple[list[str], str]:
        record = replace(
            record_of("some words"),
            id=x,
            source=replace(record_of("").source, path=y),
            text="some words",
            content_hash=z,
            pairs=(
                PairEvidence(f"w{x}", (1,), f"w{y}", (0,), 0, 4, 0.5),
                PairEvidence(z, (2,), x, (1,), 5, 5, 0.25),
            ),
        )
        finding = replace(
            traced_finding(),
            prompt=f"p{x}",
            response=f"r{y}",
            span=None,
            method=z,
            notes=(x,),
            records=(record,),
            leaked=(),
            suppressed=f"s{y}",
            probe=replace(traced_finding().probe, id=f"i{z}", path=x, protected=()),
        )
        report = replace(report_of(finding), command=f"c{x}", settings={"k": y}, tool_version=z)
        text = render_html(report)
        return assert_harmless(text).tags, text

    ours, _ = tags("x", "x", "x")
    found, _ = tags(a, b, c)
    optional = {"span", "p", "b", "bdi"}  # a place equal to the id, say, is not shown twice
    assert [t for t in found if t not in optional] == [t for t in ours if t not in optional]


@settings(max_examples=40, deadline=None)
@given(hostile_text, st.integers(0, 10))
def test_any_record_is_shown_harmless(text: str, at: int) -> None:
    key = text[at : at + 4]
    record = record_of(text, {key: 0.5}) if key else record_of(text)
    finding = replace(traced_finding(), records=(record,), prompt=text, response=text, span=key)
    assert_harmless(render_html(report_of(finding, masked=True)))


def test_the_suffix_writes_it(tmp_path: Path) -> None:
    write_report(audit_report(), tmp_path / "audit.html")
    assert_harmless((tmp_path / "audit.html").read_text(encoding="utf-8"))
