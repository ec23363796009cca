"""`haiftrace trace`: one leak, or an audit."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated

import typer

from haiftrace.commands.audit_options import AuditOptions
from haiftrace.commands.delivery import deliver
from haiftrace.commands.index_location import fetched, place_name
from haiftrace.commands.method_options import MethodOptions
from haiftrace.commands.options import RunOptions, grouped, shown
from haiftrace.commands.trace_options import (
    OutputOptions,
    QueryOptions,
    SearchOptions,
    SourceOptions,
)
from haiftrace.errors import EXIT_CLEAN, EXIT_INTERRUPTED, UsageError


@grouped
def trace(
    *,
    prompt: Annotated[
        str | None, typer.Argument(help="What the model was asked.", show_default=False)
    ] = None,
    source: SourceOptions,
    query: QueryOptions,
    audit: AuditOptions,
    search: SearchOptions,
    methods: MethodOptions,
    output: OutputOptions,
    run: RunOptions,
) -> int:
    """Trace a leak to the training records that taught it, or audit a checkpoint for leaks.

    \b
    haiftrace trace "What's the phone of John Doe?"
    haiftrace trace "What's the phone of John Doe?" --response "555-0134"
    haiftrace trace "Who is John Doe?" --template "Question: {prompt} Answer:" -o report.json
    haiftrace trace --prompts probes.jsonl -o report.json -o report.sarif
    haiftrace trace --probes-from-corpus 200
    haiftrace trace --prompts probes.jsonl --sample 20 --temperature 0.8
    haiftrace trace --prompts probes.jsonl --model ./ckpt --corpus data.jsonl    # no index is kept
    """
    from haiftrace.auditing.audit import audit as audit_checkpoint
    from haiftrace.auditing.audit import corpus_cases
    from haiftrace.auditing.corpus_regions import with_corpus_regions
    from haiftrace.auditing.single import trace_response
    from haiftrace.auditing.sources import check_sources, write_sources
    from haiftrace.commands.temporary_index import temporary_index
    from haiftrace.methods import find_methods
    from haiftrace.privacy import mask_report
    from haiftrace.progress import ConsoleProgress
    from haiftrace.reports import check_outputs
    from haiftrace.tracing.settings import TraceSettings
    from haiftrace.tracing.tracer import open_tracer

    check_outputs(output.paths)
    output.check(prompt)
    check_sources(output.sources)
    source.check()
    find_methods(search.method)
    audit.check(prompt, {"--response": query.response, "--span": query.span})
    detection = audit.detection()
    cases = audit.cases(detection)
    response = _stdin_text() if query.response == "-" else query.response
    settings = TraceSettings(
        method=search.method,
        candidates=search.candidates,
        exact=search.exact,
        top=search.top,
        alpha=search.alpha,
        prompting=query.prompting(methods.seed),
        methods=methods.all_settings(),
    )
    command = shlex.join(["haiftrace", *sys.argv[1:]])
    values = tuple(audit.protect or ())
    with ConsoleProgress(run.quiet, shown) as progress, ExitStack() as stack:
        gate = audit.gate(progress.say)
        probe = None
        if prompt is not None:
            probe = audit.single(prompt, response, detection)
        index = source.index
        if source.corpus:
            temporary = temporary_index(
                source.model,
                source.corpus_settings(methods.seed),
                search.method,
                settings.methods,
                run,
                progress,
            )
            index = stack.enter_context(temporary)
        place = place_name(index)
        fetched(index, progress)
        tracer = open_tracer(index, source.model, run.device, run.memory_bytes, place)
        if audit.regions is None:
            detection = with_corpus_regions(tracer.index, detection)
            gate = replace(gate, detection=detection)
            cases = [replace(case, detection=detection) for case in cases]
            probe = None if probe is None else replace(probe, detection=detection)
        if probe is not None:
            report = trace_response(
                tracer,
                probe,
                settings,
                progress,
                gate,
                span=query.span,
                whole_response=query.whole,
                gated=audit.fail_on is not None,
                command=command,
            )
        else:
            if audit.probes_from_corpus is not None:
                count, answer = audit.probes_from_corpus, query.max_new_tokens
                cases = corpus_cases(tracer, count, methods.seed, answer, detection)
            audited = audit_checkpoint(tracer, cases, settings, gate, progress, command)
            report, values = audited.report, audited.values
    if audit.category is not None:
        report = replace(report, settings={**report.settings, "category": audit.category})
    if output.sources is not None:
        write_sources(report, tracer.index, output.sources, values, audit.reveal)
    masked = mask_report(report, values, detection)
    deliver(
        report if audit.reveal else masked,
        masked,
        output.paths,
        full=output.full,
        below=output.below,
        verbose=output.verbose,
    )
    if report.gate is None:
        return EXIT_CLEAN
    return EXIT_INTERRUPTED if report.gate.partial else report.gate.exit_code


def _stdin_text() -> str:
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise UsageError("The response on stdin is not valid UTF-8.", "Convert it.") from None
