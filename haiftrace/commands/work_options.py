"""Options of `haiftrace index` that say who computes it."""

from __future__ import annotations

from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from haiftrace.commands.index_location import index_directory, matching_stores, store_uri
from haiftrace.commands.options import Option
from haiftrace.commands.panels import WORK

if TYPE_CHECKING:
    from haiftrace.commands.index_options import SupplementOptions
    from haiftrace.index.parts import Part
    from haiftrace.index.workers import Workforce
    from haiftrace.progress import Progress


@dataclass(frozen=True)
class WorkOptions:
    """Who computes the index; it is the same to the last bit."""

    PANEL: ClassVar[str] = WORK

    workers: Annotated[
        int | None,
        Option(
            help="Processes that compute the index, each with the model in memory; one a GPU.",
            min=1,
            show_default=False,
        ),
    ] = None
    ray: Annotated[
        str | None,
        Option(
            metavar="ADDRESS",
            help="A Ray cluster computes the index: auto for the one that runs here, or its"
            " address; -o is a directory that its nodes share, or a store's URI.",
            show_default=False,
        ),
    ] = None

    part: Annotated[
        str | None,
        Option(
            metavar="I/N",
            help="Make part I of N alone, from 1, in a directory of its own; for job arrays.",
            show_default=False,
        ),
    ] = None
    merge: Annotated[
        list[str] | None,
        Option(
            metavar="DIR",
            help="Put all parts together: directories or URIs, or quoted globs of them;"
            " repeatable.",
            show_default=False,
        ),
    ] = None

    def check(self, model: str | None, supplements: SupplementOptions, change: bool) -> None:
        """Raises a usage error for options that exclude each other.

        Args:
            change: whether a complete index is to be changed.
        """
        given: dict[str, object] = {
            "--merge": self.merge,
            "--part": self.part,
            "--ray": self.ray,
            "--workers": self.workers,
        }
        chosen = [name for name, value in given.items() if value is not None]
        if change and chosen:
            raise typer.BadParameter(f"{chosen[0]} is for making an index; leave it out.")
        if self.merge is not None and (len(chosen) > 1 or model is not None):
            other = chosen[1] if len(chosen) > 1 else "--model"
            raise typer.BadParameter(f"--merge takes what the parts were made from, not {other}.")
        if self.part is not None and (supplements.calibrate or supplements.method):
            raise typer.BadParameter(
                "A part is not calibrated; give --calibrate and --method with --merge."
            )
        if self.ray is not None and self.workers is not None:
            raise typer.BadParameter(
                "--ray takes as many workers as the cluster has room for; leave --workers out."
            )

    def chosen_part(self) -> Part | None:
        """The part that is to be made.

        Raises:
            UsageError: it is none.
        """
        from haiftrace.index.parts import Part

        return None if self.part is None else Part.parse(self.part)

    def parts(self) -> list[Path]:
        """The directories that are to be put together.

        Raises:
            UsageError: there is none of that name.
        """
        from haiftrace.errors import UsageError

        paths: list[Path] = []
        for given in self.merge or ():
            path = index_directory(given)
            name = str(path)
            if store_uri(path) is not None:
                paths += [path] if not has_magic(given) else matching_stores(given)
                continue
            matched = [name] if Path(name).exists() else sorted(glob(name))
            if not matched:
                raise UsageError(
                    f"There is no directory {name}.", "Name what `--part I/N` made with --merge."
                )
            paths += map(Path, matched)
        return paths

    def workforce(self, progress: Progress) -> Workforce:
        """Who makes the shards.

        Raises:
            UsageError: ray is not installed.
        """
        from haiftrace.index.workers import InProcess, RayCluster, WorkerProcesses

        if self.ray is not None:
            return RayCluster(self.ray, progress)
        if self.workers is not None and self.workers > 1:
            return WorkerProcesses(self.workers, progress)
        return InProcess()
