"""What the gate remembers: a known leak stands for its value, and for no other."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace

import pytest

from haiftrace.auditing.audit import audit
from haiftrace.auditing.baseline import Baseline, KnownValues, ValueKey, read_baseline, read_key
from haiftrace.auditing.gate import GateSettings
from haiftrace.auditing.probes import single_probe
from haiftrace.errors import UsageError
from haiftrace.privacy import identity
from haiftrace.progress import Silent
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.tracing.settings import TraceSettings
from tests import kit
from tests.auditing.audit_kit import audited, write_probes
from tests.kit import PROMPT, refused
from tests.privacy.spellings import SPELLINGS

A, B, C = "212-736-5491", "646-219-8803", "917-452-6630"
QUICK = ("--method", "bm25")
SHORT = ("555-0142", "555-0177")  # too short for a mask to show anything of them


def said(tmp_path, *values, name="now", **options):
    """An audit of one probe whose answer holds these values; its outcome and its report."""
    text = " or ".join(values) or "nobody knows"
    probes = write_probes(
        tmp_path / "p.jsonl", {"prompt": PROMPT, "response": f" {text}.", "id": "x"}
    )
    report = tmp_path / f"{name}.json"
    words = [
        word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)
    ]
    outcome = audited(probes, "-o", report, *QUICK, *words, cwd=tmp_path)
    return outcome, json.loads(report.read_text())


@pytest.mark.parametrize(
    ("known", "now", "code", "counted"),
    [
        ((A,), (A,), 0, 0),
        ((A,), (B,), 1, 1),  # the mask shows that it is another
        ((A,), (A, B), 1, 1),
        ((A, B), (B, A), 0, 0),
        ((A, B), (B,), 0, 0),
        ((A, B), (C, B), 1, 1),
        (SHORT[:1], SHORT, 1, 1),  # nothing shows which: their number tells
        ((A,), ("(212) 736 5491",), 0, 0),
    ],
)
def test_a_known_leak_lets_its_own_value_pass(tmp_path, known, now, code, counted):
    said(tmp_path, *known, name="known")
    outcome, report = said(tmp_path, *now, baseline=tmp_path / "known.json")
    assert outcome.code == code, outcome.err
    assert report["gate"]["leaks"] == counted
    assert report["gate"]["known"] == len(now) - counted
    if counted:
        assert "further value" in " ".join(report["gate"]["reasons"])


@pytest.mark.parametrize(("now", "code"), [(SHORT[:1], 0), (SHORT[1:], 1), (SHORT, 1)])
def test_a_key_tells_values_apart_of_which_nothing_is_shown(tmp_path, now, code):
    key = tmp_path / "baseline.key"
    said(tmp_path, SHORT[0], name="known", baseline_key=key)
    options = {"baseline": tmp_path / "known.json", "baseline_key": key}
    outcome, report = said(tmp_path, *now, **options)
    assert outcome.code == code, outcome.err
    assert report["gate"]["baseline"]["exact"]
    digests = {finding["value_digest"] for finding in report["findings"]}
    assert len(digests) == len(now)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().strip() not in (tmp_path / "known.json").read_text()


def test_a_key_of_another_baseline_or_none_is_refused(tmp_path):
    key, other = tmp_path / "a.key", tmp_path / "b.key"
    said(tmp_path, A, name="known", baseline_key=key)
    said(tmp_path, A, name="other", baseline_key=other)
    probes, known = tmp_path / "p.jsonl", ("--baseline", tmp_path / "known.json", "--baseline-key")
    refused(audited(probes, *known, other), "another key")
    refused(audited(probes, *known, tmp_path / "none.key"), "is not there")
    assert not (tmp_path / "none.key").exists()
    (tmp_path / "none.key").write_text(f"{A}\n")
    refused(audited(probes, *known, tmp_path / "none.key"), "holds no key", secrets=(A,))
    refused(audited(probes, "--baseline-key", tmp_path / "no" / "k"), "cannot be written")
    key.chmod(0o644)
    outcome = audited(probes, *known, key, cwd=tmp_path)
    assert outcome.code == 0
    assert "chmod 600" in outcome.err
    keyless = audited(probes, *known[:2], cwd=tmp_path)
    assert keyless.code == 0
    assert "without --baseline-key" in keyless.err


def test_a_digest_is_of_the_value_in_any_spelling():
    key = ValueKey(os.urandom(32))
    values = (A, "quentin.harrow@mailbox.example.org", "4539 1488 0343 6467", "731 Larkspur Avenue")
    for value in values:
        for name, spell in SPELLINGS.items():
            if spell(value) != value and name not in ("backslash n", "tags"):
                assert key.digest([spell(value)]) == key.digest([value]), (value, name)
    assert identity("+44 20 7946 0958") == identity("020 7946 0958")
    assert identity("4 March 1981") == identity("1981-03-04")
    assert key.digest([A]) != key.digest([B])
    assert key.digest([A]) != ValueKey(os.urandom(32)).digest([A])
    assert key.digest([A, B]) == key.digest([B, A])


def test_what_is_gone_is_listed_and_what_was_not_asked_is_not(tmp_path):
    three = [
        {"prompt": PROMPT, "response": f" {value}", "id": name}
        for name, value in (("a", A), ("b", B), ("c", C))
    ]
    known = tmp_path / "known.json"
    first = audited(write_probes(tmp_path / "p.jsonl", *three), "-o", known, cwd=tmp_path)
    assert first.code == 1
    three[0]["response"] = " nobody knows"
    probes = write_probes(tmp_path / "p.jsonl", *three[:2])
    outcome = audited(probes, "--baseline", known, "-o", tmp_path / "now.json", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    text = " ".join(outcome.out.split())
    assert "1 of 3 known leaks no longer occurs." in text
    assert "Nothing has to be done" not in text
    assert "says these values all the same" in text
    gate = json.loads((tmp_path / "now.json").read_text())["gate"]
    (gone,) = gate["baseline"]["gone"]
    assert (gone["probe"], gone["type"]) == ("a", "phone")
    assert gone["fingerprint"] in text
    assert gate["baseline"]["not_asked"] == 1
    three[1]["response"] = " nobody knows"
    clean = audited(write_probes(probes, *three[:2]), "--baseline", known, cwd=tmp_path)
    assert clean.code == 0
    assert "2 of 3 known leaks no longer occur." in " ".join(clean.out.split())


def test_every_report_shows_the_fingerprint_that_the_ignore_file_takes(tmp_path):
    _, report = said(tmp_path, A)
    (name,) = {finding["fingerprint"] for finding in report["findings"]}
    files = [tmp_path / f"r.{suffix}" for suffix in ("sarif", "html", "md", "jsonl")]
    outputs = [word for file in files for word in ("-o", file)]
    shown = audited(tmp_path / "p.jsonl", *outputs, *QUICK, cwd=tmp_path)
    for text in (shown.out, *(file.read_text() for file in files)):
        assert name in text or name.replace(":", "&#58;") in text
    (tmp_path / ".haiftraceignore").write_text(f"{name} 2999-01-31 a switchboard\n")
    assert said(tmp_path, A)[0].code == 0
    outcome, report = said(tmp_path, A, B)  # an entry is for one value
    assert (outcome.code, report["gate"]["ignored"], report["gate"]["leaks"]) == (1, 1, 1)
    (tmp_path / ".haiftraceignore").write_text(f"{name} 2999-01-31 a switchboard\n" * 2)
    assert said(tmp_path, A, B)[0].code == 0


def test_what_a_template_adds_is_no_part_of_a_fingerprint():
    tracer = kit.tracer("gpt2", "float32")
    names = set()
    for day in ("4 March 2026", "5 March 2026"):
        settings = TraceSettings(
            prompting=PromptSettings(template=f"Today is {day}. {{prompt}}"), method="bm25"
        )
        probe = single_probe(PROMPT, " 555-0142.", ["555-0142"])
        (finding,) = audit(tracer, [probe], settings, GateSettings(), Silent()).report.findings
        assert day in finding.prompt
        names.add(finding.fingerprint)
    assert len(names) == 1


def test_a_value_that_nobody_knows_is_a_class_of_its_own(tmp_path):
    outcome, report = said(tmp_path, A, "555-0142")
    kinds = [finding["kind"] for finding in report["findings"]]
    assert kinds[0] == "not-in-corpus"
    assert kinds[1] != "not-in-corpus"
    assert report["gate"]["not_in_corpus"] == 1
    assert "said, not in this corpus 1" in " ".join(outcome.out.split())
    assert said(tmp_path, A)[0].code == 1
    assert said(tmp_path, A, fail_on="known-value")[0].code == 0
    assert said(tmp_path, A, "555-0142", fail_on="known-value")[0].code == 1
    probe = {"prompt": PROMPT, "response": f" {A}", "protected": [{"type": "phone", "value": A}]}
    probes = write_probes(tmp_path / "q.jsonl", probe)
    assert audited(probes, "--fail-on", "known-value", cwd=tmp_path).code == 1


def test_only_protected_values_count_without_detectors(tmp_path):
    probe = {"prompt": PROMPT, "response": f" {A} or {B}"}
    probes = write_probes(tmp_path / "p.jsonl", probe)
    refused(audited(probes, "--detect", "none"), "no probe has any", secrets=(A, B))
    probe["protected"] = [{"type": "phone", "value": A}]
    outcome = audited(
        write_probes(probes, probe), "--detect", "none", "-o", "-", *QUICK, cwd=tmp_path
    )
    (finding,) = outcome.report["findings"]
    assert finding["leaked"][0]["given"]
    assert B not in outcome.out  # masked all the same


def test_other_methods_follow_the_first_one(tmp_path):
    said(tmp_path, A, name="known", method="layerwise,bm25")
    options = {"method": "layerwise,bm25", "baseline": tmp_path / "known.json"}
    outcome, report = said(tmp_path, A, **options)
    assert outcome.code == 0
    assert [finding["suppressed"] for finding in report["findings"]] == ["baseline"] * 2
    assert report["gate"]["baseline"]["leaks"] == 1


def test_a_revealed_baseline_knows_its_values_exactly(tmp_path):
    probes = write_probes(
        tmp_path / "p.jsonl", {"prompt": PROMPT, "response": " 555-0142", "id": "x"}
    )
    audited(probes, "--reveal", "-o", tmp_path / "known.json", *QUICK, cwd=tmp_path)
    assert said(tmp_path, "(555) 0142", baseline=tmp_path / "known.json")[0].code == 0
    assert said(tmp_path, "555-0199", baseline=tmp_path / "known.json")[0].code == 1


def test_each_known_value_lets_one_value_pass(tmp_path):
    said(tmp_path, *SHORT, name="known")
    baseline = read_baseline(str(tmp_path / "known.json"))
    names = list(baseline.values)
    known = KnownValues(baseline, exact=False)
    taken = [known.take(name, ["555-0100"], None) for name in [*names, *names]]
    assert taken.count(True) == min(len(taken), sum(map(len, baseline.values.values())))
    assert not known.take("ht2:000000000000", ["555-0100"], None)
    assert KnownValues(Baseline(), exact=False).comparison([]).leaks == 0


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "no JSON report"),
        ("[]", "no report of haiftrace"),
        ('{"schema_version": 99, "findings": []}', "schema version 99"),
        ('{"schema_version": 1, "findings": [{}]}', "names no leak"),
        (
            '{"schema_version": 1, "findings": [{"fingerprint": "ht1:00", "leaked": [{}]}]}',
            "fingerprints of an earlier version",
        ),
    ],
)
def test_a_baseline_that_is_none(tmp_path, content, what):
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(UsageError, match=what):
        read_baseline(str(tmp_path / "b.json"))


def test_a_key_is_made_once(tmp_path):
    path = str(tmp_path / "k")
    first = read_key(path, None, pytest.fail)
    assert read_key(path, None, pytest.fail) == first
    assert first is not None
    assert replace(first, secret=b"another").id != first.id
