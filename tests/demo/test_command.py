"""The demo command: the files that it lays out, and the commands that it prints."""

from __future__ import annotations

import json
import shlex
import shutil
import stat
from importlib import resources

import pytest

from haiftrace.demo.run import prepare, typed
from haiftrace.errors import OutputError
from tests import kit
from tests.kit import ANSWER, cli


def test_the_demo_lays_out_files_that_its_user_may_write(tmp_path):
    demo = prepare(tmp_path / "demo")
    assert demo.model.is_dir()
    assert demo.corpus.is_file()
    assert len(demo.leaks) == 2
    assert {leak.explanation for leak in demo.leaks} == {
        "A leak whose value stands in its record, word for word:",
        "A leak that is no copy of its record: the value is not in the text.",
    }
    paths = [tmp_path / "demo", *(tmp_path / "demo").rglob("*")]
    assert all(path.stat().st_mode & stat.S_IWUSR for path in paths)
    assert prepare(tmp_path / "demo") == demo  # again over itself
    for leak in demo.leaks:
        assert leak.command[:3] == ["haiftrace", "trace", leak.prompt]
        assert shlex.split(typed(leak.command)) == leak.command


def test_the_demo_copies_read_only_assets_as_files_of_ones_own(tmp_path, monkeypatch):
    source = tmp_path / "package"
    shutil.copytree(resources.files("haiftrace.demo") / "assets", source / "assets")
    files = [path for path in source.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o444)
    folders = [path for path in (source / "assets", *source.rglob("*")) if path.is_dir()]
    for path in folders:
        path.chmod(0o555)
    monkeypatch.setattr(resources, "files", lambda _: source)
    for _ in range(2):
        prepare(tmp_path / "demo")
    for path in (tmp_path / "demo", *(tmp_path / "demo").rglob("*")):
        assert path.stat().st_mode & stat.S_IWUSR
    for path in folders:
        path.chmod(0o755)


def test_the_demo_touches_no_directory_of_other_things(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    kit.refused(cli("demo", "-o", tmp_path / "mine"), "is not empty")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("")
    kit.refused(cli("demo", "-o", tmp_path / "file"), "cannot be written")
    with pytest.raises(OutputError):
        prepare(tmp_path / "file" / "below")


@pytest.fixture
def small_demo(tmp_path, monkeypatch):
    """The demo with other assets: a checkpoint that takes a second."""
    assets = tmp_path / "package" / "assets"
    shutil.copytree(kit.checkpoint_path(), assets / "checkpoint")
    shutil.copy(kit.corpus_path(), assets / "corpus.jsonl")
    leaks = [
        {"kind": "verbatim", "prompt": "Mara Ellison's phone number", "response": ANSWER},
        {"kind": "inferred", "prompt": "The phone number of Rufus Okonkwo-Lind", "response": "555"},
    ]
    content = {"template": "{prompt} is", "leaks": leaks}
    (assets / "demo.json").write_text(json.dumps(content))
    monkeypatch.setattr(resources, "files", lambda _: tmp_path / "package")


@pytest.mark.parametrize(
    "words",
    [["haiftrace", "trace", "What's this?"], ["a b", "$HOME", '"', "'", "`x`!", "\\", ""]],
)
def test_a_command_is_typed_as_a_shell_reads_it(words):
    assert shlex.split(typed(words)) == words
    assert typed(["What's this?"]) == '"What\'s this?"'


def test_the_demo_prints_commands_that_go_on(tmp_path, small_demo):
    demo_runs(tmp_path)


@pytest.mark.slow
def test_the_demo_that_ships_runs(tmp_path):
    demo_runs(tmp_path)


def demo_runs(tmp_path):
    outcome = cli("demo", "-o", "demo", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    assert [shlex.split(c)[:2] for c in commands] == [
        ["haiftrace", "index"],
        ["haiftrace", "trace"],
        ["haiftrace", "trace"],
    ]
    assert outcome.out.count("#1 ") == 2
    following = [line.strip() for line in lines if line.startswith("  haiftrace ")]
    assert len(following) == 3
    for command in following:
        went_on = cli(*shlex.split(command)[1:], cwd=tmp_path)
        assert went_on.code == 0, went_on.err
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report["findings"][0]["exhaustive"]
    assert "is complete already" in cli("demo", "-o", "demo", cwd=tmp_path).err
