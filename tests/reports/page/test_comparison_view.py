"""What has changed since an earlier report, on the page."""

from __future__ import annotations

from dataclasses import replace

from haiftrace.gate_outcome import ComparedLeak, ReportComparison
from haiftrace.reports.html_report import render_html
from haiftrace.reports.page.comparison_view import comparison_view
from tests.reports.finding_samples import english_finding
from tests.reports.report_samples import report_of

LEAKS = (
    ComparedLeak("new", "ht2:1", "p-new", "phone", "5••", after="verbatim", source_after="d:1"),
    ComparedLeak(
        "still there", "ht2:2", "p-there", "email", "m••", "verbatim", "inferred", "d:2", "d:3"
    ),
    ComparedLeak("gone", "ht2:3", "<b>p-gone</b>", "date", "3••", "verbatim", None, "d:4"),
)


def compared(*leaks):
    return replace(
        report_of(english_finding()),
        comparison=ReportComparison("another model", "another corpus", None, True, leaks),
    )


def test_what_is_new_and_gone_comes_before_what_is_still_there():
    view = comparison_view(compared(*LEAKS))
    assert [row.state for row in view.rows] == ["new", "gone", "still there"]
    assert view.rows[2].change == "verbatim → inferred"
    assert view.rows[2].place == "d:2 → d:3"
    assert view.rows[1].place == "d:4"
    assert "1 leak is new, 1 still there, 1 gone" in view.counts
    assert comparison_view(report_of(english_finding())) is None


def test_the_page_shows_it_with_a_single_trace_too_and_escapes_it():
    page = render_html(compared(*LEAKS))
    assert "Against the earlier report: 1 leak is new" in page
    assert "The corpora differ" in page
    assert "&lt;b&gt;p-gone&lt;/b&gt;" in page
    assert "<b>p-gone</b>" not in page
    assert "Against the earlier report" not in render_html(report_of(english_finding()))


def test_a_long_comparison_is_cut_and_says_so():
    many = [replace(LEAKS[0], probe=f"p{n}") for n in range(700)]
    page = render_html(compared(*many))
    assert "200 more are in the JSON report" in page
    assert "p499" in page
    assert "p500" not in page
