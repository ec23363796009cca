"""Options of `haiftrace index` that say who computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from haiftrace.commands.options import Option

if TYPE_CHECKING:
    from haiftrace.index.workers import Workforce
    from haiftrace.progress import Progress


@dataclass(frozen=True)
class WorkOptions:
    """Who computes the index; it is the same to the last bit."""

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
            " address; -o is a directory that its nodes share.",
            show_default=False,
        ),
    ] = None

    def check(self) -> None:
        """Raises a usage error for options that exclude each other."""
        if self.ray is not None and self.workers is not None:
            raise typer.BadParameter(
                "--ray takes as many workers as the cluster has room for; leave --workers out."
            )

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
