"""What every bench writes to --output: results.json, table.md, figures; complete or absent."""

from __future__ import annotations

import contextlib
import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace import __version__
from haiftrace.atomic_write import write_atomically
from haiftrace.errors import OutputError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA_VERSION = 1
RESULTS_NAME = "results.json"
TABLE_NAME = "table.md"
WORK_NAME = "work"

_PACKAGES = (
    *("faker", "faiss-cpu", "matplotlib", "numpy", "pandas", "scikit-learn", "scipy"),
    *("tokenizers", "torch", "transformers"),
)


@dataclass(frozen=True)
class Results:
    """All results of a bench.

    Attributes:
        bench: its name: "digits".
        settings: what it ran with, as plain JSON.
        seeds: the seeds that it ran with.
        fingerprints: SHA-256 of what it read, by name.
        sections: the lists of rows that stand at the top of results.json; every number has its n,
            every proportion its 95 % Wilson interval.
        table: the Markdown of table.md.
        figures: matplotlib figures by name.
        seconds: how long this run took; stages that were kept from an earlier one not counted.
    """

    bench: str
    settings: Mapping[str, Any]
    seeds: Sequence[int]
    fingerprints: Mapping[str, str]
    sections: Mapping[str, Sequence[Mapping[str, Any]]]
    table: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    seconds: float = 0.0


def check_out(out: Path) -> None:
    """Make the directory `out` and prove that it can be written, before any work is done.

    Raises:
        OutputError: it holds other things, is no directory or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in out.iterdir()}
        with tempfile.TemporaryFile(dir=out):
            pass  # only a file that was really created proves that one can be
    except OSError as error:
        raise _unwritable(out, error) from error
    if names and not names & {RESULTS_NAME, WORK_NAME}:
        raise OutputError(
            f"{out} is not empty and holds no bench.", "Give a new directory with --output."
        )


def write_results(out: Path, results: Results) -> list[Path]:
    """Write results.json, table.md and each figure as PNG and SVG into `out`; returns the paths.

    Raises:
        OutputError: the disk refuses.
    """
    from haiftrace.bench.harness.figures import figure_file

    made: dict[str, bytes] = {}
    for name, figure in results.figures.items():
        for kind in ("png", "svg"):
            made[f"{name}.{kind}"] = figure_file(figure, kind)
    made[TABLE_NAME] = (results.table.rstrip("\n") + "\n").encode()
    # Last, so that results.json is only there when everything is.
    made[RESULTS_NAME] = results_document(results).encode()
    for name, content in made.items():
        try:
            write_atomically(out / name, content)
        except OSError as error:
            raise _unwritable(out / name, error) from error
    return [out / name for name in made]


def results_document(results: Results) -> str:
    """The text of results.json.

    Raises:
        ValueError: a number that JSON does not know (NaN, infinity).
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "bench": results.bench,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(results.seconds, 1),
        "settings": dict(results.settings),
        "seeds": list(results.seeds),
        "versions": versions(),
        "fingerprints": dict(results.fingerprints),
        **{name: list(rows) for name, rows in results.sections.items()},
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def versions(*packages: str) -> dict[str, str]:
    """Versions of haiftrace, Python and the named packages (by default all that matter)."""
    installed = {"haiftrace": __version__, "python": platform.python_version()}
    for name in packages or _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def check_installed(*modules: str) -> None:
    """Make sure that what only the benches need is there, before any work is done.

    Raises:
        UsageError: a module is missing.
    """
    for module in modules:
        if find_spec(module) is None:
            raise UsageError(
                f"This bench needs the Python package {module}, which is not installed.",
                "Install what the benches need: pip install 'haiftrace[bench]'",
            )


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be written: {error.strerror or type(error).__name__}.",
        "Give another directory with --output, with space left on its disk.",
    )
