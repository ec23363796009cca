"""The help of the command line: at once, with examples, and of the options that exist."""

from __future__ import annotations

import resource
import shlex
import subprocess
import sys

import pytest

from haiftrace import __version__
from haiftrace import cli as command_line
from haiftrace.commands.panels import FORMER_SPELLINGS
from tests.kit import Outcome, cli


def test_help_answers_at_once_and_imports_nothing_heavy():
    heavy = {"torch", "transformers", "numpy", "rich", "pyarrow", "faiss", "tokenizers"}
    heavy |= {"matplotlib", "sklearn", "faker"}
    script = (
        "import sys\nfrom haiftrace import cli\n"
        f"sys.argv = ['haiftrace', *sys.argv[1:]]\ncode = cli._run()\n"
        f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)\nsys.exit(code)"
    )
    for arguments in (
        *(["--help"], ["trace", "--help"], ["--version"], ["index", "-h"]),
        *(["bench", "-h"], ["bench", "digits", "--help"], ["bench", "pii-e", "--help"]),
        *(["bench", "clue", "--help"], ["bench", "loor", "--help"]),
    ):
        command = [sys.executable, "-c", script, *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ran.stderr == "[]\n"
        assert ran.stdout


def test_help_takes_less_than_three_tenths_of_a_second_more_than_python():
    def seconds(program):
        """Of the processor, in the best of a few: other work on the machine does not count."""
        found = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(found)

    program = (
        "import sys; sys.argv = ['haiftrace', '--help']; import haiftrace.cli as cli; cli.main()"
    )
    assert seconds(program) - seconds("pass") < 0.3


@pytest.mark.parametrize("command", ["index", "trace", "report"])
def test_help_begins_with_three_examples(command):
    lines = cli(command, "--help").out.splitlines()
    examples = [
        line.strip() for line in lines[:8] if line.strip().startswith(f"haiftrace {command}")
    ]
    assert len(examples) == 3
    known = " ".join(lines)
    for example in examples:
        for word in shlex.split(example):
            assert not word.startswith("-") or word in known


def test_help_does_not_repeat_the_environment_variables():
    shown = "".join(cli(*command, "--help").out for command in ([], ["index"], ["trace"], ["demo"]))
    assert "env var" not in shown
    assert "HAIFTRACE_<COMMAND>_<OPTION>" in shown
    assert "130 interrupted" in " ".join(shown.split())


def test_the_documented_options_are_those_that_exist():
    program = command_line.typer.main.get_command(command_line.app)
    benches = [["bench", name] for name in program.commands["bench"].commands]
    for words in (["index"], ["trace"], ["report"], ["show"], ["redact"], ["demo"], *benches):
        shown = cli(*words, "--help").out
        command = program
        for word in words:
            command = command.commands[word]
        for parameter in command.params:
            names = [*parameter.opts, *parameter.secondary_opts]
            known = [name for name in names if name not in FORMER_SPELLINGS]
            assert all(name in shown for name in known if name.startswith("-")), names
            assert known


@pytest.mark.parametrize("command", ["index", "trace"])
def test_what_most_people_need_stands_first(command):
    shown = cli(command, "--help").out
    headings = [line[:-1] for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    order = ["Arguments", "Options", "Audit", "Asking", "Corpus", "A complete index"]
    order += ["More processes and machines", "Methods", "Expert"]
    assert headings == [heading for heading in order if heading in headings]
    first = shown.split("Options:\n", 1)[1].split("\n\n", 1)[0]
    assert first.count("\n  -") < 14
    for name in ("--model", "--corpus", "--output", "--method", "--help"):
        assert name in first
    assert {"--damping", "--memory"} <= set(shown.split("\nExpert:\n")[1].split())


def test_an_option_has_one_spelling_and_its_default_stands_in_one_place():
    program = command_line.typer.main.get_command(command_line.app)
    commands = {**program.commands, **program.commands["bench"].commands}
    shown = "".join(
        cli(*(["bench"] if n in program.commands["bench"].commands else []), n, "--help").out
        for n in commands
    )
    assert "when not given" not in shown
    assert "(default)" not in shown
    assert "default: (" not in shown
    for former in FORMER_SPELLINGS:
        assert f"{former} " not in shown
    for command in commands.values():
        names = {name for p in command.params for name in p.opts}
        assert ("-o" in names) == ("--output" in names)
        assert "--methods" not in names or "--method" in names


def test_a_shell_completes_options(monkeypatch):
    monkeypatch.setenv("COMP_WORDS", "haiftrace trace --prob")
    monkeypatch.setenv("COMP_CWORD", "2")
    outcome = cli(_HAIFTRACE_COMPLETE="complete_bash")
    assert outcome.code == 0
    assert outcome.out.split() == ["--probes-from-corpus"]


def test_the_version():
    assert cli("--version") == Outcome(0, f"{__version__}\n", "")
