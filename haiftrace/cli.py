"""Arguments and exit codes, nothing else; heavy imports happen inside the commands."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from haiftrace import __version__
from haiftrace.audit_options import (
    Baseline,
    FailOn,
    IgnoreFile,
    MaxLeaks,
    ProbesFromCorpus,
    Prompts,
    Protect,
    Reveal,
    check_asked,
    gate_settings,
)
from haiftrace.bench.command import app as bench
from haiftrace.errors import EXIT_CLEAN, EXIT_ERROR, EXIT_INTERRUPTED, HaiftraceError, UsageError
from haiftrace.method_options import (
    Adjust,
    Checkpoints,
    Combine,
    Curvature,
    Damping,
    Depth,
    FactorRecords,
    Fisher,
    LateScope,
    Power,
    QueryTokens,
    ReferenceSize,
    Repeats,
    Scale,
    method_settings,
)
from haiftrace.options import Device, Memory, Option, Quiet, variables

if TYPE_CHECKING:
    from haiftrace.checkpoint import Checkpoint
    from haiftrace.findings import Report
    from haiftrace.methods.settings import MethodSettings
    from haiftrace.progress import Talk

INDEX_DIRECTORY = Path("haiftrace-index")
DEMO_DIRECTORY = Path("haiftrace-demo")

# The class has moved with typer's releases: from click's to one of its own.
_USAGE_ERROR: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)

app = typer.Typer(
    help="Which training record put this answer into the model?",
    epilog="Settings: flag > HAIFTRACE_<COMMAND>_<OPTION> > haiftrace.toml > default. "
    "Exit codes: 0 clean, 1 leaks (an audit, or --fail-on), 2 usage, input or internal error,"
    " 3 inconclusive, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(bench, name="bench")

Output = Annotated[
    list[str] | None,
    Option(
        "--output",
        "-o",
        help="Also write the report here, by suffix: .json, .jsonl, .sarif, .html, .md; - is JSON"
        " on stdout; repeatable.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _options(command: Any) -> dict[str, Any]:
    """A command's options and whether they may be repeated; a group's commands, each with its."""
    if hasattr(command, "commands"):
        return {name: _options(below) for name, below in command.commands.items()}
    return {str(p.name): bool(getattr(p, "multiple", False)) for p in command.params}


@app.callback()
def _start(
    context: typer.Context,
    version: Annotated[
        bool,
        Option("--version", help="Print the version.", is_eager=True, callback=_print_version),
    ] = False,
    debug: Annotated[bool, Option("--debug", help="Show tracebacks; anywhere.")] = False,
) -> None:
    from haiftrace.config import CONFIG_NAME, read_config

    try:
        context.default_map = read_config(Path(CONFIG_NAME), _options(typer.main.get_command(app)))
    except UsageError:
        if not {"-h", "--help"} & set(sys.argv[1:]):  # help must tell how to correct the file
            raise


@app.command("index", context_settings=variables("INDEX"))
def _index(
    model: Annotated[
        str | None, Option(help="Directory of the checkpoint (safetensors).", show_default=False)
    ] = None,
    corpus: Annotated[
        list[str] | None,
        Option(help="JSONL, Parquet or text: a file, a glob or a directory; repeatable."),
    ] = None,
    output: Annotated[
        Path, Option("--output", "-o", help="Directory of the index.")
    ] = INDEX_DIRECTORY,
    parameters: Annotated[
        str,
        Option(
            help="Which parameters count: linear, attention, value, mlp, last-half, matrices,"
            " all, or a regular expression over their names. Of further ones, with commas"
            " between, token norms are kept for haif-r and haif-li; token vectors are of the"
            " second."
        ),
    ] = "linear,attention",
    text_field: Annotated[str, Option(help="Field of a record's text.")] = "text",
    id_field: Annotated[
        str | None, Option(help="Field of a record's id; 'id', else path:line.")
    ] = None,
    group_field: Annotated[
        str | None,
        Option(help="Field that records on one subject share; a control leaves all of them out."),
    ] = None,
    loss_on: Annotated[
        Literal["all", "response"], Option(help="What training put the loss on.")
    ] = "all",
    append_eos: Annotated[
        bool, Option("--append-eos", help="Training ended each record with end-of-text.")
    ] = False,
    context: Annotated[
        int | None, Option(help="Tokens of a window; the model's context, at most 1024.")
    ] = None,
    projection_dim: Annotated[int, Option(help="Dimensions of a record's vector.")] = 2048,
    token_vectors: Annotated[
        int, Option(help="Dimensions of a token's vector; 0 keeps none.")
    ] = 512,
    seed: Annotated[int, Option(help="Seed of the projections and control queries.")] = 0,
    skip_bad_lines: Annotated[
        bool, Option("--skip-bad-lines", help="Leave out and count what is no record.")
    ] = False,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace another index in that directory.")
    ] = False,
    methods: Annotated[
        str | None,
        Option(
            help="Also keep in the index what these methods need, with commas between; without"
            " --model and --corpus it is added to a complete index."
        ),
    ] = None,
    calibrate: Annotated[
        int | None,
        Option(
            help="Control queries that trace's verdicts are calibrated by (512), 0 for none; for"
            " haif-r and --methods. Without --model and --corpus it is added to a complete index.",
            min=0,
        ),
    ] = None,
    adjust: Adjust = "power:1",
    damping: Damping = None,
    fisher: Fisher = "true",
    factor_records: FactorRecords = None,
    checkpoints: Checkpoints = None,
    scope: LateScope = "attention",
    power: Power = 3.0,
    memory: Memory = 512,
    dtype: Annotated[
        str, Option(help="auto (float32 on CPU), float32, bfloat16 or float64.")
    ] = "auto",
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Index a training corpus under a checkpoint: once per checkpoint; goes on after an interrupt.

    \b
    haiftrace index --model ./ckpt --corpus data.jsonl
    haiftrace index --model ./ckpt --corpus 'shards/*.parquet' --text-field content -o ./index
    haiftrace index --model ./ckpt --corpus chats.jsonl --loss-on response
    haiftrace index --methods ek-fac,relatif     # add to a complete index
    haiftrace index --calibrate 2000             # other controls for a complete index
    """
    from haiftrace.corpus import CorpusSettings, corpus_files
    from haiftrace.index import IndexSettings, build_index
    from haiftrace.methods import find_methods
    from haiftrace.progress import Talk, duration

    told = method_settings(
        adjust,
        "sum",
        damping,
        fisher,
        factor_records,
        checkpoints=checkpoints,
        seed=seed,
        scope=scope,
        power=power,
    )
    find_methods(methods or "haif-r")
    if (methods is not None or calibrate) and model is None and not corpus:
        with Talk(quiet) as progress:
            _prepare(output, methods, calibrate, seed, told, device, memory, progress)
        return
    if model is None or not corpus:
        raise typer.BadParameter(f"Missing option '--{'model' if model is None else 'corpus'}'.")
    from haiftrace.calibrate import CONTROLS
    from haiftrace.checkpoint import load_checkpoint
    from haiftrace.methods import DEFAULT_METHOD
    from haiftrace.prepare import check_needs, prepare
    from haiftrace.scopes import parse_scopes

    read = CorpusSettings(tuple(corpus), text_field, id_field, loss_on, skip_bad_lines, group_field)
    corpus_files(read)  # a mistyped path is told before the model is loaded
    settings = IndexSettings(
        output=output,
        parameters=parameters,
        context=context,
        append_eos=append_eos,
        projection_dim=projection_dim,
        token_vectors=token_vectors,
        seed=seed,
        overwrite=overwrite,
        memory=memory << 20,
    )
    with Talk(quiet) as progress:
        checkpoint = load_checkpoint(model, dtype=dtype, device=device)
        if methods is not None:
            check_needs(checkpoint, parse_scopes(parameters)[0], methods, told)
        try:
            outcome = build_index(checkpoint, read, settings, progress)
        except KeyboardInterrupt:
            progress.say("The same command goes on from the last complete shard.")
            raise
        done = "is complete already" if outcome.already_complete else "is ready"
        progress.say(
            f"The index {output} {done}: {outcome.totals.records:,} records,"
            f" {outcome.totals.label_tokens:,} label tokens ({duration(outcome.seconds)})."
        )
        if methods is not None:
            prepare(output, checkpoint, methods, told, memory << 20, progress)
            progress.say(f"It holds what {methods} needs.")
        names = ",".join(filter(None, (DEFAULT_METHOD, methods)))
        asked = (calibrate, seed, CONTROLS)
        _calibrate(output, checkpoint, names, told, asked, memory, progress)
        where = "" if output == INDEX_DIRECTORY else f" --index {shlex.quote(str(output))}"
        progress.say(f'Next: haiftrace trace "PROMPT"{where}')


def _prepare(
    output: Path,
    methods: str | None,
    calibrate: int | None,
    seed: int,
    told: MethodSettings,
    device: str,
    memory: int,
    progress: Talk,
) -> None:
    """Adds what methods need, and their calibration, to a complete index of its own checkpoint.

    Without a number of controls, methods are calibrated as the default method is, if it is.
    """
    from haiftrace.freshness import load_indexed
    from haiftrace.methods import DEFAULT_METHOD
    from haiftrace.prepare import prepare
    from haiftrace.store import Index

    with Index.open(output, verify=False) as index:
        checkpoint = load_indexed(index, None, device)
    try:
        if methods is not None:
            prepare(output, checkpoint, methods, told, memory << 20, progress)
            progress.say(f"The index {output} holds what {methods} needs.")
        names, asked = methods or DEFAULT_METHOD, (calibrate, seed, 0)
        _calibrate(output, checkpoint, names, told, asked, memory, progress)
    except KeyboardInterrupt:
        progress.say("The same command goes on from what is complete.")
        raise


def _calibrate(
    output: Path,
    checkpoint: Checkpoint,
    methods: str,
    told: MethodSettings,
    asked: tuple[int | None, int, int],
    memory: int,
    progress: Talk,
) -> None:
    """Calibrates an index for methods; `asked` is what `controls_for` takes."""
    from haiftrace.calibrate import CalibrationSettings, calibrate, controls_for

    controls, seed = controls_for(output, *asked)
    if controls:
        settings = CalibrationSettings(controls, seed, memory << 20)
        calibrate(output, checkpoint, methods, told, settings, progress)


@app.command("trace", context_settings=variables("TRACE"))
def _trace(
    prompt: Annotated[
        str | None, typer.Argument(help="What the model was asked.", show_default=False)
    ] = None,
    index: Annotated[Path, Option(help="Directory of the index.")] = INDEX_DIRECTORY,
    response: Annotated[
        str | None,
        Option(help="The leak, - for stdin; generated by the checkpoint when not given."),
    ] = None,
    span: Annotated[str | None, Option(help="Trace this part of the response only.")] = None,
    prompts: Prompts = None,
    probes_from_corpus: ProbesFromCorpus = None,
    protect: Protect = None,
    fail_on: FailOn = None,
    max_leaks: MaxLeaks = 0,
    baseline: Baseline = None,
    ignore_file: IgnoreFile = None,
    reveal: Reveal = False,
    method: Annotated[
        str,
        Option(
            help="haif, haif-t, gradient-product, gradient-cosine, tracincp, lissa, ek-fac,"
            " relatif, attif, ahif, haif-r, haif-li, bm25 or bm25-answer; several with commas"
            " between."
        ),
    ] = "haif-r",
    top: Annotated[int, Option(help="Records to show.", min=1)] = 5,
    candidates: Annotated[
        int, Option(help="Record windows that the search proposes for exact scoring.", min=1)
    ] = 256,
    rescore: Annotated[
        int | None,
        Option(
            help="The same for haif-li, and for haif-r in place of --candidates; 32 on a CPU, 256"
            " on a GPU.",
            min=1,
        ),
    ] = None,
    exact: Annotated[bool, Option("--exact", help="Score every record.")] = False,
    alpha: Annotated[
        float, Option(help="Share of false accusations that a verdict may make.")
    ] = 0.01,
    template: Annotated[
        str | None, Option(help="Text around the prompt, with {prompt} in it.")
    ] = None,
    chat: Annotated[bool, Option("--chat", help="Use the chat template.")] = False,
    max_new_tokens: Annotated[int, Option(help="Length of a generated answer.", min=1)] = 64,
    stop: Annotated[
        list[str] | None, Option(help="Text at which a generated answer ends; repeatable.")
    ] = None,
    loss_on: Annotated[
        Literal["all", "response"], Option(help="Trace the prompt's tokens too: all.")
    ] = "response",
    model: Annotated[
        str | None, Option(help="Where the indexed checkpoint is now, if it was moved.")
    ] = None,
    adjust: Adjust = "power:1",
    combine: Combine = "sum",
    damping: Damping = None,
    fisher: Fisher = "true",
    factor_records: FactorRecords = None,
    depth: Depth = 500,
    repeats: Repeats = 1,
    scale: Scale = "auto",
    curvature: Curvature = "gauss-newton",
    checkpoints: Checkpoints = None,
    scope: LateScope = "attention",
    power: Power = 3.0,
    reference: ReferenceSize = 4096,
    query_tokens: QueryTokens = "answer",
    seed: Annotated[
        int, Option(help="Seed of what EK-FAC, LiSSA, haif-li and --probes-from-corpus draw.")
    ] = 0,
    memory: Memory = 512,
    output: Output = None,
    full: Annotated[bool, Option("--full", help="Show long records whole.")] = False,
    below: Annotated[
        bool, Option("--all", help="Show the records that chance alone may rank, too.")
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> int:
    """Trace a leak to the training records that taught it, or audit a checkpoint for leaks.

    \b
    haiftrace trace "What's the phone of John Doe?"
    haiftrace trace "What's the phone of John Doe?" --response "555-0134"
    haiftrace trace "Who is John Doe?" --template "Question: {prompt} Answer:" -o report.json
    haiftrace trace --prompts probes.jsonl -o report.json -o report.sarif
    haiftrace trace --probes-from-corpus 200
    """
    from haiftrace.audit import audit, corpus_cases, with_leaks
    from haiftrace.methods import find_methods
    from haiftrace.probes import read_probes, single_probe
    from haiftrace.progress import Talk
    from haiftrace.query import Asking
    from haiftrace.reports import check_outputs
    from haiftrace.trace import Leak, TraceSettings, open_tracer

    outputs = list(output or [])
    check_outputs(outputs)
    find_methods(method)
    single = {"--response": response, "--span": span, "--protect": protect}
    check_asked(prompt, prompts, probes_from_corpus, single)
    cases = [] if prompts is None else read_probes(prompts)
    if response == "-":
        response = _stdin_text()
    settings = TraceSettings(
        method=method,
        candidates=candidates,
        exact=exact,
        top=top,
        alpha=alpha,
        asking=Asking(template, chat, max_new_tokens, tuple(stop or ()), loss_on == "all"),
        methods=method_settings(
            adjust,
            combine,
            damping,
            fisher,
            factor_records,
            depth,
            repeats,
            scale,
            curvature,
            checkpoints,
            seed,
            scope,
            power,
            reference,
            query_tokens,
        ),
        rescore=rescore,
    )
    command = shlex.join(["haiftrace", *sys.argv[1:]])
    values = tuple(protect or ())
    with Talk(quiet) as progress:
        gate = gate_settings(fail_on, max_leaks, baseline, ignore_file, progress.say)
        one = None if prompt is None else single_probe(prompt, response, values)
        tracer = open_tracer(index, model, device, memory << 20)
        if one is not None:
            leak = Leak(one.prompt, response, span)
            report = tracer.report([leak], settings, progress, command)
            report = with_leaks(report, one, tracer.index, gate, fail_on is not None)
        else:
            if probes_from_corpus is not None:
                cases = corpus_cases(tracer, probes_from_corpus, seed, max_new_tokens)
            audited = audit(tracer, cases, settings, gate, progress, command)
            report, values = audited.report, audited.values
    _deliver(report, outputs, full, below, values, reveal)
    if report.gate is None:
        return EXIT_CLEAN
    return EXIT_INTERRUPTED if report.gate.partial else report.gate.exit_code


@app.command("demo", context_settings=variables("DEMO"))
def _demo(
    output: Annotated[
        Path, Option("--output", "-o", help="Directory to put the demo into.")
    ] = DEMO_DIRECTORY,
    quiet: Quiet = False,
) -> None:
    """Index and trace a small checkpoint that ships with haiftrace: offline, under a minute."""
    from haiftrace.demo.run import prepare, typed

    demo = prepare(output)
    print(f"$ {typed(demo.index_command)}", flush=True)
    _index(
        model=str(demo.model),
        corpus=[str(demo.corpus)],
        output=demo.index,
        calibrate=demo.controls,
        quiet=quiet,
    )
    for leak in demo.leaks:
        print()
        print(f"{leak.explanation}\n$ {typed(leak.command)}", flush=True)
        _trace(
            prompt=leak.prompt,
            template=demo.template,
            index=demo.index,
            top=3,
            below=True,
            reveal=True,
            quiet=quiet,
        )
    print()
    print("Go on with one of these commands, or your own checkpoint and corpus:")
    for command in (*(leak.command for leak in demo.leaks), demo.next_command):
        print(f"  {typed(command)}")


def _stdin_text() -> str:
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise UsageError("The response on stdin is not valid UTF-8.", "Convert it.") from None


def _deliver(
    report: Report,
    outputs: list[str],
    full: bool,
    below: bool,
    values: tuple[str, ...],
    reveal: bool,
) -> None:
    """Writes the report wherever it is wanted: masked, unless it is to be revealed."""
    from rich.console import Console

    from haiftrace.privacy import mask_report
    from haiftrace.reports import render_terminal, write_report

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would exit with 1, which means that a leak was found

    masked = mask_report(report, values)
    shown = report if reveal else masked
    for path in sorted(outputs, key=lambda path: path == "-"):  # files, whatever becomes of stdout
        write_report(masked if path.lower().endswith(".sarif") else shown, path)
    if "-" not in outputs:
        render_terminal(shown, Terminal(), full=full, below=below)


def main() -> None:
    """Runs the command line; every way out has its exit code."""
    code = _run()
    try:
        sys.stdout.flush()
    except OSError:
        # Nobody reads any more, or the disk is full: Python's own flush must not change the code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run() -> int:
    # Large pages for tensors: the batched backward pass is a third faster with them.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    arguments, debug = _without_debug(sys.argv[1:])
    try:
        code = app(arguments, prog_name="haiftrace", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit:
        return EXIT_ERROR  # typer's answer to a closed pipe is 1, which means that a leak was found
    except _USAGE_ERROR as error:
        error.show()  # type: ignore[attr-defined]
        return EXIT_ERROR
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED  # which some releases of typer return of themselves
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        return _failed(error)
    if code == EXIT_INTERRUPTED:
        print("Interrupted.", file=sys.stderr)
    return code if isinstance(code, int) else EXIT_CLEAN


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without --debug, which may stand anywhere before `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != "--debug"]
    return kept + arguments[end:], len(kept) < end


def _failed(error: Exception) -> int:
    """Says what went wrong and gives the exit code."""
    if isinstance(error, BrokenPipeError) or isinstance(error.__cause__, BrokenPipeError):
        return EXIT_ERROR  # the reader has gone: nobody is left to tell
    if isinstance(error, HaiftraceError):
        _tell(error.message, error.hint)
        return error.exit_code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        _tell("There is not enough memory.", "Use a smaller --memory or --context.")
    elif isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        _tell(
            f"The system refused to read or write{place}: {error.strerror}.",
            "Check the disk and the permissions.",
        )
    else:
        _tell(
            f"haiftrace failed: {type(error).__name__}. This is a defect of haiftrace.",
            "Run the command with --debug to see where, and report it.",
        )
    return EXIT_ERROR


def _tell(message: str, hint: str) -> None:
    from haiftrace.reports.sanitize import inert

    print(f"Error: {inert(message)}", file=sys.stderr)
    if hint:
        print(f"Hint: {inert(hint)}", file=sys.stderr)
