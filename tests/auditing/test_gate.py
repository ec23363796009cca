"""The gate of an audit: its exit codes, fingerprints, baselines and ignore files."""

from __future__ import annotations

import json
from datetime import date

import pytest

from haiftrace.auditing.gate import GateSettings, decide, read_ignored
from haiftrace.auditing.judgement import fingerprint
from haiftrace.errors import UsageError
from tests.auditing.audit_kit import audited, leak_of, write_probes
from tests.kit import PROMPT

NAME = "ht2:" + "0" * 12
TODAY = date(2026, 11, 25)


def test_a_fingerprint_depends_on_probe_record_kind_and_type():
    base = fingerprint("Who?", "Call • now.", "verbatim", "phone")
    assert base == fingerprint("who? ", "call  • now.", "verbatim", "phone")
    others = [
        fingerprint("Whom?", "Call • now.", "verbatim", "phone"),
        fingerprint("Who?", "Call • soon.", "verbatim", "phone"),
        fingerprint("Who?", "Call • now.", "inferred", "phone"),
        fingerprint("Who?", "Call • now.", "verbatim", "email"),
        fingerprint("Who?", None, "untraced", "phone"),
    ]
    assert len({base, *others}) == 6


@pytest.mark.parametrize(
    ("findings", "settings", "probes", "code"),
    [
        ([], {}, 3, 0),
        ([], {}, 0, 3),
        (["traced"], {}, 3, 1),
        (["no source found"], {}, 3, 1),
        (["traced"], {"max_leaks": 1}, 3, 0),
        (["traced"], {"fail_on": "none"}, 3, 0),
        (["traced"], {"fail_on": "traced"}, 3, 1),
        (["no source found"], {"fail_on": "traced"}, 3, 0),
        (["inconclusive"], {"fail_on": "traced"}, 3, 3),
        (["inconclusive"], {"fail_on": "traced", "max_leaks": 1}, 3, 0),
    ],
)
def test_the_exit_code_of_a_gate(findings, settings, probes, code):
    kinds = {"traced": "verbatim"}
    leaks = [leak_of(d, kind=kinds.get(d, "untraced")) for d in findings]
    gate = decide(leaks, GateSettings(**settings), probes)
    assert gate.exit_code == code
    assert code == 0 or gate.reasons


def test_what_could_not_be_asked_or_was_cut_short_is_never_clean():
    assert decide([], GateSettings(), 3, unanswered=1).exit_code == 3
    assert decide([], GateSettings(), 3, partial=True).exit_code == 3
    known = leak_of(kind="verbatim", suppressed="baseline")
    accepted = leak_of(kind="verbatim", suppressed="a switchboard")
    gate = decide([known, accepted], GateSettings(), 3)
    assert (gate.exit_code, gate.leaks, gate.known, gate.ignored) == (0, 0, 1, 1)


def test_a_baseline_and_an_ignore_file_let_known_leaks_pass(tmp_path):
    probes = write_probes(tmp_path / "p.jsonl", {"prompt": PROMPT, "id": "mara"})
    first = audited(probes, "-o", tmp_path / "r.json", cwd=tmp_path)
    assert first.code == 1, first.err
    again = audited(probes, "--baseline", tmp_path / "r.json", cwd=tmp_path)
    assert again.code == 0, again.err
    (finding,) = json.loads((tmp_path / "r.json").read_text())["findings"]
    ignored = tmp_path / ".haiftraceignore"
    ignored.write_text(f"# accepted\n{finding['fingerprint']} 2999-01-31 a switchboard\n")
    assert audited(probes, cwd=tmp_path).code == 0
    ignored.write_text(f"{finding['fingerprint']} 2020-01-31 a switchboard\n")
    late = audited(probes, cwd=tmp_path)
    assert late.code == 1
    assert ".haiftraceignore:1 expired on 2020-01-31" in late.err


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("abc 2027-01-01 why", ":1 does not begin with a fingerprint"),
        (f"{NAME} soon why", ":1 has no expiry date"),
        (NAME, ":1 has no expiry date"),
        (f"{NAME} 2027-01-01", ":1 gives no reason"),
        ("ht1:" + "0" * 32 + " 2027-01-01 why", ":1 has an earlier version's fingerprint"),
    ],
)
def test_a_line_that_is_no_entry_of_an_ignore_file(tmp_path, line, what):
    (tmp_path / "i").write_text(line + "\n")
    with pytest.raises(UsageError, match=what):
        read_ignored(str(tmp_path / "i"), TODAY)


def test_an_entry_counts_through_its_last_day(tmp_path):
    (tmp_path / "i").write_text(f"{NAME} 2026-11-25 a  reason of it\n")
    assert read_ignored(str(tmp_path / "i"), TODAY) == ({NAME: ["a  reason of it"]}, [])
    kept, expired = read_ignored(str(tmp_path / "i"), date(2026, 11, 26))
    assert kept == {}
    assert len(expired) == 1
