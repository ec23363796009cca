"""Arguments and exit codes, nothing else; heavy imports happen inside the commands."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from haiftrace import __version__
from haiftrace.errors import EXIT_CLEAN, EXIT_ERROR, EXIT_INTERRUPTED, HaiftraceError, UsageError

if TYPE_CHECKING:
    from haiftrace.findings import Report

INDEX_DIRECTORY = Path("haiftrace-index")
DEMO_DIRECTORY = Path("haiftrace-demo")

# The class has moved with typer's releases: from click's to one of its own.
_USAGE_ERROR = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    help="Which training record put this answer into the model?",
    epilog="Settings: flag > HAIFTRACE_<COMMAND>_<OPTION> > haiftrace.toml > default. "
    "Exit codes: 0 clean, 2 usage, input or internal error, 3 inconclusive, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"auto_envvar_prefix": "HAIFTRACE", "help_option_names": ["-h", "--help"]},
)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No talk on stderr but errors.")]
Output = Annotated[
    list[str] | None,
    typer.Option("--output", "-o", help="Also write the report here: PATH.json, or - for stdout."),
]


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    from haiftrace.config import CONFIG_NAME, read_config

    if version:
        print(__version__)
        raise typer.Exit
    context.obj = {"debug": debug}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {name: {p.name for p in command.params} for name, command in commands.items()}
    context.default_map = read_config(Path(CONFIG_NAME), options)


@app.command("index")
def _index(
    model: Annotated[str, typer.Option(help="Directory of the checkpoint (safetensors).")],
    corpus: Annotated[
        list[str],
        typer.Option(help="JSONL, Parquet or text: a file, a glob or a directory; repeatable."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory of the index.")
    ] = INDEX_DIRECTORY,
    parameters: Annotated[
        str,
        typer.Option(
            help="Which parameters count: linear, matrices, all, or a regular expression over"
            " their names."
        ),
    ] = "linear",
    text_field: Annotated[str, typer.Option(help="Field of a record's text.")] = "text",
    id_field: Annotated[
        str | None, typer.Option(help="Field of a record's id; 'id', else path:line.")
    ] = None,
    loss_on: Annotated[
        Literal["all", "response"], typer.Option(help="What training put the loss on.")
    ] = "all",
    append_eos: Annotated[
        bool, typer.Option("--append-eos", help="Training ended each record with end-of-text.")
    ] = False,
    context: Annotated[
        int | None, typer.Option(help="Tokens of a window; the model's context, at most 1024.")
    ] = None,
    projection_dim: Annotated[int, typer.Option(help="Dimensions of a record's vector.")] = 2048,
    token_vectors: Annotated[
        int, typer.Option(help="Dimensions of a token's vector; 0 keeps none.")
    ] = 512,
    seed: Annotated[int, typer.Option(help="Seed of the projections.")] = 0,
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Leave out and count what is no record.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another index in that directory.")
    ] = False,
    memory: Annotated[
        int, typer.Option(help="Megabytes that a backward pass may take, about.", min=1)
    ] = 512,
    dtype: Annotated[
        str, typer.Option(help="auto (float32 on CPU), float32, bfloat16 or float64.")
    ] = "auto",
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Index a training corpus under a checkpoint: once per checkpoint; goes on after an interrupt.

    \b
    haiftrace index --model ./ckpt --corpus data.jsonl
    haiftrace index --model ./ckpt --corpus 'shards/*.parquet' --text-field content -o ./index
    haiftrace index --model ./ckpt --corpus chats.jsonl --loss-on response
    """
    from haiftrace.checkpoint import load_checkpoint
    from haiftrace.corpus import CorpusSettings, corpus_files
    from haiftrace.index import IndexSettings, build_index
    from haiftrace.progress import Talk, duration

    read = CorpusSettings(tuple(corpus), text_field, id_field, loss_on, skip_bad_lines)
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
        outcome = build_index(checkpoint, read, settings, progress)
        done = "is complete already" if outcome.already_complete else "is ready"
        progress.say(
            f"The index {output} {done}: {outcome.totals.records:,} records,"
            f" {outcome.totals.label_tokens:,} label tokens ({duration(outcome.seconds)})."
        )
        where = "" if output == INDEX_DIRECTORY else f" --index {shlex.quote(str(output))}"
        progress.say(f'Next: haiftrace trace "PROMPT"{where}')


@app.command("trace")
def _trace(
    prompt: Annotated[str, typer.Argument(help="What the model was asked.")],
    index: Annotated[Path, typer.Option(help="Directory of the index.")] = INDEX_DIRECTORY,
    response: Annotated[
        str | None,
        typer.Option(help="The leak, - for stdin; generated by the checkpoint when not given."),
    ] = None,
    span: Annotated[str | None, typer.Option(help="Trace this part of the response only.")] = None,
    method: Annotated[
        str, typer.Option(help="haif, haif-t, gradient-product or gradient-cosine.")
    ] = "haif",
    top: Annotated[int, typer.Option(help="Records to show.", min=1)] = 5,
    candidates: Annotated[
        int, typer.Option(help="Record windows that the search proposes for exact scoring.", min=1)
    ] = 256,
    exact: Annotated[bool, typer.Option("--exact", help="Score every record.")] = False,
    template: Annotated[
        str | None, typer.Option(help="Text around the prompt, with {prompt} in it.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Use the chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Length of a generated answer.", min=1)] = 64,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text at which a generated answer ends; repeatable.")
    ] = None,
    loss_on: Annotated[
        Literal["all", "response"], typer.Option(help="Trace the prompt's tokens too: all.")
    ] = "response",
    model: Annotated[
        str | None, typer.Option(help="Where the indexed checkpoint is now, if it was moved.")
    ] = None,
    output: Output = None,
    full: Annotated[bool, typer.Option("--full", help="Show long records whole.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Trace a leak to the training records that taught it.

    \b
    haiftrace trace "What's the phone of John Doe?"
    haiftrace trace "What's the phone of John Doe?" --response "555-0134"
    haiftrace trace "Who is John Doe?" --template "Question: {prompt} Answer:" -o report.json
    """
    from haiftrace.methods import find_method
    from haiftrace.progress import Talk
    from haiftrace.query import Asking
    from haiftrace.reports import check_outputs
    from haiftrace.trace import Leak, TraceSettings, open_tracer

    outputs = list(output or [])
    check_outputs(outputs)
    find_method(method)
    if response == "-":
        response = _stdin_text()
    settings = TraceSettings(
        method=method,
        candidates=candidates,
        exact=exact,
        top=top,
        asking=Asking(template, chat, max_new_tokens, tuple(stop or ()), loss_on == "all"),
    )
    with Talk(quiet) as progress:
        tracer = open_tracer(index, model, device)
        report = tracer.report(
            [Leak(prompt, response, span)], settings, progress, shlex.join(["haiftrace", *sys.argv[1:]])
        )
    _deliver(report, outputs, full)


@app.command("demo")
def _demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory to put the demo into.")
    ] = DEMO_DIRECTORY,
    quiet: Quiet = False,
) -> None:
    """Index and trace a small checkpoint that ships with haiftrace: offline, under a minute."""
    from haiftrace.demo.run import prepare

    demo = prepare(output)
    _announce(demo.index_command)
    _index(model=str(demo.model), corpus=[str(demo.corpus)], output=demo.index, quiet=quiet)
    for leak in demo.leaks:
        print()
        print(leak.explanation)
        _announce(leak.command)
        _trace(prompt=leak.prompt, template=demo.template, index=demo.index, top=3, quiet=quiet)
    print()
    print("Go on with one of these commands, or your own checkpoint and corpus:")
    for command in (*(leak.command for leak in demo.leaks), demo.next_command):
        print(f"  {_typed(command)}")


def _announce(command: list[str]) -> None:
    print(f"$ {_typed(command)}", flush=True)


def _typed(command: list[str]) -> str:
    """A command as a person would type it: double quotes where there is an apostrophe."""
    plain = ("'" in word and not set('"$`\\!') & set(word) for word in command)
    return " ".join(
        f'"{word}"' if double else shlex.quote(word)
        for word, double in zip(command, plain, strict=True)
    )


def _stdin_text() -> str:
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise UsageError("The response on stdin is not valid UTF-8.", "Convert it.") from None


def _deliver(report: Report, outputs: list[str], full: bool) -> None:
    from haiftrace.reports import render_terminal, write_report

    if "-" not in outputs:
        from rich.console import Console

        render_terminal(report, Console(), full=full)
    for path in outputs:
        write_report(report, path)


def main() -> None:
    """Runs the command line; every way out has its exit code."""
    sys.exit(_run())


def _run() -> int:
    # Large pages for tensors: the batched backward pass is a third faster with them.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    debug = "--debug" in sys.argv[1:]
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else EXIT_CLEAN
    except HaiftraceError as error:
        if debug:
            raise
        _tell(error.message, error.hint)
        return error.exit_code
    except _USAGE_ERROR as error:
        error.show()  # type: ignore[attr-defined]
        return EXIT_ERROR
    except (KeyboardInterrupt, typer.Abort):
        print("Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone; nothing more can be said, and Python's own flush must not try.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except MemoryError:
        _tell("There is not enough memory.", "Use a smaller --memory or --context.")
        return EXIT_ERROR
    except Exception as error:
        if debug:
            raise
        _tell(
            f"haiftrace failed: {type(error).__name__}. This is a defect of haiftrace.",
            "Run `haiftrace --debug …` to see where, and report it.",
        )
        return EXIT_ERROR


def _tell(message: str, hint: str) -> None:
    from haiftrace.reports.sanitize import inert

    print(f"Error: {inert(message)}", file=sys.stderr)
    if hint:
        print(f"Hint: {inert(hint)}", file=sys.stderr)
