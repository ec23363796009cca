"""What `haiftrace index` does to a complete index: verify it, add records, take records out."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from haiftrace.commands.index_location import index_directory, place_name, store_uri
from haiftrace.commands.options import Option, RunOptions, shown
from haiftrace.commands.panels import COMPLETE
from haiftrace.errors import EXIT_CLEAN, EXIT_INCONCLUSIVE

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.progress import Progress
    from haiftrace.store import Index

SAMPLE = 32
"""Windows that --verify computes again."""


@dataclass(frozen=True)
class ChangeOptions:
    """What is to be done with a complete index."""

    PANEL: ClassVar[str] = COMPLETE

    verify: Annotated[
        Path | None,
        Option(
            "--verify",
            parser=index_directory,
            metavar="DIR",
            help="Compare every file of this index with its checksum, its sources with what was"
            " indexed, and a sample of its numbers with the engine's; exit code 0 or 3.",
            show_default=False,
        ),
    ] = None
    append: Annotated[
        list[str] | None,
        Option(
            help="Add the records of this file, glob or directory to a complete index; repeatable."
            " It is calibrated anew, since a control is compared with all records.",
            show_default=False,
        ),
    ] = None
    drop_ids: Annotated[
        Path | None,
        Option(
            help="Mask the records whose ids this file lists, one a line, at once.",
            show_default=False,
        ),
    ] = None
    compact: Annotated[
        bool, Option("--compact", help="Remove masked records from every file of the index.")
    ] = False

    @property
    def wanted(self) -> bool:
        """Whether there is anything to be done."""
        return bool(self.verify or self.append or self.drop_ids or self.compact)

    def check(self, model: str | None, corpus: list[str] | None) -> None:
        """Raises a usage error for options that exclude each other."""
        kinds = {
            "--verify": self.verify is not None,
            "--append": bool(self.append),
            "--drop-ids or --compact": self.drop_ids is not None or self.compact,
        }
        chosen = [name for name, given in kinds.items() if given]
        if len(chosen) > 1:
            raise typer.BadParameter(f"{' and '.join(chosen)} are two commands; give one of them.")
        if chosen and corpus:
            raise typer.BadParameter(f"{chosen[0]} is for a complete index; leave --corpus out.")
        if self.append and model is not None:
            raise typer.BadParameter(
                "--append takes the index's own checkpoint; leave --model out."
            )


def verify(
    path: Path, model: str | None, seed: int, run: RunOptions, progress: Progress
) -> tuple[int, list[str]]:
    """The exit code and the lines of the report.

    Args:
        model: the checkpoint; where it was indexed when None.
        seed: of the sample.
    """
    from haiftrace.index.verification import verify_index

    def load(index: Index) -> Checkpoint:
        return _load(index, model, run)

    outcome = verify_index(path, load, SAMPLE, seed, run.memory_bytes, progress)
    return EXIT_CLEAN if outcome.passed else EXIT_INCONCLUSIVE, list(map(shown, outcome.lines()))


def append(output: Path, paths: list[str], run: RunOptions, progress: Progress) -> Checkpoint:
    """Adds records to an index; returns its checkpoint."""
    from haiftrace.corpus import find_files
    from haiftrace.index.addition import append_records
    from haiftrace.progress import duration
    from haiftrace.store import Index

    find_files(paths)  # a mistyped path is refused before the model is loaded
    with Index.open(output, verify=False) as index:
        before = index.manifest.totals.records
        checkpoint = _load(index, None, run)
    try:
        outcome = append_records(output, checkpoint, paths, run.memory_bytes, progress)
    except KeyboardInterrupt:
        progress.say("The same command goes on from the last complete shard.")
        raise
    if outcome.already_complete:
        progress.say(f"The index {output} has the records of these files already.")
    else:
        progress.say(
            f"Added {outcome.totals.records - before:,} records to the index {output}, which has"
            f" {outcome.totals.records:,} now ({duration(outcome.seconds)})."
        )
    return checkpoint


def drop(
    output: Path, list_file: Path | None, compact: bool, run: RunOptions, progress: Progress
) -> None:
    """Masks records, or removes masked ones from every file, or both."""
    from haiftrace.index.removal import compact as compact_index
    from haiftrace.index.removal import mask_ids

    directory = shlex.quote(place_name(output))
    changed = False
    if list_file is not None:
        masking = mask_ids(output, list_file)
        changed = masking.masked > 0
        already = f"; {masking.already:,} were masked before" if masking.already else ""
        progress.say(f"Masked {masking.masked:,} records of the index {output}{already}.")
        if masking.unknown_lines:
            lines = ", ".join(map(str, masking.unknown_lines[:20]))
            progress.say(
                f"Note: the index has no record with the id in line {lines} of {list_file}."
            )
        if not compact:
            progress.say(
                "Their texts are still in its files. To remove them: haiftrace index --compact -o"
                f" {directory}"
            )
    if compact:
        outcome = compact_index(output, lambda index: _load(index, None, run))
        changed |= outcome.removed > 0 or outcome.renewed
        progress.say(f"Removed {outcome.removed:,} records from every file of the index {output}.")
        if store_uri(output) is not None:
            progress.say(
                "Note: a store that keeps versions of files still has them, and so have working"
                " copies on other machines until they are used again."
            )
        if outcome.renewed:
            progress.say("The index belongs to its corpus as it is now.")
        if outcome.stale:
            progress.say(
                "Note: the corpus holds other records than the index, so trace will refuse it."
                f" What differs: haiftrace index --verify {directory}"
            )
    if changed:
        progress.say(
            "What was calibrated and kept for methods was of other records, and is gone. To"
            f" calibrate: haiftrace index --calibrate 512 -o {directory}"
        )


def _load(index: Index, model: str | None, run: RunOptions) -> Checkpoint:
    from haiftrace.scoring.freshness import load_indexed

    return load_indexed(index, model, run.device)
