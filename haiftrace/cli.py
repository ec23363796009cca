"""The command line and its exit codes; heavy imports happen inside the commands."""

from __future__ import annotations

import os
import sys
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer

from haiftrace import __version__
from haiftrace.commands.bench import app as bench
from haiftrace.commands.demo import demo
from haiftrace.commands.index import index
from haiftrace.commands.options import Option, variables
from haiftrace.commands.panels import PanelledCommand
from haiftrace.commands.redact import redact
from haiftrace.commands.report import report
from haiftrace.commands.show import show
from haiftrace.commands.trace import trace
from haiftrace.errors import EXIT_CLEAN, EXIT_ERROR, EXIT_INTERRUPTED, HaiftraceError, UsageError

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
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _command in (index, trace, report, show, redact, demo):
    _name = _command.__name__
    _settings = variables(_name.upper())
    app.command(_name, cls=PanelledCommand, context_settings=_settings)(_command)
app.add_typer(bench, name="bench")


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
    except SystemExit as ended:
        # A shell that asks for completions is answered and gets 0. Typer's code for a closed pipe
        # is 1, which here means that a leak was found.
        return EXIT_CLEAN if ended.code in (None, 0) else EXIT_ERROR
    except _USAGE_ERROR as error:
        _show(error)
        given = next((name for name in ("--corpus", "--merge") if name in arguments), None)
        if "extra argument" in str(error) and given is not None:
            print(
                f"Hint: {given} takes one name: repeat it ({given} A {given} B) or quote a glob.",
                file=sys.stderr,
            )
        return EXIT_ERROR
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED  # which some releases of typer return of themselves
    except Exception as error:
        if debug:
            import traceback

            print(_masked(traceback.format_exc()), file=sys.stderr, end="")
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

    print(f"Error: {inert(_masked(message))}", file=sys.stderr)
    if hint:
        print(f"Hint: {inert(_masked(hint))}", file=sys.stderr)


def _show(error: Exception) -> None:
    """Says what typer says, without private values: a prompt that nobody quoted is an argument."""
    shown = StringIO()
    error.show(shown)  # type: ignore[attr-defined]
    print(_masked(shown.getvalue()), file=sys.stderr, end="")


def _masked(text: str) -> str:
    """A message without the private values that a file's name or a field's may hold."""
    from haiftrace.commands.index_location import with_stores_named
    from haiftrace.privacy import mask_detected

    return mask_detected(with_stores_named(text))
