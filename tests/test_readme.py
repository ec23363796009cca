"""What the documents say: their length, their links, the options and names that they use."""

from __future__ import annotations

import re
import shlex
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

from haiftrace.methods import METHODS
from tests.kit import cli

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
RESULTS = ROOT / "haiftrace/bench/RESULTS.md"
GLOSSARY = ROOT / "haiftrace/README.md"
METHOD_PAGE = ROOT / "haiftrace/methods/README.md"
DOCUMENTS = [README, CONTRIBUTING, RESULTS, GLOSSARY, METHOD_PAGE]


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def options(command: tuple[str, ...]) -> frozenset[str]:
    """The options of a command and of those below it, as --help shows them."""
    shown = cli(*command, "--help").out
    found = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown))
    below = re.search(r"^Commands:\n((?:  .*\n?)+)", shown, re.MULTILINE)
    for name in re.findall(r"^  (\S+) ", below[1], re.MULTILINE) if below else ():
        found |= options((*command, name))
    return frozenset(found)


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_the_readme_is_short_and_has_two_set_up_commands() -> None:
    lines = text(README).splitlines()
    assert 150 <= len(lines) <= 200
    set_up = [line for line in lines if line.startswith("python3 -m venv ")]
    assert len(set_up) == 2
    # The line that `.ci/run` looks for and runs.
    assert [line for line in set_up if re.search("/pytest", line)] == set_up[1:]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text(page)) if "://" not in link]
    assert links
    for link in links:
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", text(target), re.MULTILINE) if place else ()
        assert not place or place in map(anchor, headings), link


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_has_options_that_exist(page: Path) -> None:
    """Those that stand in code as `haiftrace COMMAND …`, to the end of the line or of the code."""
    for line in re.findall(r"\bhaiftrace ((?:index|trace|demo|bench)\b[^`\n]*)", text(page)):
        words = shlex.split(line, comments=True, posix=False)
        known = options((words[0],))
        for word in words[1:]:
            name = word.split("=")[0]
            assert not re.match("--?[a-z]", name) or name in known, f"{name} in: {line}"


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_exists_somewhere(page: Path) -> None:
    """Those in the running text, too; of other programs only what is listed here."""
    others = {"--index-url", "--check"}
    known = options(()) | others
    for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text(page)):
        assert name in known, name


@pytest.mark.parametrize("page", [RESULTS, METHOD_PAGE], ids=["RESULTS", "methods"])
def test_every_method_is_named(page: Path) -> None:
    named = set(re.findall(r"[\w-]+", text(page)))
    assert set(METHODS) <= named


def test_no_document_names_a_place_of_the_machine_it_was_written_on() -> None:
    for page in DOCUMENTS:
        assert not re.search(r"/(?:tmp|work|home|root)/", text(page)), page


def test_the_floors_are_those_of_the_import_contract() -> None:
    settings = tomllib.loads(text(ROOT / "pyproject.toml"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = text(GLOSSARY).split("```")[1].strip().splitlines()
    assert [floor.split("  ")[0].strip() for floor in floors] == layers


def test_the_places_that_contributing_names_are_there() -> None:
    made_up = {"haiftrace/reports/csv_report.py", "haiftrace/scoring/shared_tokens.py"}
    made_up |= {"haiftrace/scoring/NAME.py"}
    page = text(CONTRIBUTING)
    for path in set(re.findall(r"\b(?:haiftrace|tests)/[\w/]+\.(?:py|md)", page)) - made_up:
        assert (ROOT / path).is_file(), path
    for module, name in (
        ("haiftrace.methods.registry", "METHODS"),
        ("haiftrace.scoring.families", "FAMILIES"),
        ("haiftrace.reports.outputs", "RENDERERS"),
        ("haiftrace.corpus.formats", "FORMATS"),
        ("haiftrace.index.supplements", "SUPPLEMENTS"),
    ):
        assert f"`{name}`" in page
        assert len(getattr(import_module(module), name)) > 1
    for name in re.findall(r"`(test_\w+)`", page):
        assert any(f"def {name}(" in text(path) for path in ROOT.glob("tests/**/test_*.py")), name


def test_the_picture_is_well_formed_and_for_both_schemes() -> None:
    path = ROOT / "docs/data-flow.svg"
    picture = ElementTree.parse(path).getroot()
    assert picture.find("{http://www.w3.org/2000/svg}title") is not None
    assert "prefers-color-scheme: dark" in text(path)
    assert f"]({path.relative_to(ROOT)})" in text(README)
