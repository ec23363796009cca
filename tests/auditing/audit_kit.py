"""What the tests of audits share: probes, leaks, and an audit by the command line."""

from __future__ import annotations

import json

from haiftrace.auditing.probes import ProbeCase
from haiftrace.findings import Finding, PrivateValue, Probe, Verdict
from tests import kit
from tests.kit import PROMPT, cli
from tests.reports.record_samples import record_of


def case(*values, detect=True, **more):
    protected = tuple(PrivateValue("phone", value) for value in values)
    return ProbeCase(Probe("p", protected=protected), PROMPT, detect=detect, **more)


def write_probes(path, *probes):
    path.write_text("".join(json.dumps(probe) + "\n" for probe in probes))
    return path


def audited(path, *options, **settings):
    where = ("--index", kit.index_path(), "--max-new-tokens", "8")
    return cli("trace", "--prompts", path, *where, *options, **settings)


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
