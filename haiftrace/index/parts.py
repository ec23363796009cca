"""An index that is made in parts, one a job, each in a directory of its own, and put together.

A part is an unfinished index that has some of the shards. Which ones is decided by the plan of the
whole, so the parts need not know of each other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from haiftrace import __version__
from haiftrace.errors import IndexStoreError, StaleIndexError, UsageError
from haiftrace.index.outcome import IndexOutcome
from haiftrace.index.plan import PlannedShard
from haiftrace.progress import Progress
from haiftrace.scoring.layerwise.similarity import WHITENING
from haiftrace.store import (
    IndexWriter,
    Manifest,
    copied_shard,
    difference,
    kept_tensors,
    read_manifest,
)
from haiftrace.store.manifest import digest_of

ROUNDING = 1e-3
"""Relative difference up to which the whitening of two parts is that of machines that round
differently."""


@dataclass(frozen=True)
class Part:
    """Part `number`, from 1, of `of`."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read "2/5".

        Raises:
            UsageError: it is no part.
        """
        number, _, of = text.partition("/")
        digits = all(each.isascii() and each.isdigit() and len(each) < 7 for each in (number, of))
        if not digits or not 1 <= int(number) <= int(of):
            raise UsageError(
                f"--part {text[:20]!r} is no part of an index.", "Give --part 2/5 for the 2nd of 5."
            )
        return cls(int(number), int(of))

    def range_of(self, count: int) -> range:
        """Numbers of this part's shards, of so many."""
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)

    def described(self, shards: Sequence[PlannedShard]) -> dict[str, Any]:
        """What the settings of the part say of it.

        Args:
            shards: of the whole index.
        """
        plan = digest_of([asdict(shard) for shard in shards])
        return {**asdict(self), "shards": len(shards), "plan": plan}


@dataclass(frozen=True)
class _StoredPart:
    """A directory with a part."""

    path: Path
    manifest: Manifest
    part: Part
    shards: int
    plan: str

    @property
    def shown(self) -> str:
        return f"part {self.part.number} of {self.part.of} ({self.path})"

    @property
    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in self.manifest.settings.items() if name != "part"}


def merge_parts(
    paths: Sequence[Path], output: Path, overwrite: bool, progress: Progress
) -> IndexOutcome:
    """Put the parts of an index together; an interrupted run goes on. The parts stay.

    Args:
        paths: the directories of all parts, in any order.
        output: directory of the index.
        overwrite: replace another index in that directory.

    Raises:
        UsageError: the parts are not all parts of one index.
        HaiftraceError: one is unfinished or damaged, or the directory cannot be written.
    """
    began = time.monotonic()
    parts = _all_parts([_find(path, output) for path in paths])
    first = parts[0]
    with IndexWriter.create_or_resume(
        output, first.settings, first.manifest.fingerprints, overwrite, model=first.manifest.model
    ) as writer:
        if not writer.already_complete:
            _keep_whitening(writer, parts, progress)
            rows = sum(part.manifest.totals.windows for part in parts)
            progress.start("putting parts together", float(rows))
            durable = writer.shard_numbers
            for part in parts:
                for shard in part.manifest.shards:
                    if shard.number not in durable:
                        writer.add_shard(copied_shard(shard, part.path, writer.root))
                    progress.advance(shard.records.rows, records=shard.record_count)
            each = [part.manifest.extra for part in parts]
            seconds = round(sum(extra.get("seconds", 0.0) for extra in each), 1)
            resumed = any(extra.get("resumed", False) for extra in each)
            writer.finish({**each[0], "seconds": seconds, "resumed": resumed})
        return IndexOutcome(
            writer.totals,
            first.manifest.extra.get("left_out", 0),
            first.manifest.extra.get("bad", 0),
            time.monotonic() - began,
            writer.already_complete,
        )


def _find(path: Path, output: Path) -> _StoredPart:
    if path.resolve() == output.resolve():
        raise UsageError(
            f"{path} is a part, and cannot be what the parts are put together in.",
            "Give another directory with -o.",
        )
    manifest = read_manifest(path)
    part = None if manifest is None else manifest.settings.get("part")
    if manifest is None or not isinstance(part, dict):
        raise UsageError(
            f"{path} is no part of an index.",
            "Name the directories that `haiftrace index --part I/N` made.",
        )
    if manifest.tool_version != __version__:
        raise StaleIndexError(
            f"{path} was made by haiftrace {manifest.tool_version}, and this is {__version__}.",
            "Make all parts, and put them together, with one version.",
        )
    return _StoredPart(
        path, manifest, Part(part["number"], part["of"]), int(part["shards"]), str(part["plan"])
    )


def _all_parts(stored: Sequence[_StoredPart]) -> list[_StoredPart]:
    """The parts in order, all of one index and each finished."""
    first = stored[0]
    by_number: dict[int, _StoredPart] = {}
    for each in stored:
        what = difference(first.manifest, each.manifest, but=["part"])
        if not what and (each.part.of, each.shards) != (first.part.of, first.shards):
            what = f"{first.part.of} parts there and {each.part.of} here"
        if not what and each.plan != first.plan:
            what = "another kind of device"
        if what:
            raise UsageError(
                f"{each.path} and {first.path} are not parts of one index: {what}.",
                "Run the same command in the same directory for every part, with another --part"
                " and -o.",
            )
        if each.part.number in by_number:
            raise UsageError(
                f"{each.path} and {by_number[each.part.number].path} are both part"
                f" {each.part.number} of {each.part.of}.",
                "Name each part once with --merge.",
            )
        by_number[each.part.number] = each
    missing = [n for n in range(1, first.part.of + 1) if n not in by_number]
    if missing:
        numbers = ", ".join(map(str, missing[:20]))
        raise UsageError(
            f"Of {first.part.of} parts, there is no part {numbers}.",
            f"Name its directory with --merge too, or make it with --part"
            f" {missing[0]}/{first.part.of}.",
        )
    for each in stored:
        wanted = set(each.part.range_of(each.shards))
        lacking = len(wanted - {shard.number for shard in each.manifest.shards})
        if lacking:
            raise IndexStoreError(
                f"{each.shown} is unfinished: {lacking} of its {len(wanted)} files are missing.",
                "Run its command again, which goes on where it stopped, and then this one.",
            )
    return [by_number[number] for number in sorted(by_number)]


def _keep_whitening(writer: IndexWriter, parts: Sequence[_StoredPart], progress: Progress) -> None:
    """Every part has found it by itself, from the same sample of the corpus."""
    import torch

    kept = writer.stored_tensors(WHITENING)
    said = False
    for part in parts:
        matrices = kept_tensors(part.path, part.manifest, WHITENING)
        if matrices is None:  # it has full gradients, or no shard
            continue
        if kept is None:
            about = part.manifest.supplements[WHITENING].settings
            writer.keep_tensors(WHITENING, about, matrices)
            kept = matrices
        for name, matrix in matrices.items():
            off = (matrix - kept[name]).norm() / kept[name].norm()
            if not off <= ROUNDING:
                raise UsageError(
                    f"{part.shown} has another whitening than the others.",
                    "Make it again with the same command and --overwrite.",
                )
            if not said and not torch.equal(matrix, kept[name]):
                said = True
                progress.say(
                    "Note: the parts come from machines that round differently; another run may"
                    " give an index that differs in last bits."
                )
