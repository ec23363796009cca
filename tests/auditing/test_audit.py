"""Audits: which answers leak, what tracing them together gives, what outputs give away."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from haiftrace.auditing.audit import audit, leaked_values
from haiftrace.auditing.gate import GateSettings
from haiftrace.auditing.judgement import kind_of
from haiftrace.auditing.probes import single_probe
from haiftrace.findings import PrivateValue
from haiftrace.progress import Silent
from haiftrace.query.query import NO_SPACE
from haiftrace.scoring.gradient import family as gradient_family
from haiftrace.tracing.settings import Leak, TraceSettings
from tests import kit
from tests.auditing.audit_kit import audited, case, leak_of, write_probes
from tests.kit import ANSWER, PROMPT, cli
from tests.tiny_models import SENTENCES


def test_a_leak_is_a_given_or_a_detected_value():
    def said(response, *values, **more):
        found = leaked_values(case(*values, **more), PROMPT, response)
        return [(value.type, value.value, value.given) for value in found]

    assert said("It is 555 0142.", "555-0142") == [("phone", "555 0142", True)]
    assert said("Ask a@b.example.", "555-0142") == [("email", "a@b.example", False)]
    assert said("Ask a@b.example.", "555-0142", detect=False) == []
    assert said("555-0142, or (555) 0142", "555-0142") == [("phone", "555-0142", True)]
    assert said("No.", "555-0142") == []


def test_the_kind_of_a_leak():
    finding = leak_of()
    assert kind_of(finding, "Call ５５５ ０１４２ now.") == "verbatim"
    assert kind_of(finding, "Call the office now.") == "inferred"
    assert kind_of(leak_of("no source found"), "Call 555-0142") == "untraced"
    assert kind_of(leak_of("inconclusive"), "Call 555-0142") == "untraced"
    detected = (PrivateValue("phone", "555-0142", given=False),)
    nowhere = replace(leak_of("inconclusive"), holders=(), leaked=detected)
    assert kind_of(nowhere, "Call 555-0142") == "not-in-corpus"
    assert kind_of(nowhere, "Call 555-0142", is_whole=False) == "untraced"
    assert kind_of(replace(finding, verdict=None), "Call 555-0142") == "untraced"


def test_leaks_traced_together_are_the_same_as_each_alone(monkeypatch):
    tracer = kit.tracer("gpt2", "float32")
    leaks = [
        Leak(PROMPT, ANSWER),
        Leak("Tobin Achterberg's phone number is", "555-0177."),
        Leak("The email address of Ines Quillfeather is", "ines@example.org."),
    ]
    settings = TraceSettings(method="haif,layerwise,gradient-cosine,bm25", candidates=3, top=4)
    passes = []
    score = gradient_family.score_by_gradient

    def counted(index, engine, searches, *rest):
        passes.append(len(searches))
        return score(index, engine, searches, *rest)

    monkeypatch.setattr(gradient_family, "score_by_gradient", counted)
    single = [tracer.trace(leak, settings, Silent()) for leak in leaks]
    assert passes == [1, 1, 1]
    together = list(tracer.trace_all(leaks, settings, Silent()))
    assert passes == [1, 1, 1, 3]
    for alone, findings in zip(single, together, strict=True):
        for finding, other in zip(alone, findings, strict=True):
            assert [r.id for r in other.records] == [r.id for r in finding.records]
            assert other.scored == finding.scored
            scores, others = ([r.score for r in f.records] for f in (finding, other))
            kit.close(others, scores, tolerance=1e-5)
    monkeypatch.setattr(tracer.session.model, "room", 1)
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
    monkeypatch.setattr("haiftrace.scoring.session.ScoringSession.trace", interrupted)
    outcome = audited(probes, "-o", tmp_path / "r.json")
    assert outcome.code == 130, outcome.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["gate"]["partial"]
    (finding,) = report["findings"]
    assert finding["kind"] == "untraced"
    assert finding["records"] == []


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
    common = ("--index", tmp_path / "i", "--exact", "--top", "20", "--full")
    outcomes = [
        cli("trace", "--prompts", probes, *common, *written),
        cli("trace", PROMPT, "--protect", value, *common),
        cli("trace", PROMPT, *common, "-o", "-"),
        cli("trace", "--probes-from-corpus", "4", *common, "--max-new-tokens", "8"),
        cli("trace", "--prompts", probes, *common, "--verbose"),
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
    revealed = ("--reveal", "--verbose", "-o", tmp_path / "s.sarif")
    shown = cli("trace", "--prompts", probes, *common, *revealed)
    assert "555-0142" in shown.out
    assert "555-0142" not in (tmp_path / "s.sarif").read_text()


def _spells(text, digits):
    from haiftrace.privacy import ValueIndex

    return any(ValueIndex([digits]).find(line, words=True) for line in text.splitlines())
