"""results.json, table.md and figures: complete, reproducible, never over other things."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree

import pytest

from haiftrace import __version__
from haiftrace.bench.harness.figures import COLOURS, Panel, PlotSeries, figure_file, lines, scatter
from haiftrace.bench.harness.results import (
    Results,
    check_installed,
    check_out,
    results_document,
    versions,
    write_results,
)
from haiftrace.bench.harness.statistics import Interval, Proportion
from haiftrace.bench.harness.tables import markdown_table, number, percent, signed
from haiftrace.errors import OutputError, UsageError

PANEL = Panel(
    "T", "x", "y", [PlotSeries("one", [1, 2], [3, 4]), PlotSeries("two", [1, 2], [4, 0.5])]
)


def results(**changes):
    given = {
        "bench": "digits",
        "settings": {"steps": 3},
        "seeds": [0, 1],
        "fingerprints": {"data": "abc"},
        "sections": {"tracing": [{"seed": 0, "top1": Proportion(3, 4).row()}]},
        "table": "| a |",
        "figures": {"figure1": scatter([PANEL])},
    }
    return Results(**{**given, **changes})


def test_what_is_written(tmp_path):
    written = write_results(tmp_path, results())
    assert [path.name for path in written] == [
        *("figure1.png", "figure1.svg", "table.md", "results.json")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(p.name for p in written)
    assert (tmp_path / "table.md").read_text() == "| a |\n"
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["schema_version"] == 1
    assert document["bench"] == "digits"
    assert document["settings"] == {"steps": 3}
    assert document["seeds"] == [0, 1]
    assert document["fingerprints"] == {"data": "abc"}
    assert document["versions"]["haiftrace"] == __version__
    assert {"python", "torch", "numpy", "matplotlib"} <= set(document["versions"])
    (row,) = document["tracing"]
    assert row["top1"]["n"] == 4
    assert row["top1"]["interval"] == pytest.approx([0.3006, 0.9544], abs=1e-4)


def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch):
    write_results(tmp_path, results())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match="No space left"):
        write_results(tmp_path, results(table="other"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_numbers_that_json_does_not_know_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        results_document(results(sections={"tracing": [{"mrr": float("nan")}]}))


def test_a_directory_is_made_or_its_own(tmp_path):
    check_out(tmp_path / "new" / "deep")
    assert list((tmp_path / "new" / "deep").iterdir()) == []
    write_results(tmp_path / "new" / "deep", results())
    check_out(tmp_path / "new" / "deep")
    with pytest.raises(OutputError, match="is not empty and holds no bench"):
        check_out(tmp_path / "new")
    (tmp_path / "file").write_text("")
    for wrong in ("file", "file/below"):
        with pytest.raises(OutputError, match="cannot be written"):
            check_out(tmp_path / wrong)


def test_a_missing_package_is_told_before_the_work():
    check_installed("json", "matplotlib")
    with pytest.raises(UsageError, match="no_such_module") as caught:
        check_installed("json", "no_such_module")
    assert "haiftrace[bench]" in caught.value.hint


def test_versions_of_some_packages_only():
    assert set(versions("torch", "no-such-package")) == {"haiftrace", "python", "torch"}


@pytest.mark.parametrize("plot", [scatter, lines])
def test_figures_are_the_same_every_time(plot):
    panels = [PANEL, Panel("L", "x", "y", PANEL.series, logarithmic=True)]
    for kind in ("png", "svg"):
        assert figure_file(plot(panels), kind) == figure_file(plot(panels), kind)


def test_an_svg_holds_the_words_and_the_palette():
    picture = figure_file(scatter([PANEL]), "svg").decode()
    assert {"T", "x", "y", "one", "two"} <= set(ElementTree.fromstring(picture).itertext())
    for colour in COLOURS[:2]:
        assert colour.lower() in picture


def test_a_table_is_padded_to_columns():
    table = markdown_table(["Method", "n"], [["HAIF", "7"], ["a|b", "1,234"], ["传记", "2"]])
    assert table.splitlines() == [
        "| Method |     n |",
        "| ------ | ----: |",
        "| HAIF   |     7 |",
        "| a\\|b   | 1,234 |",
        "| 传记   |     2 |",
    ]
    with pytest.raises(ValueError, match="cells"):
        markdown_table(["a"], [["1", "2"]])


def test_how_numbers_are_written():
    assert percent(Proportion(20, 23)) == "87 % (68 to 95)"
    assert percent(Proportion(0, 0)) == number(None) == signed(None) == "–"
    assert number(0.000123456) == "0.000123"
    assert signed(0.5) == "+0.50"
    assert signed(-0.5, Interval(-0.7, 0.1)) == "-0.50 (-0.70 to +0.10)"
