"""Options that several commands share, and how all of them are declared."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

INDEX_DIRECTORY = Path("haiftrace-index")
"""Where an index is, unless it is said."""

# Every option has an environment variable; the epilog says how it is named, once for all.
Option = partial(typer.Option, show_envvar=False)


def variables(command: str) -> dict[str, str]:
    """Context settings for a command's environment variables, such as HAIFTRACE_TRACE_TOP.

    Only commands have them: HAIFTRACE_VERSION in a container says something else.
    """
    return {"auto_envvar_prefix": f"HAIFTRACE_{command}"}


Device = Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No talk on stderr but errors.")]
Memory = Annotated[int, Option(help="Megabytes that a backward pass may take, about.", min=1)]
