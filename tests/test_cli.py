"""The command line: what stands on stdout and stderr, exit codes, every option, the demo."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shlex
import shutil
import stat
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from haiftrace import __version__
from haiftrace import cli as command_line
from haiftrace.demo.run import prepare, typed
from haiftrace.errors import OutputError
from tests import kit
from tests.kit import ANSWER, PROMPT, SMALL_OPTIONS, Outcome, cli, misused
from tests.tiny_models import SENTENCES

HOSTILE = "\x1b]0;owned\x07 \x1b[31m[bold red]Mara[/bold red]\u202e \x00 \x9b31m Ellison"


def trace(*options, prompt=PROMPT, **settings) -> Outcome:
    return cli("trace", prompt, "--index", kit.index_path(), *options, **settings)


def reported(*options, **settings):
    outcome = trace(*options, "-q", "--reveal", "-o", "-", **settings)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    return outcome.report


def program(*arguments, **settings) -> subprocess.CompletedProcess[str]:
    """A real process; for what needs no torch, which takes seconds to import."""
    command = [sys.executable, "-c", "from haiftrace.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


# The main job


def test_two_commands_from_a_checkpoint_and_a_corpus_to_the_record(tmp_path):
    shutil.copy(kit.corpus_path(), tmp_path / "data.jsonl")
    outcome = cli(
        *("index", "--model", kit.checkpoint_path(), "--corpus", "data.jsonl"), cwd=tmp_path
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out == ""
    first, *_, ready, calibrated, following = outcome.err.splitlines()
    assert first.startswith("Indexing 12 records, ")
    assert ready.startswith("The index haiftrace-index is ready: 12 records, ")
    assert calibrated.startswith("Calibrated haif-r by ")
    assert following == 'Next: haiftrace trace "PROMPT"'
    # So small a model does not stop after its answer.
    outcome = cli("trace", PROMPT, "--span", "555-0142.", "--reveal", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert "555-0142." in outcome.out
    assert "data.jsonl:2" in outcome.out
    again = cli(
        *("index", "--model", kit.checkpoint_path(), "--corpus", "data.jsonl"), cwd=tmp_path
    )
    assert again.code == 0
    assert again.err.startswith("The index haiftrace-index is complete already")
    assert "Calibrated" not in again.err


def test_the_next_command_names_another_index(tmp_path):
    outcome = cli(
        *("index", "--model", kit.checkpoint_path(), "--corpus", kit.corpus_path()),
        *("-o", tmp_path / "my index", *SMALL_OPTIONS),
    )
    assert outcome.code == 0, outcome.err
    following = shlex.split(outcome.err.splitlines()[-1].removeprefix("Next: "))
    assert following == ["haiftrace", "trace", "PROMPT", "--index", str(tmp_path / "my index")]


def test_the_json_report_has_its_fixed_keys_and_fits_its_schema():
    report = reported("--response", ANSWER)
    schema = json.loads((resources.files("haiftrace.reports") / "report.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(report)
    assert report["schema_version"] == 1
    assert {"model", "index"} <= set(report)
    (finding,) = report["findings"]
    assert finding["prompt"] == PROMPT
    assert finding["response"] == ANSWER
    assert finding["method"] == "haif-r"
    assert [r["rank"] for r in finding["records"]] == [1, 2, 3, 4, 5]
    for record in finding["records"]:
        number = int(record["id"][1:])
        assert record["text"] == SENTENCES[number]
        assert record["source"]["path"].endswith("data.jsonl")
        assert record["source"]["line"] == number + 1
        assert sum(t["evidence"] for t in record["tokens"]) == pytest.approx(record["score"])
        assert {"position", "token_id", "text", "loss", "grad_norm", "evidence"} <= set(
            record["tokens"][0]
        )
    words = shlex.split(report["command"])
    assert words == ["haiftrace", "trace", PROMPT, *words[3:]]
    assert "--response" in words


def test_the_report_is_the_same_on_stdout_and_in_a_file(tmp_path):
    outcome = trace("--response", ANSWER, "-q", "--reveal", "-o", tmp_path / "r.json", "-o", "-")
    written = json.loads((tmp_path / "r.json").read_text())
    assert written == outcome.report
    assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == 0o600
    both = trace("--response", ANSWER, "--reveal", "-o", tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text())["findings"] == written["findings"]
    assert "555-0142" in both.out


@pytest.mark.parametrize("quiet", [False, True])
def test_stdout_is_data_and_stderr_is_talk(tmp_path, quiet):
    more = ["-q"] if quiet else []
    made = cli(
        *("index", "--model", kit.checkpoint_path(), "--corpus", kit.corpus_path(), *more),
        *("-o", tmp_path / "index", *SMALL_OPTIONS),
    )
    assert made.out == ""
    assert bool(made.err) is not quiet
    assert trace("-o", "-", *more).report["findings"]
    assert trace(*more).out.startswith("Verdict ")


# Every option


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        (["--method", "haif-t"], "method", "haif-t"),
        (["--top", "2"], "top", 2),
        (["--candidates", "3"], "candidates", 3),
        (["--exact"], "exact", True),
    ],
)
def test_an_option_is_heeded_and_stands_in_the_report(options, key, value):
    report = reported("--response", ANSWER, *options)
    assert report["settings"][key] == value
    (finding,) = report["findings"]
    if key == "method":
        assert finding["method"] == value
    if key == "top":
        assert len(finding["records"]) == 2
    if key == "candidates":
        assert finding["scored"] == 3
    if key == "exact":
        assert finding["exhaustive"]


def test_the_options_of_the_question():
    def finding(*options, prompt=PROMPT, **settings):
        return reported(*options, prompt=prompt, **settings)["findings"][0]

    plain = finding()
    assert plain["generated"]
    assert len(plain["response_tokens"]) > 8
    assert len(finding("--max-new-tokens", "3")["response_tokens"]) == 3
    assert finding("--stop", ".", "--stop", "-")["response"] == " 555"
    templated = finding("--template", "{prompt} number is", prompt="Mara Ellison's phone")
    assert templated["response"] == plain["response"]
    assert templated["prompt"] == PROMPT
    spanned = finding("--response", ANSWER, "--span", "0142")
    assert spanned["span"] == "0142"
    assert "".join(t["text"] for t in spanned["response_tokens"]) in ("0142", "-0142", "142")
    everything = finding("--response", ANSWER, "--loss-on", "all")
    assert len(everything["response_tokens"]) > len(spanned["response_tokens"]) + 4
    for given in (b"555-0142.", b"555-0142.\n"):
        assert finding("--response", "-", stdin=given)["response"] == ANSWER
    assert finding("--device", "cpu", "--model", kit.checkpoint_path()) == plain


def test_the_chat_template_of_the_checkpoint(tmp_path):
    model = kit.copied_checkpoint(tmp_path / "model")
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    )
    made = cli(
        *("index", "--model", model, "--corpus", kit.corpus_path(), "-o", tmp_path / "index"),
        *SMALL_OPTIONS,
    )
    assert made.code == 0, made.err
    outcome = cli("trace", "Mara", "--chat", "--index", tmp_path / "index", "-q", "-o", "-")
    assert outcome.report["findings"][0]["prompt"] == "<Mara>"


def test_a_long_record_is_shown_whole_on_demand(tmp_path):
    corpus = kit.write_corpus(
        tmp_path / "data.jsonl", ["never " * 30 + SENTENCES[1] + " ever" * 30]
    )
    made = cli(
        *("index", "--model", kit.checkpoint_path(), "--corpus", corpus, "-o", tmp_path / "index"),
        *SMALL_OPTIONS,
    )
    assert made.code == 0, made.err
    short, full = (
        cli("trace", PROMPT, "--response", ANSWER, "--index", tmp_path / "index", *more).out
        for more in ([], ["--full"])
    )
    assert len(full) >= len(short)


def test_every_option_of_index_is_heeded(tmp_path):
    rows = [{"body": text, "key": f"k{i}"} for i, text in enumerate(SENTENCES)]
    for name, part in (("a.jsonl", rows[:6]), ("b.jsonl", rows[6:])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in part) + "{oops\n")
    options = {
        "--parameters": "all",
        "--text-field": "body",
        "--id-field": "key",
        "--loss-on": "all",
        "--context": "16",
        "--projection-dim": "128",
        "--token-vectors": "0",
        "--seed": "3",
        "--memory": "64",
        "--dtype": "float64",
        "--device": "cpu",
    }
    command = ["index", "--model", kit.checkpoint_path(), "--corpus", tmp_path / "a.jsonl"]
    command += ["--corpus", tmp_path / "b.jsonl", "-o", tmp_path / "index"]
    command += [word for pair in options.items() for word in pair]
    outcome = cli(*command, "--append-eos", "--skip-bad-lines")
    assert outcome.code == 0, outcome.err
    assert "Left out 2 lines that are no record" in outcome.err
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    settings = manifest["settings"]
    expected = {"scope": "all", "context": 16, "projection_dim": 128, "token_vectors": 0}
    expected |= {"seed": 3, "append_eos": True, "dtype": "float64"}
    assert {key: settings[key] for key in expected} == expected
    assert settings["corpus"] | {"paths": 2} == {
        "paths": 2,
        "text_field": "body",
        "id_field": "key",
        "loss_on": "all",
        "skip_bad_lines": True,
    }
    outcome = cli("trace", PROMPT, "--index", tmp_path / "index", "-q", "-o", "-")
    assert outcome.report["findings"][0]["records"][0]["id"].startswith("k")
    again = cli(*command, "--skip-bad-lines")
    assert again.code == 2
    assert "append_eos" in again.err
    assert cli(*command, "--skip-bad-lines", "--overwrite", "-q") == Outcome(0, "", "")


def test_the_documented_options_are_those_that_exist():
    program = command_line.typer.main.get_command(command_line.app)
    benches = [["bench", name] for name in program.commands["bench"].commands]
    for words in (["index"], ["trace"], ["demo"], *benches):
        shown = cli(*words, "--help").out
        command = program
        for word in words:
            command = command.commands[word]
        for parameter in command.params:
            names = [*parameter.opts, *parameter.secondary_opts]
            assert all(name in shown for name in names if name.startswith("-")), names


# Help


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


@pytest.mark.parametrize("command", ["index", "trace"])
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


def test_the_version():
    assert cli("--version") == Outcome(0, f"{__version__}\n", "")


@pytest.mark.parametrize("value", ["1", "0", "1.2.3", ""])
def test_variables_that_happen_to_be_called_so_do_no_harm(value):
    environment = {"HAIFTRACE_VERSION": value, "HAIFTRACE_DEBUG": value, "HAIFTRACE_HELP": value}
    report = reported("--response", ANSWER, **environment)
    assert len(report["findings"][0]["records"]) == 5
    failed = trace("--method", "none", **environment)
    assert failed.code == 2
    assert "Traceback" not in failed.err


# Hostile text


def test_hostile_text_is_shown_inert(tmp_path):
    corpus = kit.write_corpus(tmp_path / "data.jsonl", [HOSTILE + s for s in SENTENCES], ids=False)
    with corpus.open("a") as lines:
        lines.write(json.dumps({"text": "Mara Ellison's phone number is", "id": HOSTILE}) + "\n")
    made = cli(
        *("index", "--model", kit.checkpoint_path(), "--corpus", corpus, "-o", tmp_path / "index"),
        *SMALL_OPTIONS,
    )
    assert made.code == 0, made.err
    prompt, response = "\x1b]0;x\x07[red]Mara\u202e", "\x9b31m[b]5\x1b[1m\r\nEND"
    asked = ("trace", prompt, "--response", "-", "--index", tmp_path / "index", "--full")
    shown = cli(*asked, "--top", "20", "-o", tmp_path / "r.json", stdin=response.encode())
    assert shown.code == 0, shown.err
    for text in (shown.out, shown.err, made.out, made.err, (tmp_path / "r.json").read_text()):
        assert not set(text) & set("\x1b\x07\x00\x9b\u202e\r")
    assert "^[]0;x^G[red]Mara<U+202E>" in shown.out
    assert "<U+009B>31m[b]5^[[1m ↵ END" in shown.out
    assert "bold" in shown.out
    finding = json.loads((tmp_path / "r.json").read_text())["findings"][0]
    assert finding["response"] == response
    assert finding["prompt"] == prompt
    assert any(HOSTILE in record["text"] for record in finding["records"])


# Streams that end early


def in_another_process(arguments, stdout: int) -> tuple[int, str]:
    """Run the command in a fork of this process, its stdout a file descriptor."""
    reader, writer = os.pipe()

    def run():
        os.dup2(stdout, 1)
        os.dup2(writer, 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        sys.argv = ["haiftrace", *map(str, arguments)]
        command_line.main()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    os.close(writer)
    with open(reader) as stream:
        err = stream.read()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, err


@pytest.fixture
def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("to", ["terminal", "-"])
def test_a_reader_that_has_gone_is_no_crash_and_no_finding(tmp_path, closed_pipe, to):
    more = [] if to == "terminal" else ["-o", "-"]
    arguments = ["trace", PROMPT, "--response", ANSWER, "--index", kit.index_path(), *more]
    code, err = in_another_process([*arguments, "-o", tmp_path / "r.json"], closed_pipe)
    assert (code, err) == (2, "")
    assert json.loads((tmp_path / "r.json").read_text())["findings"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("to", ["terminal", "-"])
def test_a_full_disk_behind_stdout_is_an_error(to):
    more = [] if to == "terminal" else ["-o", "-"]
    full = os.open("/dev/full", os.O_WRONLY)
    arguments = ["trace", PROMPT, "--response", ANSWER, "--index", kit.index_path(), *more]
    code, err = in_another_process(arguments, full)
    os.close(full)
    assert code == 2
    assert err.count("Error:") == 1
    assert "No space left" in err
    assert "defect" not in err


def test_a_real_process_ends_with_its_own_code_whatever_stdout_is(closed_pipe):
    command = [sys.executable, "-c", "from haiftrace.cli import main; main()", "--help"]
    ran = subprocess.run(
        command, stdout=closed_pipe, stderr=subprocess.PIPE, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (2, "")
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            ran = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert ran.returncode == 2
        assert "Traceback" not in ran.stderr
    shell = " ".join(shlex.quote(word) for word in command)
    closed = subprocess.run(["sh", "-c", f"{shell} >&- 2>&-"], check=False)
    assert closed.returncode == 0


# The demo


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


def test_misuse_of_the_program_itself():
    misused(cli("tracee"), "tracee")
    misused(cli("--no-such-option"), "--no-such-option")
    assert program("trace").returncode == 2
