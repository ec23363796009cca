"""Runs the `run:` steps of action.yml as the service would, in a repository that is not this one.

Steps that use other actions are left aside, and named. As a command, everything is installed anew
in an environment of its own, from wherever pip is configured to:

    python -m tests.ci.action_runner WORKSPACE [NAME=VALUE ...]
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_NAME = re.compile(r"'[^']*'|[A-Za-z_][\w.-]*")


@dataclass
class Outcome:
    """What a run of the action gave.

    Attributes:
        code: of the step that failed, 0 where none did.
        failed: its name.
        outputs: of the steps, by `ID.NAME`.
        used: steps that use another action: (action, its inputs) of those whose condition held.
        said: what the steps wrote.
    """

    code: int = 0
    failed: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    used: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    said: str = ""


def action() -> dict[str, Any]:
    """action.yml."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    return content


def run_action(
    workspace: Path, temp: Path, given: Mapping[str, str], *, skip: frozenset[str] = frozenset()
) -> Outcome:
    """The steps in their order, up to the first that fails.

    Args:
        workspace: the user's repository.
        temp: the runner's temporary directory.
        given: inputs.
        skip: names of steps that are not run.
    """
    described = action()
    inputs = {name: str(about.get("default", "")) for name, about in described["inputs"].items()}
    assert set(given) <= set(inputs)
    names = {f"inputs.{name}": value for name, value in (inputs | dict(given)).items()}
    names["runner.temp"] = str(temp)
    outcome = Outcome()
    for step in described["runs"]["steps"]:
        known = names | {f"steps.{name}": value for name, value in outcome.outputs.items()}
        if "if" in step and not _holds(step["if"], known):
            continue
        if "uses" in step:
            inputs_of = {key: _filled(str(v), known) for key, v in step.get("with", {}).items()}
            outcome.used.append((step["uses"], inputs_of))
        elif step["name"] not in skip:
            code = _run(step, workspace, temp, known, outcome)
            if code:
                outcome.code, outcome.failed = code, step["name"]
                break
    return outcome


def _run(
    step: Mapping[str, Any],
    workspace: Path,
    temp: Path,
    known: Mapping[str, str],
    outcome: Outcome,
) -> int:
    files = {name: temp / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    files["GITHUB_OUTPUT"].write_text("")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HAIFTRACE_", "VIRTUAL_"))}
    environment = {
        **kept,
        **{name: str(path) for name, path in files.items()},
        "GITHUB_ACTION_PATH": str(ROOT),
        "RUNNER_TEMP": str(temp),
        **{key: _filled(str(value), known) for key, value in step.get("env", {}).items()},
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    ran = subprocess.run(
        command, cwd=workspace, env=environment, capture_output=True, text=True, check=False
    )
    outcome.said += f"== {step['name']}\n{ran.stdout}{ran.stderr}"
    for line in files["GITHUB_OUTPUT"].read_text().splitlines():
        name, _, value = line.partition("=")
        outcome.outputs[f"{step['id']}.outputs.{name}"] = value
    return ran.returncode


def _filled(text: str, known: Mapping[str, str]) -> str:
    return _EXPRESSION.sub(lambda match: known.get(match[1], ""), text)


def _holds(condition: str, known: Mapping[str, str]) -> bool:
    """A condition of names, texts, ==, != and &&, which is all that action.yml has."""
    inner = _EXPRESSION.fullmatch(condition)
    assert inner is not None, condition
    for part in inner[1].split("&&"):
        terms = _NAME.findall(part)
        left, right = (t[1:-1] if t.startswith("'") else known.get(t, "") for t in terms)
        if (left == right) != ("==" in part):
            return False
    return True


def main() -> int:
    """Runs the action over a repository; its outputs and its exit code."""
    workspace, *settings = sys.argv[1:]
    given = dict(setting.split("=", 1) for setting in settings)
    with tempfile.TemporaryDirectory(prefix="haiftrace-action-") as temp:
        outcome = run_action(Path(workspace).absolute(), Path(temp), given)
        print(outcome.said)
        print((Path(temp) / "github_step_summary").read_text()[:2_000])
        for name, value in outcome.outputs.items():
            print(f"{name}={shlex.quote(value)}")
        for action_, inputs in outcome.used:
            print(f"would use {action_} {inputs}")
    print(f"exit {outcome.code} {outcome.failed}")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
