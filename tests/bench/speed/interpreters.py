"""Interpreters of peers' environments that are none."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def interpreter(path: Path, installed: Mapping[str, str], then: str) -> str:
    """A program that knows these versions, and does `then` for every command but `-c`.

    Args:
        then: Python; `argv` are the command's arguments.
    """
    path.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "from pathlib import Path\n"
        "argv = sys.argv[1:]\n"
        'if argv[0] == "-c":\n'
        f"    print(json.dumps({{name: {dict(installed)!r}.get(name) for name in argv[2:]}}))\n"
        "    sys.exit()\n"
        f"{then}\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return str(path)
