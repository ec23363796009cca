"""action.yml: what it declares is what it uses, and its steps audit a user's repository."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import kit
from tests.ci.action_runner import ROOT, Outcome, action, run_action
from tests.kit import ANSWER, PROMPT, cli

STEPS = action()["runs"]["steps"]
SCRIPTS = {step["name"]: step["run"] for step in STEPS if "run" in step}
REPORT = {"report.json", "report.sarif", "report.md", "report.html"}


def test_every_input_is_used_and_every_one_used_is_declared() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    used = set(re.findall(r"\binputs\.([\w-]+)", text))
    assert used == set(action()["inputs"])
    ids = {step["id"] for step in STEPS if "id" in step}
    assert set(re.findall(r"\bsteps\.([\w-]+)\.", text)) <= ids


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_takes_inputs_from_its_environment_alone(name: str) -> None:
    """Text of an input that stands in a script would be run as a part of it."""
    assert "${{" not in SCRIPTS[name]
    checked = subprocess.run(["bash", "-n", "-c", SCRIPTS[name]], capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, b"")


@pytest.mark.parametrize(("name", "command"), [("Index", "index"), ("Audit", "trace")])
def test_the_options_of_haiftrace_exist(name: str, command: str) -> None:
    shown = cli(command, "--help").out
    of_others = {"--noprofile"}
    for option in set(re.findall(r"(?<![\w-])--[a-z-]+", SCRIPTS[name])) - of_others:
        assert option in shown


def test_torch_comes_first_and_without_cuda() -> None:
    first, second = re.findall(r'"\$pip" install .*', SCRIPTS["Install haiftrace"])
    assert "torch==" in first
    assert "--index-url" in first
    assert "$GITHUB_ACTION_PATH" in second
    assert action()["inputs"]["torch-index"]["default"].endswith("/cpu")
    assert re.search("^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_the_index_is_no_artifact_and_a_cache_only_where_it_may_be() -> None:
    of = {step["uses"].split("@")[0]: step for step in STEPS if "uses" in step}
    assert "index" not in of["actions/upload-artifact"]["with"]["path"]
    assert "keep" in of["actions/cache"]["if"]
    assert all(re.search(r"@v\d+$", step["uses"]) for step in of.values())


def test_the_hook_runs_the_installed_command() -> None:
    import yaml

    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    program, command = hook["entry"].split()
    assert (program, hook["language"], hook["pass_filenames"]) == ("haiftrace", "system", False)
    assert cli(command, "--help").code == 0
    for name in ("ckpt/model.safetensors", "probes.jsonl", ".haiftraceignore", "a.gguf"):
        assert re.search(hook["files"], name)
    assert not re.search(hook["files"], "README.md")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A user's repository: a checkpoint, a corpus and probes, and nothing of haiftrace."""
    workspace = tmp_path / "my repository"
    workspace.mkdir()
    kit.copied_checkpoint(workspace / "ckpt")
    shutil.copy(kit.corpus_path(), workspace / "data.jsonl")
    probe = {"id": "mara", "prompt": PROMPT, "response": ANSWER}
    (workspace / "probes.jsonl").write_text(json.dumps(probe) + "\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Start"]):
        subprocess.run([*git, *arguments], cwd=workspace, check=True)
    return workspace


def ran(repository: Path, temp: Path, **given: str) -> Outcome:
    """The action over a repository, with the haiftrace of this checkout in place of an install."""
    program = temp / "haiftrace/venv/bin/haiftrace"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={str(ROOT)!r} exec {sys.executable!r} -m haiftrace "$@"\n'
    )
    program.chmod(0o755)
    inputs = {
        "model": "ckpt",
        "corpus": "data.jsonl",
        "index-options": "--token-vectors 64 --calibrate 0",
        **{name.replace("_", "-"): value for name, value in given.items()},
    }
    return run_action(repository, temp, inputs, skip=frozenset({"Install haiftrace"}))


@pytest.mark.slow
def test_the_steps_audit_a_repository(repository: Path, tmp_path: Path) -> None:
    temp = tmp_path / "runner"
    outcome = ran(repository, temp, probes="probes.jsonl", options="--category 'support bot'")
    assert (outcome.code, outcome.failed) == (2, "Decide"), outcome.said
    # A category with a space is refused by haiftrace: the option came as one word.
    assert "--category is no name" in outcome.said

    outcome = ran(repository, temp, probes="probes.jsonl", options="--category support-bot")
    assert (outcome.code, outcome.failed) == (1, "Decide"), outcome.said
    assert "is complete already" in outcome.said  # as from a cache
    report = Path(outcome.outputs["audit.outputs.report"])
    assert {path.name for path in report.iterdir()} == REPORT
    assert "## haiftrace: Gate failed" in (temp / "github_step_summary").read_text()
    assert ANSWER.strip(".") not in "".join(path.read_text() for path in report.iterdir())
    used = {action_.split("@")[0]: inputs for action_, inputs in outcome.used}
    assert used["actions/cache"]["path"] == str(temp / "haiftrace/index")
    assert used["github/codeql-action/upload-sarif"]["sarif_file"] == f"{report}/report.sarif"
    assert used["actions/upload-artifact"] == {"name": "haiftrace-report", "path": str(report)}
    assert "support-bot" in (report / "report.sarif").read_text()


@pytest.mark.slow
def test_the_cache_is_for_what_the_repository_holds_and_keyed_by_what_was_indexed(
    repository: Path, tmp_path: Path
) -> None:
    def key(**given: str) -> tuple[str, bool]:
        options = {"probes": "probes.jsonl", "options": "--fail-on none", **given}
        outcome = ran(repository, tmp_path / "runner", **options)
        shutil.rmtree(tmp_path / "runner/haiftrace/index", ignore_errors=True)
        assert outcome.code == 0, outcome.said
        cached = any(name.startswith("actions/cache@") for name, _ in outcome.used)
        return outcome.outputs["fingerprints.outputs.key"], cached

    first, cached = key()
    assert cached
    assert key(cache="never", artifact="", upload_sarif="false") == (first, False)
    with (repository / "data.jsonl").open("a") as corpus:
        corpus.write(json.dumps({"id": "new", "text": "A further record."}) + "\n")
    changed, _ = key()
    assert changed != first
    shutil.copy(repository / "data.jsonl", repository / "private.jsonl")
    assert key(corpus="private.jsonl")[1] is False
    assert key(corpus="private.jsonl", cache="always")[1] is True


@pytest.mark.slow
def test_an_audit_that_cannot_be_made_fails_and_uploads_nothing(
    repository: Path, tmp_path: Path
) -> None:
    outcome = ran(repository, tmp_path / "runner", probes="none.jsonl")
    assert (outcome.code, outcome.failed) == (2, "Decide")
    assert {name.split("@")[0] for name, _ in outcome.used} == {
        *("actions/setup-python", "actions/cache")
    }
