"""The Python interface: an index that is built, opened and traced over."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import haiftrace
from haiftrace import Index, audit, trace
from haiftrace.errors import UsageError
from tests import kit
from tests.kit import ANSWER, PROMPT

SETTINGS = {"top": 3, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    output = tmp_path_factory.mktemp("api") / "index"
    built = Index.build(kit.checkpoint_path(), kit.corpus_path(), output=output, controls=16)
    assert len(built) == 12
    assert built.path == output
    built.close()
    return output


def test_a_trace_is_that_of_the_command(path):
    """But for what a run writes down of itself."""
    with Index.open(path) as index:
        ours = index.trace(PROMPT, ANSWER, top=3).to_dict()
    outcome = kit.cli(
        *("trace", PROMPT, "--response", ANSWER, "--index", path, "--top", 3, "-q", "-o", "-")
    )
    assert ours["findings"] == json.loads(outcome.out)["findings"]


def test_a_report_is_masked_unless_it_is_revealed(path):
    report = trace(PROMPT, ANSWER, index=path, **SETTINGS)
    table, revealed = report.to_pandas(), report.to_pandas(reveal=True)
    assert list(table["rank"]) == [1, 2, 3]
    assert table["decision"].nunique() == 1
    assert "555-0142" in revealed["text"].iloc[0]
    for shown in (table.to_csv(), json.dumps(report.to_dict()), report._repr_html_()):
        assert "555-0142" not in shown
    assert "555-0142" in json.dumps(report.to_dict(reveal=True))


def test_a_report_is_saved_by_its_suffix(path, tmp_path):
    report = trace(PROMPT, ANSWER, index=path, **SETTINGS)
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_dict()
    report.save(tmp_path / "report.sarif", reveal=True)
    assert "555-0142" not in (tmp_path / "report.sarif").read_text()


def test_an_audit_takes_mappings_or_a_file(path, tmp_path):
    probes = [
        {"prompt": PROMPT, "response": f" {ANSWER}", "id": "a"},
        {"prompt": "Call", "response": " nobody.", "id": "b"},
    ]
    report = audit(probes, index=path, **SETTINGS)
    assert [finding.probe.id for finding in report.findings] == ["a"]
    assert report.report.gate.exit_code == 1
    file = tmp_path / "probes.jsonl"
    file.write_text("".join(json.dumps(probe) + "\n" for probe in probes))
    again = audit(file, index=path, fail_on="none", **SETTINGS)
    assert again.report.gate.exit_code == 0
    ids = [[record.id for record in finding.records] for finding in report.findings]
    assert ids == [[record.id for record in finding.records] for finding in again.findings]


def test_an_audit_is_compared_with_a_baseline(path, tmp_path):
    probes = [{"prompt": PROMPT, "response": f" {ANSWER}", "id": "a"}]
    key, known = tmp_path / "key", tmp_path / "known.json"
    with Index.open(path) as index:
        first = index.audit(probes, baseline_key=key, **SETTINGS)
        first.save(known)
        assert first.report.gate.exit_code == 1
        again = index.audit(probes, baseline=known, baseline_key=key, **SETTINGS)
    assert key.stat().st_mode & 0o777 == 0o600
    assert (again.report.gate.exit_code, again.report.gate.known) == (0, 1)
    with pytest.raises(UsageError, match="baseline"):
        audit(probes, index=path, baseline=tmp_path / "none.json")


def test_what_is_wrong_is_said(path):
    with pytest.raises(UsageError, match="no probe"):
        audit([{"question": "?"}], index=path)
    with pytest.raises(TypeError, match="tops"):
        trace(PROMPT, ANSWER, index=path, tops=3)
    with pytest.raises(AttributeError, match="no attribute 'Indexx'"):
        _ = haiftrace.Indexx


def test_the_package_itself_imports_nothing_heavy():
    script = "import sys, haiftrace; print('torch' in sys.modules, 'numpy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "False False\n"
