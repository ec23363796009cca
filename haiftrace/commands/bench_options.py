"""What the benches' commands share: options, and how results are delivered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from haiftrace.commands.options import Option, shown

if TYPE_CHECKING:
    from haiftrace.bench.harness.results import Results
    from haiftrace.progress import ConsoleProgress

OUT = Path("haiftrace-bench")
OUTPUT = ("--output", "-o", "--out")
METHOD = ("--method", "--methods")

Out = Annotated[
    Path,
    Option(*OUTPUT, help="Directory of results.json, table.md, the figures and the work kept."),
]
Seed = Annotated[int, Option(help="Fixes everything that is drawn.", min=0)]
Seeds = Annotated[int, Option(help="Run so many seeds, from --seed on.", min=1, max=100)]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    Option(help="Products of the fine-tuning: float32 on a CPU, bfloat16 on a GPU."),
]


def deliver(run: Callable[[ConsoleProgress], Results], out: Path, quiet: bool) -> None:
    """Runs a bench, writes what it found to `out` and prints its table."""
    from haiftrace.bench.harness.results import write_results
    from haiftrace.progress import ConsoleProgress, duration

    with ConsoleProgress(quiet, shown) as progress:
        try:
            results = run(progress)
            write_results(out, results)
        except KeyboardInterrupt:
            progress.say("The same command goes on from the last finished stage.")
            raise
        progress.say(f"Written to {out} ({duration(results.seconds)}).")
    print(results.table)
