"""A single response, traced value by value: what `haiftrace trace PROMPT` does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from haiftrace.auditing.audit import leaked_values, span_labels, value_leak, with_leaks
from haiftrace.auditing.gate import GateSettings
from haiftrace.auditing.probes import ProbeCase
from haiftrace.auditing.sampled import answers, distinct
from haiftrace.errors import NoAnswerError
from haiftrace.findings import Report
from haiftrace.privacy import canonical
from haiftrace.progress import Progress
from haiftrace.query.query import Query
from haiftrace.tracing.asking import plan_asking
from haiftrace.tracing.settings import Leak, TraceSettings
from haiftrace.tracing.tracer import Tracer

_SENTENCE_END = re.compile(r"(?<=[.!?。！？])[\"'”’)\]]*(?:\s+|(?<=[。！？]))|\n+")


def trace_response(
    tracer: Tracer,
    case: ProbeCase,
    settings: TraceSettings,
    progress: Progress,
    gate: GateSettings,
    *,
    span: str | None = None,
    whole_response: bool = False,
    gated: bool = False,
    command: str = "",
) -> Report:
    """Traces the private values of a response, each by itself, and the sentences without one.

    Args:
        case: the prompt, and the response where it is known.
        span: trace this span of the response only.
        whole_response: trace the response as one.
        gated: let the gate decide, too.

    Raises:
        UsageError: the response cannot be traced.
    """
    plan = plan_asking(tracer.index, tracer.checkpoint, settings.prompting, [case.prompt])
    if plan.said:
        progress.say(plan.said)
    asked = plan.of_prompt(tracer.checkpoint, case.prompt)
    settings = replace(settings, prompting=asked)
    if case.response is None and span is None and settings.prompting.sampling is not None:
        try:
            report = _sampled(tracer, case, settings, progress, whole_response, command)
        except NoAnswerError as error:
            raise NoAnswerError(error.message, plan.warning or error.hint) from None
        report = plan.with_asking(report)
        return with_leaks(report, case, tracer.index, gate, gated)
    leak = Leak(case.prompt, case.response, span)
    try:
        query, _ = tracer.query(leak, settings.prompting)
    except NoAnswerError as error:
        raise NoAnswerError(error.message, plan.warning or error.hint) from None
    leaks = [Leak(case.prompt, query=query)]
    if span is None and not whole_response and not settings.prompting.loss_on_all:
        leaks = response_leaks(case, query)
    report = plan.with_asking(tracer.report(leaks, settings, progress, command))
    return with_leaks(report, case, tracer.index, gate, gated)


def _sampled(
    tracer: Tracer,
    case: ProbeCase,
    settings: TraceSettings,
    progress: Progress,
    whole_response: bool,
    command: str,
) -> Report:
    """Each distinct value of the greedy and the drawn answers, and each answer without one.

    Raises:
        NoAnswerError: none of them says anything.
    """

    def parts(query: Query) -> list[tuple[str, Leak]]:
        values = [] if whole_response else leaked_values(case, query.prompt, query.response)
        if not values or settings.prompting.loss_on_all:
            return [(query.response.strip(), Leak(case.prompt, query=query))]
        return [(canonical(v.value).text, value_leak(case, query, v)) for v in values]

    progress.start("asking the model", None)
    said = distinct(answers(tracer, case.prompt, settings.prompting), parts)
    if not said:
        raise NoAnswerError(
            "The model answered with nothing, each time.",
            "Give the answer that leaked with --response, or another prompt or --template.",
        )
    report = tracer.report([each.part for each in said], settings, progress, command)
    methods = len(report.findings) // len(said)
    findings = [
        replace(finding, frequency=said[number // methods].frequency)
        for number, finding in enumerate(report.findings)
    ]
    return replace(report, findings=tuple(findings))


def response_leaks(case: ProbeCase, query: Query) -> list[Leak]:
    """A leak for every private value of a response, then for every sentence without one.

    A response that is a single sentence without a value, or a value and nothing else, is one leak.
    """
    values = leaked_values(case, query.prompt, query.response)
    leaks = [value_leak(case, query, value) for value in values]
    sentences = _sentences(query.response)
    if not values and len(sentences) <= 1:
        return [Leak(case.prompt, query=query)]
    places = [(at, at + len(v.value)) for v in values if (at := query.response.find(v.value)) >= 0]
    for start, end in sentences:
        if all(b <= start or end <= a for a, b in places):
            leaks += _span_leak(case, query, query.response[start:end])
    return leaks or [Leak(case.prompt, query=query)]


def _sentences(text: str) -> list[tuple[int, int]]:
    """The characters of each sentence that has a letter or digit, white space aside."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    bounds = [0, *(end for end in ends if end < len(text)), len(text)]
    sentences = []
    for start, end in pairwise(bounds):
        sentence = text[start:end]
        if any(sign.isalnum() for sign in sentence):
            lead = len(sentence) - len(sentence.lstrip())
            sentences.append((start + lead, start + len(sentence.rstrip())))
    return sentences


def _span_leak(case: ProbeCase, query: Query, span: str) -> Sequence[Leak]:
    labels = span_labels(query, span)
    if not any(labels):
        return ()
    return (Leak(case.prompt, query=replace(query, labels=labels, span=span)),)
