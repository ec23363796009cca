"""The page as a reader uses it, in Chromium: `python -m pytest -m browser`.

The accessibility check needs axe-core (npm): AXE_CORE names its axe.min.js, where node_modules of
the current directory does not hold it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from haiftrace.auditing.trace_report import TraceReport
from haiftrace.reports import write_report
from tests.reports.finding_samples import hostile_finding
from tests.reports.leak_samples import markup_finding, traced_finding
from tests.reports.page.browser import browser, missing, printed_pages
from tests.reports.page.page_samples import many_report
from tests.reports.report_samples import audit_report, report_of

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.usefixtures("loopback"),
]

COUNTS = (2, 74, 1000)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of 2, 74 and 1,000 findings, of one, and of hostile texts, as files."""
    folder = tmp_path_factory.mktemp("pages")
    reports = {str(count): many_report(count) for count in COUNTS}
    reports["trace"] = report_of(traced_finding())
    reports["audit"] = audit_report()
    hostile = (markup_finding(), hostile_finding(), traced_finding())
    command = "haiftrace trace '</script><img src=x>'"
    reports["hostile"] = replace(report_of(*hostile), command=command)
    for name, report in reports.items():
        write_report(report, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in reports}


@pytest.fixture(scope="module")
def light(loopback: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("light")) as driver:
        yield driver


@pytest.fixture(scope="module")
def dark(loopback: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("dark"), dark=True) as driver:
        yield driver


def opened(driver: Any, path: Path, address: str = "") -> Any:
    driver.get("about:blank")
    driver.get(path.as_uri() + address)
    return driver


def find(driver: Any, selector: str) -> list[Any]:
    return list(driver.find_elements("css selector", selector))


def visible(driver: Any) -> list[Any]:
    return find(driver, "details.finding:not([hidden])")


def address(driver: Any) -> str:
    return str(driver.execute_script("return decodeURIComponent(location.hash)"))


def until(driver: Any, condition: str) -> None:
    for _ in range(100):
        if driver.execute_script(f"return {condition}"):
            return
        time.sleep(0.05)
    raise AssertionError(condition)


def errors(driver: Any) -> list[Any]:
    return [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize("name", ["2", "74", "1000", "trace", "audit", "hostile"])
def test_the_policy_lets_the_page_run_without_an_error(
    light: Any, pages: dict[str, Path], name: str
) -> None:
    opened(light, pages[name])
    assert errors(light) == []
    assert not light.execute_script("return performance.getEntriesByType('resource').length")


def test_a_thousand_findings_open_at_once(light: Any, pages: dict[str, Path]) -> None:
    """In seconds of a core: those of the clock are as many again on a machine that is busy."""
    assert pages["1000"].stat().st_size < 10_000_000
    light.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    light.get("about:blank")
    before = process_seconds(light)
    light.get(pages["1000"].as_uri())
    assert process_seconds(light) - before < 2
    assert len(visible(light)) == 1000


def process_seconds(driver: Any) -> float:
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return float({metric["name"]: metric["value"] for metric in metrics}["ProcessTime"])


def test_words_filter_and_the_address_has_them(light: Any, pages: dict[str, Path]) -> None:
    opened(light, pages["74"])
    light.find_element("tag name", "body").send_keys("/")
    light.switch_to.active_element.send_keys("greta abel")
    until(light, "location.hash.includes('greta')")
    shown = visible(light)
    assert 0 < len(shown) < 74
    assert all("Greta Abel" in finding.text for finding in shown)
    assert light.find_element("id", "shown").text == f"{len(shown)} of 74 findings"
    sent = light.current_url
    opened(light, pages["2"])
    light.get(sent)
    assert len(visible(light)) == len(shown)
    from selenium.webdriver.common.keys import Keys

    light.find_element("id", "filter").send_keys(Keys.ESCAPE)
    assert len(visible(light)) == 74
    assert "greta" not in light.current_url


def test_chips_narrow_within_their_row_and_across(light: Any, pages: dict[str, Path]) -> None:
    opened(light, pages["74"])
    chips = {chip.get_attribute("data-value"): chip for chip in find(light, "#chips button")}
    chips["inferred"].click()
    inferred = len(visible(light))
    chips["untraced"].click()
    assert len(visible(light)) > inferred
    chips["phone"].click()
    kinds = {(f.get_attribute("data-kind"), f.get_attribute("data-type")) for f in visible(light)}
    assert kinds == {("inferred", "phone"), ("untraced", "phone")}
    assert chips["phone"].get_attribute("aria-pressed") == "true"
    assert address(light) == "#kind=inferred&kind=untraced&type=phone"
    light.find_element("id", "clear").click()
    assert len(visible(light)) == 74


@pytest.mark.parametrize("by", ["record", "person", "type"])
def test_groups_say_what_they_hold(light: Any, pages: dict[str, Path], by: str) -> None:
    opened(light, pages["74"], f"#group={by}")
    groups = find(light, ".group")
    assert len(groups) > 2
    for group in groups:
        members = group.find_elements("css selector", "details.finding")
        assert len({member.get_attribute(f"data-{by}") for member in members}) == 1
    heading = groups[0].find_element("tag name", "h2").text
    if by == "record":
        assert heading.startswith("people.jsonl:")
        assert heading.endswith("this record leaks 3 values")
    sizes = [len(group.find_elements("css selector", "details.finding")) for group in groups]
    assert sum(sizes) == 74


def test_sorting_puts_the_strongest_first(light: Any, pages: dict[str, Path]) -> None:
    opened(light, pages["74"], "#sort=strength")
    orders = [int(finding.get_attribute("data-order")) for finding in visible(light)]
    assert orders == sorted(orders, reverse=True)
    assert len(set(orders)) > 1


def test_keys_move_open_and_are_in_the_address(light: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(light, pages["74"])
    for key in "jjkj":
        light.switch_to.active_element.send_keys(key)
    second = visible(light)[1]
    assert light.switch_to.active_element == second.find_element("tag name", "summary")
    light.switch_to.active_element.send_keys(Keys.ENTER)
    assert second.get_attribute("open") is not None
    assert address(light) == "#open=f2"
    sent = light.current_url
    opened(light, pages["2"])
    light.get(sent)
    assert visible(light)[1].get_attribute("open") is not None


def test_a_word_of_the_answer_lights_up_what_taught_it_and_back(
    light: Any, pages: dict[str, Path]
) -> None:
    opened(light, pages["74"], "#open=f1")
    finding = visible(light)[0]
    until(light, "document.querySelector('.answer [role=button]') !== null")
    word = finding.find_elements("css selector", ".answer [data-a]")[0]
    word.click()
    lit = finding.find_elements("css selector", ".record .lit")
    assert [other.text for other in lit] == [word.text]
    word.click()
    assert finding.find_elements("css selector", ".lit") == []
    taught = finding.find_elements("css selector", ".record [data-a]")
    by_text = {other.text: other for other in taught}
    by_text["reach"].send_keys(" ")
    answered = [w.text for w in finding.find_elements("css selector", ".answer .lit")]
    assert len(answered) == 1
    assert "•" in answered[0]


def test_the_commands_can_be_copied(light: Any, pages: dict[str, Path]) -> None:
    opened(light, pages["74"])
    button = light.find_element("css selector", "button[data-copy=remedy]")
    button.click()
    until(light, "document.querySelector('button[data-copy=remedy]').textContent === 'Copied'")


def test_tabs_show_a_part_each(light: Any, pages: dict[str, Path]) -> None:
    opened(light, pages["74"])
    for name in ("corpus", "run", "findings"):
        light.find_element("css selector", f".tabs a[href='#{name}']").click()
        parts = [part.get_attribute("id") for part in find(light, ".part:not([hidden])")]
        assert parts == [name]
    light.find_element("css selector", ".tabs a[href='#corpus']").click()
    link = find(light, "#corpus td a")[0]
    wanted = link.get_attribute("hash").removeprefix("#")
    link.click()
    until(light, f"document.getElementById('{wanted}').closest('details').open")
    assert light.find_element("id", wanted).is_displayed()


def test_it_prints_the_table_and_the_findings_in_short(light: Any, pages: dict[str, Path]) -> None:
    counts = {}
    for name in ("2", "74", "1000"):
        counts[name] = printed_pages(opened(light, pages[name]))
    assert 1 <= counts["2"] <= 5
    assert 10 < counts["74"] <= 40
    assert 10 < counts["1000"] <= 60


def test_without_scripts_all_is_there_and_no_dead_control(
    tmp_path: Path, pages: dict[str, Path]
) -> None:
    with browser(tmp_path / "profile", scripts=False) as driver:
        opened(driver, pages["74"])
        assert not any(c.is_displayed() for c in find(driver, "button, input, select, .hint"))
        assert all(part.is_displayed() for part in find(driver, ".part"))
        heads = find(driver, "details.finding > summary")
        assert len(heads) == 74
        heads[4].click()
        assert (
            find(driver, "details.finding")[4].find_element("class name", "record").is_displayed()
        )


@pytest.mark.parametrize("scripts", [True, False])
def test_hostile_texts_stay_texts(tmp_path: Path, pages: dict[str, Path], scripts: bool) -> None:
    with browser(tmp_path / "profile", scripts=scripts) as driver:
        for hash in ("", "#group=record", "#group=person&sort=type", "#q=%3Cimg%20src%3Dx%3E"):
            opened(driver, pages["hostile"], hash)
            assert find(driver, "img, iframe, body > script + *") == []
            assert len(find(driver, "script")) == 1
            assert errors(driver) == []


def test_it_works_in_the_frame_of_a_notebook(light: Any, tmp_path: Path) -> None:
    frame = TraceReport(many_report(74))._repr_html_()
    (tmp_path / "notebook.html").write_text(f"<!doctype html>{frame}", encoding="utf-8")
    opened(light, tmp_path / "notebook.html")
    light.switch_to.frame(0)
    light.find_element("css selector", ".tabs a[href='#corpus']").click()
    find(light, "#corpus td a")[0].click()
    until(light, "document.querySelectorAll('details.finding[open]').length === 1")
    light.find_element("id", "filter").send_keys("greta")
    until(light, "document.getElementById('shown').textContent.includes(' of 74')")
    light.switch_to.default_content()
    assert errors(light) == []


def test_a_phone_has_no_sideways_scrolling(tmp_path: Path, pages: dict[str, Path]) -> None:
    with browser(tmp_path / "profile", width=390) as driver:
        for name in ("2", "74", "trace", "audit", "hostile"):
            opened(driver, pages[name])
            driver.execute_script(
                "for (const fold of document.querySelectorAll('details')) fold.open = true"
            )
            assert driver.execute_script("return document.documentElement.scrollWidth") <= 390


def axe_core() -> str | None:
    path = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))
    return path.read_text(encoding="utf-8") if path.is_file() else None


@pytest.mark.skipif(axe_core() is None, reason="needs axe-core: npm install axe-core, or AXE_CORE")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["2", "74", "trace", "audit", "hostile"])
def test_axe_finds_no_violation(
    request: pytest.FixtureRequest, pages: dict[str, Path], name: str, scheme: str
) -> None:
    driver = opened(request.getfixturevalue(scheme), pages[name])
    driver.execute_script(
        "for (const fold of Array.from(document.querySelectorAll('details')).slice(0, 30))"
        " fold.open = true"
    )
    time.sleep(0.3)
    driver.execute_script(axe_core())
    assert violations(driver) == []
    words = find(driver, "details.finding .answer [data-a], article.finding .answer [data-a]")
    if words:
        driver.execute_script("arguments[0].click()", words[0])
        assert violations(driver) == []
    for link in find(driver, ".tabs a")[1:]:
        link.click()
        assert violations(driver) == []


def violations(driver: Any) -> list[Any]:
    found = driver.execute_async_script(
        "const done = arguments[0];"
        "axe.run(document).then((result) => done(result.violations.map((each) =>"
        " [each.id, each.nodes.slice(0, 2).map((node) => node.failureSummary + node.html)])))"
    )
    return list(found)
