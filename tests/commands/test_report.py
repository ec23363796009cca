"""`haiftrace report`: reports rendered again, merged and compared from the command line."""

from __future__ import annotations

import json

import pytest

from haiftrace.privacy import mask_report
from haiftrace.reports import write_report
from tests import kit
from tests.commands.cli_kit import trace
from tests.kit import ANSWER, PROMPT, cli, misused, refused

SHOWN = "555-01"


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    path = tmp_path_factory.mktemp("probes") / "probes.jsonl"
    answers = {"mara": (PROMPT, ANSWER), "other": ("Her phone number is", "555-0188.")}
    lines = [
        {"id": id, "prompt": prompt, "response": response}
        for id, (prompt, response) in answers.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def audit(probes, folder, *names, **settings):
    paths = [folder / name for name in names]
    outputs = [part for path in paths for part in ("-o", path)]
    index = ("--index", kit.index_path())
    return cli("trace", "--prompts", probes, *index, "-q", *outputs, **settings)


def test_a_report_renders_as_the_run_did(tmp_path, probes):
    for folder in ("first", "again"):
        (tmp_path / folder).mkdir()
    names = ("a.json", "a.md", "a.sarif", "a.jsonl", "a.html")
    ran = audit(probes, tmp_path / "first", *names)
    outputs = [part for name in names for part in ("-o", tmp_path / "again" / name)]
    outcome = cli("report", tmp_path / "first/a.json", *outputs)
    assert outcome.code == 0, outcome.err
    assert outcome.out == ran.out
    for name in names[:-1]:
        first, again = ((tmp_path / folder / name).read_text() for folder in ("first", "again"))
        assert first == again, name
    assert "<html" in (tmp_path / "again/a.html").read_text()


def test_a_single_trace_renders_as_the_run_did(tmp_path):
    ran = trace("--response", ANSWER, "-q", "-o", tmp_path / "a.json", "-o", tmp_path / "a.md")
    outcome = cli("report", tmp_path / "a.json", "-o", tmp_path / "b.md")
    assert (outcome.code, outcome.out) == (0, ran.out)
    assert (tmp_path / "b.md").read_text() == (tmp_path / "a.md").read_text()
    piped = cli("report", "-", "-o", "-", stdin=(tmp_path / "a.json").read_bytes())
    assert piped.out == (tmp_path / "a.json").read_text()


def test_shards_are_the_audit(tmp_path, probes):
    whole = audit(probes, tmp_path, "whole.json")
    for number, line in enumerate(probes.read_text().splitlines()):
        shard = tmp_path / f"probes-{number}.jsonl"
        shard.write_text(line)
        audit(shard, tmp_path, f"{number}.json")
    merged = tmp_path / "merged.json"
    parts = (tmp_path / "0.json", tmp_path / "1.json")
    outcome = cli("report", *parts, "-o", merged, "--exit-code")
    assert outcome.code == whole.code == 1
    assert cli("report", *parts).code == 0
    one, other = (json.loads(path.read_text()) for path in (tmp_path / "whole.json", merged))
    assert one["gate"] == other["gate"]
    for first, second in zip(one["findings"], other["findings"], strict=True):
        for finding in (first, second):
            finding["probe"] = finding["probe"]["id"]
            if finding["verdict"]:
                finding["verdict"].pop("q_value")  # of numbers that were rounded before
        assert first == second


def test_a_comparison_is_shown_and_written(tmp_path, probes):
    audit(probes, tmp_path, "after.json")
    only = tmp_path / "only.jsonl"
    only.write_text(probes.read_text().splitlines()[0])
    audit(only, tmp_path, "before.json")
    outputs = [part for name in ("c.json", "c.md", "c.html") for part in ("-o", tmp_path / name)]
    outcome = cli(
        "report", tmp_path / "after.json", "--against", tmp_path / "before.json", *outputs
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("Against   the earlier report: 1 leak is new, 1 still there, 0 g")
    written = json.loads((tmp_path / "c.json").read_text())["comparison"]
    assert [(leak["state"], leak["probe"]) for leak in written["leaks"]] == [
        ("new", "other"),
        ("still there", "mara"),
    ]
    assert "1 leak is new, 1 still there, 0 gone" in (tmp_path / "c.md").read_text()
    assert "1 leak is new, 1 still there, 0 gone" in (tmp_path / "c.html").read_text()
    assert SHOWN not in outcome.out + "".join(p.read_text() for p in tmp_path.glob("c.*"))


def test_values_are_masked_unless_they_are_there_and_wanted(tmp_path, probes):
    audit(probes, tmp_path, "masked.json")
    audit_revealed = cli(
        *("trace", "--prompts", probes, "--index", kit.index_path(), "-q", "--reveal"),
        *("-o", tmp_path / "open.json"),
    )
    assert ANSWER.rstrip(".") in audit_revealed.out + (tmp_path / "open.json").read_text()
    hidden = cli("report", tmp_path / "open.json", "-o", "-")
    assert SHOWN not in hidden.out
    assert json.loads(hidden.out)["masked"]
    shown = cli("report", tmp_path / "open.json", "-o", "-", "--reveal", "-o", tmp_path / "a.sarif")
    assert SHOWN in shown.out
    assert SHOWN not in (tmp_path / "a.sarif").read_text()
    both = cli("report", tmp_path / "open.json", "--against", tmp_path / "masked.json")
    assert "0 leaks are new, 2 still there, 0 gone" in both.out
    said = refused(cli("report", tmp_path / "masked.json", "--reveal"), "is masked")
    assert "masked.json" in said


def test_one_finding_is_chosen(tmp_path, probes):
    audit(probes, tmp_path, "a.json")
    outcome = cli("report", tmp_path / "a.json", "--finding", "mara")
    assert outcome.code == 0
    assert PROMPT in outcome.out
    assert "Gate" not in outcome.out
    refused(cli("report", tmp_path / "a.json", "--finding", "nobody"), "no finding")
    pair = ("--finding", "mara", "--against", tmp_path / "a.json")
    refused(cli("report", tmp_path / "a.json", *pair), "exclude each other")


def test_bad_input_is_refused_and_nothing_is_written(tmp_path, probes):
    bad = tmp_path / "bad.json"
    bad.write_text('{"schema_version": 2, "findings": [{"prompt": "call 555-0142"}]}')
    audit(probes, tmp_path, "a.json")
    out = ("-o", tmp_path / "out.md")
    refused(cli("report", bad, *out), "bad.json", "is missing")
    refused(cli("report", tmp_path / "none.json", *out), "No such file")
    refused(cli("report", tmp_path / "a.json", "--against", bad, *out), "bad.json")
    refused(cli("report", tmp_path / "a.json", "-o", tmp_path / "a.pdf"), "'.pdf'")
    misused(cli("report"), "REPORT")
    assert not (tmp_path / "out.md").exists()


def test_reports_of_two_models_are_refused(tmp_path):
    from dataclasses import replace

    from tests.reports.report_samples import audit_report

    first = mask_report(audit_report(masked=False))
    write_report(first, tmp_path / "a.json")
    other = replace(first, model=replace(first.model, fingerprint="sha256:else"))
    write_report(other, tmp_path / "b.json")
    refused(cli("report", tmp_path / "a.json", tmp_path / "b.json"), "different checkpoints")
    assert cli("report", tmp_path / "a.json", "--against", tmp_path / "b.json").code == 0
