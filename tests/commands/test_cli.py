"""The command line: what stands on stdout and stderr, exit codes, every option."""

from __future__ import annotations

import json
import shlex
import shutil
import stat
import subprocess
import sys
from importlib import resources

import jsonschema
import pytest

from tests import kit
from tests.commands.cli_kit import trace
from tests.kit import ANSWER, PROMPT, SMALL_OPTIONS, Outcome, cli, misused
from tests.tiny_models import SENTENCES

HOSTILE = "\x1b]0;owned\x07 \x1b[31m[bold red]Mara[/bold red]\u202e \x00 \x9b31m Ellison"


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
    assert calibrated.startswith("Calibrated layerwise by ")
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
    report = reported("--response", ANSWER, "--full")
    schema = json.loads((resources.files("haiftrace.reports") / "report.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(report)
    assert report["schema_version"] == 2
    assert {"model", "index"} <= set(report)
    (finding,) = report["findings"]
    assert finding["prompt"] == PROMPT
    assert finding["response"] == ANSWER
    assert finding["method"] == "layerwise"
    assert [r["rank"] for r in finding["records"]] == [1, 2, 3, 4, 5]
    for record in finding["records"]:
        number = int(record["id"][1:])
        assert record["text"] == SENTENCES[number]
        assert record["source"]["path"].endswith("data.jsonl")
        assert record["source"]["line"] == number + 1
        assert sum(t["evidence"] for t in record["tokens"]) == pytest.approx(record["score"])
        assert len(record["layers"]) == kit.checkpoint().model.config.n_layer
        assert sum(record["layers"]) == pytest.approx(record["score"])
        assert record["pairs"]
        assert record["cosine"] is None  # as no single vector stands for a record
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
        (["--method", "haif", "--candidates", "3"], "candidates", 3),
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
        return reported("--whole", *options, prompt=prompt, **settings)["findings"][0]

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
        "--token-vectors": "0",
        "--whitening-damping": "0.2",
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
    expected = {"scope": "all", "context": 16, "token_vectors": 0, "whitening_damping": 0.2}
    expected |= {"seed": 3, "append_eos": True, "dtype": "float64", "gradients": "direct"}
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
    options = ("--top", "20", "--whole", "-o", tmp_path / "r.json")
    shown = cli(*asked, *options, stdin=response.encode())
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


# Misuse


def test_misuse_of_the_program_itself():
    misused(cli("tracee"), "tracee")
    misused(cli("--no-such-option"), "--no-such-option")
    assert program("trace").returncode == 2


def test_no_arguments_show_the_help_and_are_no_success():
    outcome = cli()
    assert outcome.code == 2
    assert "Usage: haiftrace" in outcome.out + outcome.err
    assert cli("--debug").code == 2
