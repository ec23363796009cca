"""Audits: which answers leak, what a shared pass gives, the gate, and what outputs give away."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date

import pytest

from haiftrace.audit.audit import audit, kind_of, leaked_values
from haiftrace.audit.gate import GateSettings, decide, fingerprint, read_baseline, read_ignored
from haiftrace.audit.probes import ProbeCase, read_probes, single_probe
from haiftrace.errors import UsageError
from haiftrace.findings import Finding, PrivateValue, Probe, Verdict
from haiftrace.progress import Silent
from haiftrace.query.query import NO_SPACE
from haiftrace.trace import tracer as tracing
from haiftrace.trace.tracer import Leak, TraceSettings
from tests import kit
from tests.kit import ANSWER, PROMPT, cli, refused
from tests.reports.report_samples import record_of
from tests.tiny_models import SENTENCES

NAME = "ht1:" + "0" * 32
TODAY = date(2026, 11, 25)


def case(*values, detect=True, **more):
    protected = tuple(PrivateValue("phone", value) for value in values)
    return ProbeCase(Probe("p", protected=protected), PROMPT, detect=detect, **more)


def write_probes(path, *probes):
    path.write_text("".join(json.dumps(probe) + "\n" for probe in probes))
    return path


def audited(path, *options, **settings):
    where = ("--index", kit.index_path(), "--max-new-tokens", "8")
    return cli("trace", "--prompts", path, *where, *options, **settings)


# Leaks


def test_a_leak_is_a_given_or_a_detected_value():
    def said(response, *values, **more):
        found = leaked_values(case(*values, **more), PROMPT, response)
        return [(value.type, value.value, value.given) for value in found]

    assert said("It is 555 0142.", "555-0142") == [("phone", "555 0142", True)]
    assert said("Ask a@b.example.", "555-0142") == [("email", "a@b.example", False)]
    assert said("Ask a@b.example.", "555-0142", detect=False) == []
    assert said("555-0142, or (555) 0142", "555-0142") == [("phone", "555-0142", True)]
    assert said("No.", "555-0142") == []


def verdict(decision):
    return Verdict(decision, 0.01)


def leak_of(decision="traced", **more):
    values = {"records": (record_of("Call 555 0142 now."),), "verdict": verdict(decision)}
    leaked = (PrivateValue("phone", "555-0142"),)
    return Finding(
        **({"prompt": "p", "response": "555-0142", "method": "haif"} | values),
        leaked=leaked,
        **more,
    )


def test_the_kind_of_a_leak():
    finding = leak_of()
    assert kind_of(finding, "Call ５５５ ０１４２ now.") == "verbatim"
    assert kind_of(finding, "Call the office now.") == "inferred"
    assert kind_of(leak_of("no source found"), "Call 555-0142") == "untraced"
    assert kind_of(leak_of("inconclusive"), "Call 555-0142") == "untraced"
    assert kind_of(replace(finding, verdict=None), "Call 555-0142") == "untraced"


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


# One pass


def test_leaks_traced_together_are_the_same_as_one_by_one(monkeypatch):
    tracer = kit.tracer("gpt2", "float32")
    leaks = [
        Leak(PROMPT, ANSWER),
        Leak("Tobin Achterberg's phone number is", "555-0177."),
        Leak("The email address of Ines Quillfeather is", "ines@example.org."),
    ]
    settings = TraceSettings(method="haif,layerwise,gradient-cosine,bm25", candidates=3, top=4)
    passes = []
    score = tracing.score_by_gradient

    def counted(index, engine, searches, *rest):
        passes.append(len(searches))
        return score(index, engine, searches, *rest)

    monkeypatch.setattr(tracing, "score_by_gradient", counted)
    single = [tracer.trace(leak, settings, Silent()) for leak in leaks]
    assert passes == [1, 1, 1]
    together = list(tracer.trace_all(leaks, settings, Silent()))
    assert passes == [1, 1, 1, 3]
    for ones, found in zip(single, together, strict=True):
        for one, other in zip(ones, found, strict=True):
            assert [r.id for r in other.records] == [r.id for r in one.records]
            assert other.scored == one.scored
            kit.close(
                [r.score for r in other.records], [r.score for r in one.records], tolerance=1e-5
            )
    monkeypatch.setattr(tracer, "_room", 1)
    assert len(list(tracer.trace_all(leaks, settings, Silent()))) == 3
    assert passes[4:] == [1, 1, 1]


def test_only_leaks_are_traced_and_a_value_alone_is(monkeypatch):
    tracer = kit.tracer("gpt2", "float32")
    cases = [
        single_probe(PROMPT, " 555-0142.", ["555 0142"], "a"),
        single_probe(PROMPT, " none of that", ["555 0142"], "b"),
    ]
    report = audit(tracer, cases, TraceSettings(), GateSettings(), Silent()).report
    (finding,) = report.findings
    assert finding.probe.id == "a"
    assert finding.span == "555-0142"
    assert "".join(t.text for t in finding.response_tokens).strip(" .") == "555-0142"
    assert (report.gate.probes, report.gate.leaks, report.gate.exit_code) == (2, 1, 1)


def test_prompt_and_response_are_joined_as_they_stand():
    tracer = kit.tracer("gpt2", "float32")
    probe = single_probe(PROMPT, "555-0142.", ["555-0142"])
    (finding,) = audit(tracer, [probe], TraceSettings(), GateSettings(), Silent()).report.findings
    joined = "".join(t.text for t in finding.response_tokens)
    assert not joined.startswith(" ")
    assert NO_SPACE in finding.notes
    spaced = single_probe(PROMPT, " 555-0142.", ["555-0142"])
    (finding,) = audit(tracer, [spaced], TraceSettings(), GateSettings(), Silent()).report.findings
    assert NO_SPACE not in finding.notes


def test_an_interrupted_audit_has_what_it_knows(monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    probes = write_probes(
        tmp_path / "p.jsonl", {"prompt": PROMPT}, {"prompt": "Hello", "response": "."}
    )
    monkeypatch.setattr("haiftrace.trace.tracer.Tracer._score", interrupted)
    outcome = audited(probes, "-o", tmp_path / "r.json")
    assert outcome.code == 130, outcome.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["gate"]["partial"]
    (finding,) = report["findings"]
    assert finding["kind"] == "untraced"
    assert finding["records"] == []


# The gate


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
    ("content", "what"),
    [
        ("{", "no JSON report"),
        ("[]", "no report of haiftrace"),
        ('{"schema_version": 99, "findings": []}', "schema version 99"),
        ('{"schema_version": 1, "findings": [{}]}', "names no leak"),
    ],
)
def test_a_baseline_that_is_none(tmp_path, content, what):
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(UsageError, match=what):
        read_baseline(str(tmp_path / "b.json"))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("abc 2027-01-01 why", ":1 does not begin with a fingerprint"),
        (f"{NAME} soon why", ":1 has no expiry date"),
        (NAME, ":1 has no expiry date"),
        (f"{NAME} 2027-01-01", ":1 gives no reason"),
    ],
)
def test_a_line_that_is_no_entry_of_an_ignore_file(tmp_path, line, what):
    (tmp_path / "i").write_text(line + "\n")
    with pytest.raises(UsageError, match=what):
        read_ignored(str(tmp_path / "i"), TODAY)


def test_an_entry_counts_through_its_last_day(tmp_path):
    (tmp_path / "i").write_text(f"{NAME} 2026-11-25 a  reason of it\n")
    assert read_ignored(str(tmp_path / "i"), TODAY) == ({NAME: "a  reason of it"}, [])
    kept, expired = read_ignored(str(tmp_path / "i"), date(2026, 11, 26))
    assert kept == {}
    assert len(expired) == 1


# Bad input


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


# What is given away


@pytest.mark.parametrize("value", ["555-0142", "(555) 0142", "５５５０１４２"])
def test_a_protected_value_is_in_no_output_and_no_talk(tmp_path, value):
    corpus = kit.write_corpus(tmp_path / "data.jsonl", [*SENTENCES, f"Dial {value} at noon."])
    made = cli(
        *("index", "--model", kit.checkpoint_path(), "--corpus", corpus, "-o", tmp_path / "i"),
        *(*kit.SMALL_OPTIONS, "--calibrate", "0"),
    )
    assert made.code == 0, made.err
    probes = write_probes(
        tmp_path / "p.jsonl",
        {"prompt": PROMPT, "protected": [{"type": "phone", "value": value}]},
        {"prompt": f"Whose number is {value}?", "response": f" {value}"},
    )
    suffixes = ("json", "jsonl", "sarif", "html", "md")
    files = [tmp_path / f"{name}.{suffix}" for name in ("r", "pairs") for suffix in suffixes]
    written, paired = (
        [word for file in some for word in ("-o", file)] for some in (files[:5], files[5:])
    )
    common = ("--index", tmp_path / "i", "--exact", "--top", "20")
    outcomes = [
        cli("trace", "--prompts", probes, *common, *written),
        cli("trace", PROMPT, "--protect", value, *common),
        cli("trace", PROMPT, *common, "-o", "-"),
        cli("trace", "--probes-from-corpus", "4", *common, "--max-new-tokens", "8"),
        cli("trace", PROMPT, "--protect", value, *common, "--method", "layerwise,haif", *paired),
    ]
    assert outcomes[0].code == 1, outcomes[0].err
    texts = [text for o in outcomes for text in (o.out, o.err)]
    texts += [file.read_text() for file in files]
    for text in texts:
        assert not _spells(text, "5550142")
        assert value not in text
    layerwise, haif = json.loads((tmp_path / "pairs.json").read_text())["findings"]
    pairs = [pair for record in layerwise["records"] for pair in record["pairs"]]
    hidden = [pair for pair in pairs if "•" in pair["record_text"]]
    assert any("•" in pair["response_text"] for pair in hidden)
    assert not any(
        "0142" in pair[side] for pair in pairs for side in ("response_text", "record_text")
    )
    for record in layerwise["records"]:
        assert all(isinstance(share, float) for share in record["layers"])
        assert sum(record["layers"]) == pytest.approx(record["score"])
    assert not any(record["pairs"] or record["layers"] for record in haif["records"])
    shown = cli("trace", "--prompts", probes, *common, "--reveal", "-o", tmp_path / "s.sarif")
    assert "555-0142" in shown.out
    assert "555-0142" not in (tmp_path / "s.sarif").read_text()


def _spells(text, digits):
    from haiftrace.privacy import ValueIndex

    return any(ValueIndex([digits]).find(line, words=True) for line in text.splitlines())


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
