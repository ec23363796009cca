"""`haiftrace index`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from haiftrace.commands.index_changes import ChangeOptions, append, drop, verify
from haiftrace.commands.index_location import (
    INDEX_DIRECTORY,
    fetched,
    place_name,
    store_uri,
    written,
)
from haiftrace.commands.index_options import CorpusOptions, IndexOptions, SupplementOptions
from haiftrace.commands.method_options import KeptMethodOptions
from haiftrace.commands.options import Option, RunOptions, grouped, shown
from haiftrace.commands.panels import EXPERT
from haiftrace.commands.work_options import WorkOptions

if TYPE_CHECKING:
    from haiftrace.methods.settings import MethodSettings
    from haiftrace.progress import ConsoleProgress


@grouped
def index(
    *,
    model: Annotated[
        str | None,
        Option(
            help="Directory of the checkpoint (safetensors), or of a PEFT adapter.",
            show_default=False,
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        Option(
            help="Directory of an adapter's base.",
            show_default="where the adapter says",
        ),
    ] = None,
    corpus: CorpusOptions,
    layout: IndexOptions,
    supplements: SupplementOptions,
    changes: ChangeOptions,
    work: WorkOptions,
    method_options: KeptMethodOptions,
    run: RunOptions,
    dtype: Annotated[
        str,
        Option(help="auto (float32 on CPU), float32, bfloat16 or float64.", rich_help_panel=EXPERT),
    ] = "auto",
) -> int | None:
    """Index a training corpus under a checkpoint: once per checkpoint; goes on after an interrupt.

    \b
    haiftrace index --model ./ckpt --corpus data.jsonl
    haiftrace index --model ./ckpt --corpus 'shards/*.parquet' --text-field content -o ./index
    haiftrace index --model ./ckpt --corpus chats.jsonl --loss-on response
    haiftrace index --method haif,ek-fac         # add to a complete index
    haiftrace index --calibrate 2000             # other controls for a complete index
    haiftrace index --append more.jsonl          # add records to a complete index
    haiftrace index --drop-ids ids.txt --compact # a deletion request
    haiftrace index --verify haiftrace-index     # check all of it; exit code 0 or 3
    haiftrace index --model ./ckpt --corpus data.jsonl --workers 4
    haiftrace index --model ./ckpt --corpus data.jsonl --part 2/8 -o part-2    # a job of eight
    haiftrace index --merge 'part-*' -o ./index
    """
    from haiftrace.methods import find_methods
    from haiftrace.progress import ConsoleProgress, duration

    settings = method_options.settings(layout.seed)
    if supplements.method is not None:
        find_methods(supplements.method)
    changes.check(model, corpus.corpus)
    work.check(model, supplements, changes.wanted)
    if changes.verify is not None:
        with ConsoleProgress(run.quiet, shown) as progress:
            fetched(changes.verify, progress, afresh=True)
            code, lines = verify(changes.verify, model, layout.seed, run, progress)
        print("\n".join(lines))
        return code
    if changes.wanted:
        with ConsoleProgress(run.quiet, shown) as progress, written(layout.output, progress):
            _change(changes, layout, supplements, settings, run, progress)
        return None
    if work.merge is not None:
        if corpus.corpus:
            raise typer.BadParameter("--merge takes what the parts were made from, not --corpus.")
        with ConsoleProgress(run.quiet, shown) as progress, written(layout.output, progress):
            _merge(work, layout, supplements, settings, run, progress)
        return None
    addition = supplements.method is not None or supplements.calibrate
    if addition and model is None and not corpus.corpus:
        with ConsoleProgress(run.quiet, shown) as progress, written(layout.output, progress):
            _add_to_index(layout, supplements, settings, run, progress)
        return None
    if model is None or not corpus.corpus:
        raise typer.BadParameter(f"Missing option '--{'model' if model is None else 'corpus'}'.")
    from haiftrace.checkpoint.load import load_checkpoint
    from haiftrace.completion import Completion, complete_index, with_default
    from haiftrace.corpus import corpus_files
    from haiftrace.index.build import build_index
    from haiftrace.index.precompute import check_needs
    from haiftrace.parameters.scopes import ADAPTER_SCOPE
    from haiftrace.store.rows import check_path

    corpus_settings = corpus.settings(layout.seed)
    corpus_files(corpus_settings)  # a mistyped path is refused before the model is loaded
    output, methods = layout.output, supplements.method
    check_path(output)
    with ConsoleProgress(run.quiet, shown) as progress, written(output, progress):
        workforce, part = work.workforce(progress), work.chosen_part()
        checkpoint = load_checkpoint(
            model,
            dtype=dtype,
            device=run.device,
            base_model=base_model,
            unmerged=layout.parameters == ADAPTER_SCOPE,
        )
        if methods is not None:
            check_needs(checkpoint, layout.parameters, methods, settings)
        try:
            outcome = build_index(
                checkpoint,
                corpus_settings,
                replace(layout.settings(run.memory_bytes), part=part, store=store_uri(output)),
                progress,
                workforce,
            )
        except KeyboardInterrupt:
            progress.say("The same command goes on from the last complete shard.")
            raise
        if part is not None:
            progress.say(
                f"Part {part.number} of {part.of} is in {output}: {outcome.totals.records:,}"
                f" records ({duration(outcome.seconds)}).\nWhen all parts are made: haiftrace index"
                " --merge 'PARTS*' -o INDEX"
            )
            return None
        done = "is complete already" if outcome.already_complete else "is ready"
        progress.say(
            f"The index {output} {done}: {outcome.totals.records:,} records,"
            f" {outcome.totals.label_tokens:,} label tokens ({duration(outcome.seconds)})."
        )
        wanted = Completion(
            methods,
            with_default(methods),
            settings,
            supplements.calibrate,
            seed=layout.seed,
            memory=run.memory_bytes,
        )
        complete_index(output, checkpoint, wanted, progress)
        _say_next(output, progress)
    return None


def _merge(
    work: WorkOptions,
    layout: IndexOptions,
    supplements: SupplementOptions,
    settings: MethodSettings,
    run: RunOptions,
    progress: ConsoleProgress,
) -> None:
    """Puts parts together, and completes the index as if it had been made at once."""
    from haiftrace.completion import Completion, complete_index, with_default
    from haiftrace.index.parts import merge_parts
    from haiftrace.progress import duration
    from haiftrace.scoring.freshness import load_indexed
    from haiftrace.store import Index

    parts = [fetched(path, progress) for path in work.parts()]
    outcome = merge_parts(parts, layout.output, layout.overwrite, progress)
    done = "is complete already" if outcome.already_complete else "is ready"
    progress.say(
        f"The index {layout.output} {done}: {outcome.totals.records:,} records,"
        f" {outcome.totals.label_tokens:,} label tokens ({duration(outcome.seconds)})."
    )
    with Index.open(layout.output, verify=False) as opened:
        checkpoint = load_indexed(opened, None, run.device)
        seed = opened.settings["seed"]
    methods = supplements.method
    wanted = Completion(
        methods,
        with_default(methods),
        settings,
        supplements.calibrate,
        seed=seed,
        memory=run.memory_bytes,
    )
    complete_index(layout.output, checkpoint, wanted, progress)
    _say_next(layout.output, progress)


def _say_next(output: Path, progress: ConsoleProgress) -> None:
    where = "" if output == INDEX_DIRECTORY else f" --index {shlex.quote(place_name(output))}"
    progress.say(f'Next: haiftrace trace "PROMPT"{where}')


def _change(
    changes: ChangeOptions,
    layout: IndexOptions,
    supplements: SupplementOptions,
    settings: MethodSettings,
    run: RunOptions,
    progress: ConsoleProgress,
) -> None:
    """Adds records to a complete index, or takes records out; what is asked for is kept anew."""
    from haiftrace.calibration.calibrate import CONTROLS, controls_for
    from haiftrace.completion import Completion, complete_index, with_default
    from haiftrace.index.value_index import keep_value_keys

    output, methods = layout.output, supplements.method
    if not changes.append:
        drop(output, changes.drop_ids, changes.compact, run, progress)
        if methods is not None or supplements.calibrate:
            _add_to_index(layout, supplements, settings, run, progress)
        else:
            keep_value_keys(output, progress)
        return
    # As before: what it was calibrated with goes with the addition.
    controls, seed = controls_for(output, supplements.calibrate, layout.seed, CONTROLS)
    checkpoint = append(output, changes.append, run, progress)
    wanted = Completion(
        methods, with_default(methods), settings, controls, seed=seed, memory=run.memory_bytes
    )
    complete_index(output, checkpoint, wanted, progress)


def _add_to_index(
    layout: IndexOptions,
    supplements: SupplementOptions,
    settings: MethodSettings,
    run: RunOptions,
    progress: ConsoleProgress,
) -> None:
    """Adds what methods need, and their calibration, to a complete index of its own checkpoint.

    Without a number of controls, methods are calibrated as the default method is, if it is.
    """
    from haiftrace.completion import Completion, complete_index
    from haiftrace.methods import DEFAULT_METHOD
    from haiftrace.scoring.freshness import load_indexed
    from haiftrace.store import Index

    with Index.open(layout.output, verify=False) as opened:
        checkpoint = load_indexed(opened, None, run.device)
    wanted = Completion(
        supplements.method,
        supplements.method or DEFAULT_METHOD,
        settings,
        supplements.calibrate,
        otherwise=0,
        seed=layout.seed,
        memory=run.memory_bytes,
    )
    try:
        complete_index(layout.output, checkpoint, wanted, progress)
    except KeyboardInterrupt:
        progress.say("The same command goes on from what is complete.")
        raise
