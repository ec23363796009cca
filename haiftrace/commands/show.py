"""`haiftrace show`: what an index holds, and what can be traced over it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haiftrace.commands.index_location import INDEX_DIRECTORY, fetched, index_directory, place_name
from haiftrace.commands.options import Option, shown

if TYPE_CHECKING:
    from haiftrace.tracing.index_contents import IndexContents, MethodState


def show(
    index: Annotated[
        Path,
        typer.Argument(
            parser=index_directory, metavar="INDEX", help="Directory or URI of the index."
        ),
    ] = INDEX_DIRECTORY,
    as_json: Annotated[bool, Option("--json", help="Write it as JSON.")] = False,
) -> None:
    """Show what an index holds: records, settings, methods, calibration, size and cost.

    \b
    haiftrace show
    haiftrace show ./index --json
    """
    import json

    from haiftrace.progress import ConsoleProgress
    from haiftrace.store import Index
    from haiftrace.tracing.index_contents import index_contents

    with ConsoleProgress(quiet=False, shown=shown) as progress:
        fetched(index, progress)
    with Index.open(index, verify=False, place=place_name(index)) as opened:
        contents = index_contents(opened)
    if as_json:
        print(json.dumps(_masked(contents.as_dict()), indent=2))
        return
    rows = list(_rows(contents))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:{width}}  {shown(text)}".rstrip())


def _masked(content: Any) -> Any:
    """JSON values in which no text holds a private value; a path may."""
    from haiftrace.privacy import mask_detected

    if isinstance(content, dict):
        return {key: _masked(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_masked(value) for value in content]
    # Digests and numbers hold none, and a run of digits in one looks like one.
    hexadecimal = isinstance(content, str) and len(content) == 64 and content.isalnum()
    return mask_detected(content) if isinstance(content, str) and not hexadecimal else content


def _rows(contents: IndexContents) -> Iterator[tuple[str, str]]:
    """A name and a text a line; a line that goes on has no name."""
    from haiftrace.progress import duration, size
    from haiftrace.reports.formatting import count_text

    model, counts = contents.model, contents.counts
    made = (contents.finished or contents.created)[:10]
    yield (
        "Index",
        f"{contents.path}, complete since {made} (haiftrace {contents.tool_version},"
        f" format {contents.format_version})",
    )
    gone = "" if model["there"] else "; no longer there: trace --model DIR"
    yield (
        "Model",
        f"{model['path']} ({model['architecture']}, {model['parameters']:,} parameters, as"
        f" {model['dtype']}{gone})",
    )
    if model["base"]:
        apart = contents.settings["scope"] == "adapter"
        yield "", f"an adapter, {'beside' if apart else 'merged into'} {model['base']}"
    yield from _corpus(contents)
    yield (
        "Records",
        f"{counts['records']:,} in {count_text(counts['windows'], 'window')},"
        f" {counts['label_tokens']:,} label tokens",
    )
    absent = {
        "left_out": "left out: empty, or without a token to predict",
        "bad": "lines left out that are no record",
        "dropped": "masked by --drop-ids; --compact removes them",
    }
    for key, text in absent.items():
        if counts[key]:
            yield "", f"{counts[key]:,} {text}"
    yield from _settings(contents)
    yield from _methods(contents)
    yield from _calibrations(contents)
    each = ", ".join(f"{name} {size(count)}" for name, count in contents.bytes_by_part.items())
    yield "Size", f"{size(contents.size)}, {contents.bytes_per_token:.0f} bytes a label token"
    yield "", each
    if contents.seconds is not None:
        rest = " in its last run, after an interrupt" if contents.resumed else ""
        yield "Cost", f"indexed in {duration(contents.seconds)}{rest}; without calibration"


def _corpus(contents: IndexContents) -> Iterator[tuple[str, str]]:
    corpus = contents.corpus
    yield "Corpus", ", ".join(corpus["paths"])
    if corpus["appended"]:
        yield "", f"appended: {', '.join(corpus['appended'])}"
    usual = {"text_field": "text", "loss_on": "all", "skip_bad_lines": False, "seed": 0}
    read = {
        name: value
        for name, value in corpus.items()
        if name not in ("paths", "appended", "fingerprint", "base")
        and value is not None
        and usual.get(name) != value
    }
    if read:
        options = (
            f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            for name, value in read.items()
        )
        yield "", f"read with {' '.join(options)}"


def _settings(contents: IndexContents) -> Iterator[tuple[str, str]]:
    from haiftrace.reports.formatting import count_text

    settings, model = contents.settings, contents.model
    kind = f"{settings['gradients']} gradients, {count_text(settings['layers'][1], 'layer')}"
    vectors = settings["token_vectors"]
    yield (
        "Settings",
        f"windows of {settings['context']:,} tokens, {kind}, token vectors of {vectors:,} bits",
    )
    whitening = settings.get("whitening_damping")
    end = ", each record ended with end-of-text" if settings.get("append_eos") else ""
    damping = "" if whitening is None else f"whitening damping {whitening:g}, "
    yield "", f"{damping}seed {settings['seed']}{end}"
    yield (
        "",
        f"parameters of full gradients: {settings['scope']} ({model['traced_parameters']:,})",
    )


def _methods(contents: IndexContents) -> Iterator[tuple[str, str]]:
    """Those in the same state together."""
    by_state: dict[str, list[str]] = {}
    for state in contents.methods:
        by_state.setdefault(_state(state), []).append(state.name)
    for number, (text, names) in enumerate(by_state.items()):
        yield "" if number else "Methods", f"{', '.join(names)}: {text}"
    if any(state.missing or not state.calibration for state in contents.methods if state.verdicts):
        command = f"haiftrace index -o {shlex.quote(contents.path)} --method NAMES"
        yield "", f"to compute it once, and calibrate: {command}"


def _state(state: MethodState) -> str:
    parts = ["ready" if not state.missing else ""]
    if state.needs:
        parts = [f"with {state.needs}"]
    if state.kept:
        parts.append(f"{', '.join(state.kept)} kept")
    if state.missing:
        parts.append(f"{', '.join(state.missing)} computed by each trace")
    if not state.verdicts:
        parts.append("has no verdicts")
    else:
        parts.append("calibrated" if state.calibration is not None else "not calibrated")
    return ", ".join(filter(None, parts))


def _calibrations(contents: IndexContents) -> Iterator[tuple[str, str]]:
    calibrated = [state for state in contents.methods if state.calibration is not None]
    if not calibrated:
        yield "Calibration", "none: haiftrace index --calibrate 512"
    for number, state in enumerate(calibrated):
        calibration = state.calibration
        assert calibration is not None
        if not calibration.current:
            text = "by another version of haiftrace: haiftrace index --calibrate 512"
        elif calibration.power:
            powers = (f"{power:.0%} at {length}" for length, power in calibration.power.items())
            text = (
                f"{calibration.controls:,} controls; power at alpha {calibration.alpha:g} by tokens"
                f" of the response: {', '.join(powers)}"
            )
        else:
            text = (
                f"{calibration.controls:,} controls, too few for verdicts at alpha"
                f" {calibration.alpha:g}"
            )
        yield "" if number else "Calibration", f"{state.name}: {text}"
