"""Influence functions on the command line: several at once, kept in the index, told by options."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from tests import kit
from tests.kit import ANSWER, PROMPT, SMALL_OPTIONS, cli, misused, refused

EMPIRICAL = ("--fisher", "empirical")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return Path(shutil.copytree(kit.index_path("gpt2", "float32"), tmp_path / "index"))


def trace(index: Path, *options: object, **environment: str):
    return cli("trace", PROMPT, "--response", ANSWER, "--index", index, *options, **environment)


def supplements(index: Path) -> set[str]:
    """But those of every index."""
    kept = json.loads((index / "manifest.json").read_text())["supplements"]
    return set(kept) - {"whitening", "value-keys"}


def test_several_methods_are_a_finding_each(index):
    outcome = trace(index, "--method", "haif,ek-fac,bm25", *EMPIRICAL, "--reveal", "-o", "-")
    assert outcome.code == 0, outcome.err
    findings = outcome.report["findings"]
    assert [f["method"] for f in findings] == ["haif", "ek-fac", "bm25"]
    assert {f["response"] for f in findings} == {ANSWER}
    assert {r["cosine"] for r in findings[2]["records"]} == {None}
    settings = outcome.report["settings"]
    assert settings["fisher"] == "empirical"
    assert settings["ek-fac damping"] == "0.1x"
    assert "haiftrace index -o" in outcome.err
    assert "--method ek-fac --fisher empirical" in outcome.err


def test_the_terminal_sets_methods_beside_each_other(index):
    outcome = trace(index, "--method", "haif,gradient-cosine,bm25-answer")
    assert outcome.code == 0
    assert "Ranks of the records" in outcome.out
    assert outcome.out.count("Prompt ") == 1


def test_what_a_method_needs_is_added_to_a_complete_index(index):
    assert supplements(index) == set()
    added = cli("index", "-o", index, "--methods", "relatif,bm25", *EMPIRICAL)
    assert added.code == 0, added.err
    assert "holds what relatif,bm25 needs" in added.err
    assert "Nothing has to be kept for bm25" in added.err
    assert supplements(index) == {"ek-fac", "relatif-norms"}
    outcome = trace(index, "--method", "relatif", *EMPIRICAL)
    assert outcome.code == 0
    assert "To keep" not in outcome.err
    # With the model and the corpus too the index is the same one still.
    again = ("index", "--model", kit.checkpoint_path(), "--corpus", kit.corpus_path())
    options = ("-o", index, "--dtype", "float32", "--calibrate", "0", *SMALL_OPTIONS, *EMPIRICAL)
    outcome = cli(*again, *options, "--methods", "ahif")
    assert outcome.code == 0, outcome.err
    assert "is complete already" in outcome.err
    assert supplements(index) == {"ek-fac", "relatif-norms", "ahif-norms"}


def test_the_commands_that_a_trace_prints_keep_what_it_computed(index):
    """Each is taken as it stands, with the options of its own methods and no others."""
    asked = ("--method", "ek-fac,relatif,haif", "--adjust", "power:0.5", "--seed", "3", *EMPIRICAL)
    first = trace(index, *asked)
    assert first.code == 0, first.err
    commands = [line.partition("index: ")[2] for line in first.err.splitlines() if "keep" in line]
    assert len(commands) == 2
    for command in commands:
        kept = cli(*shlex.split(command)[1:])
        assert kept.code == 0, kept.err
    assert supplements(index) == {"ek-fac", "relatif-norms", "haif-norms", "adjusted-norms"}
    assert "keep" not in trace(index, *asked).err


def test_index_and_methods_in_one_command(tmp_path):
    outcome = cli(
        *("index", "--model", kit.checkpoint_path(), "--corpus", kit.corpus_path()),
        *("-o", tmp_path / "i", *SMALL_OPTIONS, "--methods", "haif", "--adjust", "power:0.5"),
        *("--calibrate", "0"),
    )
    assert outcome.code == 0, outcome.err
    assert supplements(tmp_path / "i") == {"haif-norms", "adjusted-norms"}


def test_without_a_model_there_has_to_be_an_index(tmp_path):
    misused(cli("index", "--corpus", kit.corpus_path()), "Missing option '--model'")
    misused(cli("index", "--model", kit.checkpoint_path()), "Missing option '--corpus'")
    misused(cli("index"), "Missing option '--model'")
    refused(cli("index", "--methods", "ek-fac", "-o", tmp_path / "none"), "no index at")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--adjust", "half"], "no adjustment"),
        (["--damping", "-1"], "no damping"),
        (["--method", "lissa", "--scale", "big"], "no --scale"),
        (["--method", "lissa", "--scale", "-2"], "no --scale"),
        (["--method", "lissa", "--scale", "1e-9", "--depth", "20"], "diverges"),
        (["--method", "ek-fac", "--damping", "0"], "no inverse"),
        (["--method", "tracincp"], "checkpoints of the training run are needed"),
        (["--method", "attif", "--checkpoints", "/nowhere"], "/nowhere"),
        (["--method", "ek-fac", "--combine", "max"], "--combine does nothing"),
        (["--method", "bm25", "--adjust", "power:2"], "--adjust does nothing"),
        (["--adjust", "power:2"], "--adjust does nothing for layerwise"),
        (["--method", "haif", "--adjust", "soft:0.5"], "does not hold these"),
        (["--method", "ahif", "--adjust", "soft:0.5"], "not the norms that ahif"),
    ],
)
def test_options_that_do_not_work_are_refused(index, options, words):
    before = (index / "manifest.json").read_bytes()
    refused(trace(index, *options), words)
    assert (index / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("option", ["--depth", "--repeats", "--factor-records"])
def test_counts_are_at_least_one(index, option):
    misused(trace(index, option, "0"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--methods", "magic"], "no method 'magic'"),
        (["--methods", "attif"], "checkpoints of the training run are needed"),
        (["--methods", "ek-fac", "--damping", "0"], "no inverse"),
        (["--methods", "haif", "--adjust", "soft:2"], "no adjustment"),
        (["--methods", "bm25", "--adjust", "power:2"], "--adjust does nothing"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_is_written(index, options, words):
    refused(cli("index", "-o", index, *options), words)
    assert supplements(index) == set()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--parameters", "all", "--methods", "relatif"], "linear maps only"),
        (["--methods", "attif"], "checkpoints of the training run are needed"),
        (["--methods", "gradient-cosine", "--adjust", "power:2"], "--adjust does nothing"),
    ],
)
def test_what_could_not_be_kept_is_refused_before_the_index_is_made(tmp_path, options, words):
    made = ("index", "--model", kit.checkpoint_path(), "--corpus", kit.corpus_path())
    refused(cli(*made, "-o", tmp_path / "i", *options), words)
    assert not (tmp_path / "i").exists()


def test_a_scope_without_factors_is_refused_and_nothing_is_written(tmp_path):
    path = shutil.copytree(kit.index_path("gpt2", "float32", parameters="all"), tmp_path / "i")
    refused(cli("index", "-o", path, "--methods", "relatif"), "linear maps only")
    assert supplements(path) == set()
