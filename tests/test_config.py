"""haiftrace.toml, and which of flag, environment variable, file and default counts."""

from __future__ import annotations

import json

import pytest

from haiftrace.config import read_config
from haiftrace.errors import UsageError
from tests.kit import (
    ANSWER,
    PROMPT,
    checkpoint_path,
    cli,
    corpus_path,
    index_path,
    misused,
    refused,
)

OPTIONS = {
    "index": {"model": False, "text_field": False, "corpus": True},
    "trace": {"top": False},
    "bench": {"digits": {"seeds": False, "data": True}, "clue": {"corpus": True}},
}


def config(path, text):
    (path / "haiftrace.toml").write_text(text, encoding="utf-8")
    return path / "haiftrace.toml"


def test_no_file_sets_nothing(tmp_path):
    assert read_config(tmp_path / "haiftrace.toml", OPTIONS) == {}


def test_options_by_command_with_hyphens_or_underscores_and_lists(tmp_path):
    text = '[index]\nmodel = "m"\ntext-field = "t"\ncorpus = ["a", "b"]\n[trace]\ntop = 3\n'
    settings = {
        "index": {"model": "m", "text_field": "t", "corpus": ["a", "b"]},
        "trace": {"top": 3},
    }
    assert read_config(config(tmp_path, text), OPTIONS) == settings
    assert read_config(config(tmp_path, text.replace("-", "_")), OPTIONS) == settings


def test_a_repeatable_option_takes_a_single_value_too(tmp_path):
    file = config(tmp_path, '[index]\ncorpus = "a"\n')
    assert read_config(file, OPTIONS) == {"index": {"corpus": ["a"]}}


def test_the_commands_of_a_group_have_tables_of_their_own(tmp_path):
    text = '[trace]\ntop = 1\n[bench.digits]\nseeds = 3\ndata = "d"\n[bench.clue]\ncorpus = ["c"]\n'
    assert read_config(config(tmp_path, text), OPTIONS) == {
        "trace": {"top": 1},
        "bench": {"digits": {"seeds": 3, "data": ["d"]}, "clue": {"corpus": ["c"]}},
    }


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("[bench]\nseeds = 3\n", "'bench.seeds', which is no table", "[bench.digits]"),
        ("[bench.digit]\nseeds = 3\n", "'bench.digit', which is no table", "[bench.clue]"),
        ("[bench.digits]\nx = 3\n", "'x' in [bench.digits]", "`haiftrace bench digits --help`"),
        ("[bench.digits.data]\nx = 3\n", "'data' in [bench.digits] to several", "Keep one."),
        ("bench = 3\n", "'bench', which is no table", "[trace], [bench.digits], [bench.clue]"),
    ],
)
def test_what_a_group_does_not_have_is_refused(tmp_path, text, what, hint):
    with pytest.raises(UsageError) as caught:
        read_config(config(tmp_path, text), OPTIONS)
    assert what in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("top = 3\n", "'top', which is no table"),
        ("[tracing]\ntop = 3\n", "'tracing', which is no table"),
        ("[trace]\ntopp = 3\n", "'topp' in [trace]"),
        ("[trace]\nmodel = 'm'\n", "'model' in [trace]"),
        ("[trace]\ntop = [3, 4]\n", "to several values"),
        ("[trace.top]\nx = 1\n", "to several values"),
        ("[trace\n", "cannot be read"),
        ("[trace]\ntop = 1\ntop = 2\n", "cannot be read"),
    ],
)
def test_what_does_not_exist_is_refused(tmp_path, text, what):
    with pytest.raises(UsageError) as caught:
        read_config(config(tmp_path, text), OPTIONS)
    assert what in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "haiftrace.toml").write_bytes(b"# \xff\n")
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "haiftrace.toml", OPTIONS)


@pytest.mark.parametrize(
    ("flags", "environment", "file", "expected"),
    [
        ((), {}, "", 5),
        ((), {}, "[trace]\ntop = 1\n", 1),
        ((), {"HAIFTRACE_TRACE_TOP": "2"}, "[trace]\ntop = 1\n", 2),
        (("--top", "3"), {"HAIFTRACE_TRACE_TOP": "2"}, "[trace]\ntop = 1\n", 3),
    ],
    ids=["default", "file", "environment", "flag"],
)
def test_flag_over_environment_over_file_over_default(tmp_path, flags, environment, file, expected):
    if file:
        config(tmp_path, file)
    asked = ("trace", PROMPT, "--response", ANSWER, "--index", index_path(), "-q", "-o", "-")
    outcome = cli(*asked, *flags, cwd=tmp_path, **environment)
    assert outcome.code == 0, outcome.err
    assert len(outcome.report["findings"][0]["records"]) == expected
    assert outcome.report["settings"]["top"] == expected


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ((), {}, 4),
        ((), {"HAIFTRACE_BENCH_DIGITS_SEED": "5"}, 5),
        (("--seed", "6"), {"HAIFTRACE_BENCH_DIGITS_SEED": "5"}, 6),
    ],
    ids=["file", "environment", "flag"],
)
def test_the_same_order_for_a_command_of_a_group(tmp_path, flags, environment, expected):
    config(
        tmp_path,
        "[bench.digits]\nseed = 4\nsteps = 9\nrecords = 2\nlimit = 80\nbatch-size = 20\n",
    )
    outcome = cli("bench", "digits", "--out", "o", *flags, cwd=tmp_path, **environment)
    assert outcome.code == 0, outcome.err
    document = json.loads((tmp_path / "o" / "results.json").read_text())
    assert document["seeds"] == [expected]
    assert document["settings"]["recipe"]["steps"] == 9


def test_required_options_and_lists_may_come_from_the_file(tmp_path):
    config(
        tmp_path,
        f'[index]\nmodel = "{checkpoint_path()}"\ncorpus = "{corpus_path()}"\n'
        "whitening-damping = 0.2\ntoken_vectors = 0\n"
        f'[trace]\nresponse = "{ANSWER}"\noutput = ["a.json", "b.json"]\nexact = true\n',
    )
    outcome = cli("index", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    manifest = json.loads((tmp_path / "haiftrace-index" / "manifest.json").read_text())
    assert manifest["settings"]["whitening_damping"] == 0.2
    assert manifest["settings"]["token_vectors"] == 0
    outcome = cli("trace", PROMPT, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


def test_a_list_option_from_the_environment(tmp_path):
    outcome = cli("index", "--model", "x", cwd=tmp_path, HAIFTRACE_INDEX_CORPUS="a.jsonl b.jsonl")
    refused(outcome, "a.jsonl")


def test_an_unknown_key_or_table_ends_the_command(tmp_path):
    for text in ("[trace]\ntopp = 3\n", "[trase]\ntop = 3\n"):
        config(tmp_path, text)
        refused(cli("trace", PROMPT, cwd=tmp_path), "haiftrace.toml")
        refused(cli("demo", cwd=tmp_path), "haiftrace.toml")


@pytest.mark.parametrize(
    "text", ["top = 'five'", "top = 2.5", "top = 0", "exact = 'perhaps'", "loss-on = 'both'"]
)
def test_a_value_of_the_wrong_kind_is_a_usage_error(tmp_path, text):
    config(tmp_path, f"[trace]\n{text}\n")
    misused(cli("trace", PROMPT, cwd=tmp_path), f"--{text.split()[0]}")


def test_help_is_there_even_when_the_file_is_broken(tmp_path):
    config(tmp_path, "[trace]\ntopp = 3\n")
    for flag in ("--help", "-h"):
        outcome = cli("trace", flag, cwd=tmp_path)
        assert outcome.code == 0
        assert "--top" in outcome.out
