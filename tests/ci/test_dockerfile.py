"""The Dockerfile: bases pinned, no cache kept, no CUDA, not run as root, nothing private copied."""

from __future__ import annotations

import re

from tests.ci.action_runner import ROOT

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of each, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE))
    found = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name, arguments) for name, arguments in found]


def arguments_of(name: str) -> list[str]:
    return [arguments for each, arguments in instructions() if each == name]


def test_every_stage_begins_from_one_pinned_base() -> None:
    bases = [arguments.split()[0] for arguments in arguments_of("FROM")]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", bases[0])


def test_pip_keeps_no_cache_and_torch_comes_first_without_cuda() -> None:
    installs = [step for run in arguments_of("RUN") for step in run.split("&&") if "pip " in step]
    assert len(installs) == 2
    assert all("--no-cache-dir" in step for step in installs)
    assert "torch==" in installs[0]
    assert installs[0].rstrip().endswith("/cpu")
    assert "-c constraints.txt" in installs[1]


def test_it_does_not_run_as_root() -> None:
    (user,) = arguments_of("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    after = [name for name, _ in instructions()[instructions().index(("USER", user)) :]]
    assert "RUN" not in after
    assert "COPY" not in after


def test_what_the_build_copies_is_all_that_it_is_given() -> None:
    copied = {
        name
        for arguments in arguments_of("COPY")
        if not arguments.startswith("--from")
        for name in arguments.split()[:-1]
    }
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
