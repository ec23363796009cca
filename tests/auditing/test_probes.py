"""Probes: from a file, from stdin, out of the corpus, and what is no probe."""

from __future__ import annotations

import json

import pytest

from haiftrace.auditing.probes import read_probes
from tests import kit
from tests.auditing.audit_kit import audited, write_probes
from tests.kit import PROMPT, cli, refused


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"prompt": "555-0199', "malformed JSON"),
        ('["555-0199"]', "no JSON object"),
        ('{"response": "555-0199"}', "'prompt' is missing"),
        ('{"prompt": ""}', "'prompt' is missing"),
        ('{"prompt": "p", "response": 5550199}', "'response' is no string"),
        ('{"prompt": "p", "protected": ["555-0199"]}', "'protected' is no list"),
        ('{"prompt": "p", "protected": [{"type": "x", "value": "--"}]}', "no letter"),
        ('{"prompt": "p", "protect": ["555-0199"]}', "a field besides"),
        ('{"prompt": "p", "id": true}', "'id' is no string"),
        ('{"prompt": "p", "id": "1"}', "its id is that of line 1"),
        ('{"prompt": "\\ud800"}', "half a surrogate"),
        (b'{"prompt": "555-0199\xff"}', "not valid UTF-8"),
    ],
)
def test_a_line_that_is_no_probe(tmp_path, line, what):
    path = tmp_path / "p.jsonl"
    raw = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"prompt": "p", "id": "1"}\n' + raw + b"\n")
    refused(audited(path), "p.jsonl:2 is no probe", what, secrets=("555-0199", *kit.SECRETS))


def test_probes_come_from_stdin_too_and_none_are_inconclusive(tmp_path):
    line = json.dumps({"prompt": PROMPT, "response": " nothing"}).encode()
    outcome = audited("-", stdin=line)
    assert outcome.code == 0, outcome.err
    (tmp_path / "p.jsonl").write_text("\n")
    empty = audited(tmp_path / "p.jsonl")
    assert empty.code == 3, empty.err
    assert "no probe" in empty.out
    refused(audited(tmp_path / "none.jsonl"), "cannot be read")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "Nothing is asked"),
        (["p", "--prompts", "f"], "PROMPT and --prompts exclude"),
        (["--prompts", "f", "--probes-from-corpus", "3"], "exclude each other"),
        (["--prompts", "f", "--response", "r"], "--response goes with a single PROMPT"),
        (["--prompts", "f", "--protect", "r"], "--protect goes with a single PROMPT"),
        (["p", "--protect", "--"], "no letter"),
        (["p", "--baseline", "none.json"], "cannot be read"),
    ],
)
def test_options_that_exclude_each_other(arguments, what):
    arguments = [a if a != "--" else "-.-" for a in arguments]
    refused(cli("trace", "--index", kit.index_path(), *arguments), what)


def test_probes_out_of_the_corpus_are_the_same_for_the_same_seed(tmp_path):
    def made(seed):
        where = ("--index", kit.index_path(), "--max-new-tokens", "8", "--reveal")
        outcome = cli("trace", "--probes-from-corpus", "4", "--seed", seed, *where, "-o", "-")
        assert outcome.code in (0, 1), outcome.err
        return outcome.report

    one, two = made(1), made(1)
    assert [f["probe"] for f in one["findings"]] == [f["probe"] for f in two["findings"]]
    assert [f["fingerprint"] for f in one["findings"]] == [
        f["fingerprint"] for f in two["findings"]
    ]
    (reason,) = [r for r in one["gate"]["reasons"] if "completes" in r]
    assert f": {len(one['findings'])} of 4 (" in reason


def test_read_probes_names_each_by_its_line_or_id(tmp_path):
    path = write_probes(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b", "id": 7})
    assert [(c.probe.id, c.probe.line) for c in read_probes(str(path))] == [
        (f"{path}:1", 1),
        ("7", 2),
    ]
