"""`haiftrace index`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from haiftrace.commands.method_options import (
    Adjust,
    Checkpoints,
    Damping,
    FactorRecords,
    Fisher,
    method_settings,
)
from haiftrace.commands.options import INDEX_DIRECTORY, Device, Memory, Option, Quiet

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.methods.settings import MethodSettings
    from haiftrace.progress import Talk


def index(
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
        str | None,
        Option(
            help="Which parameters count for methods of full gradients: linear (the default),"
            " attention, value, mlp, last-half, matrices, all, or a regular expression over their"
            " names."
        ),
    ] = None,
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
    token_vectors: Annotated[
        int, Option(help="Dimensions of a token's vector, a bit each; 0 keeps none.")
    ] = 2048,
    whitening_damping: Annotated[
        float, Option(help="λ of the whitening of direct gradients, in mean eigenvalues.")
    ] = 0.1,
    seed: Annotated[
        int, Option(help="Seed of the projection, of samples and of control queries.")
    ] = 0,
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
            " layerwise and --methods. Without --model and --corpus it is added to a complete"
            " index.",
            min=0,
        ),
    ] = None,
    adjust: Adjust = "power:1",
    damping: Damping = None,
    fisher: Fisher = "true",
    factor_records: FactorRecords = None,
    checkpoints: Checkpoints = None,
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
    haiftrace index --methods haif,ek-fac        # add to a complete index
    haiftrace index --calibrate 2000             # other controls for a complete index
    """
    from haiftrace.corpus import CorpusSettings, corpus_files
    from haiftrace.index.build import IndexSettings, build_index
    from haiftrace.methods import find_methods
    from haiftrace.progress import Talk, duration

    told = method_settings(
        adjust, "sum", damping, fisher, factor_records, checkpoints=checkpoints, seed=seed
    )
    if methods is not None:
        find_methods(methods)
    if (methods is not None or calibrate) and model is None and not corpus:
        with Talk(quiet) as progress:
            _prepare(output, methods, calibrate, seed, told, device, memory, progress)
        return
    if model is None or not corpus:
        raise typer.BadParameter(f"Missing option '--{'model' if model is None else 'corpus'}'.")
    from haiftrace.calibration.calibrate import CONTROLS
    from haiftrace.checkpoint.load import load_checkpoint
    from haiftrace.index.precompute import check_needs, prepare
    from haiftrace.methods import DEFAULT_METHOD

    read = CorpusSettings(tuple(corpus), text_field, id_field, loss_on, skip_bad_lines, group_field)
    corpus_files(read)  # a mistyped path is told before the model is loaded
    settings = IndexSettings(
        output=output,
        parameters=parameters,
        context=context,
        append_eos=append_eos,
        token_vectors=token_vectors,
        whitening_damping=whitening_damping,
        seed=seed,
        overwrite=overwrite,
        memory=memory << 20,
    )
    with Talk(quiet) as progress:
        checkpoint = load_checkpoint(model, dtype=dtype, device=device)
        if methods is not None:
            check_needs(checkpoint, parameters, methods, told)
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
    from haiftrace.index.precompute import prepare
    from haiftrace.methods import DEFAULT_METHOD
    from haiftrace.scoring.freshness import load_indexed
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
    from haiftrace.calibration.calibrate import CalibrationSettings, calibrate, controls_for

    controls, seed = controls_for(output, *asked)
    if controls:
        settings = CalibrationSettings(controls, asked[0] is not None, seed, memory << 20)
        calibrate(output, checkpoint, methods, told, settings, progress)
