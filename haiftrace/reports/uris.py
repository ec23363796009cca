"""Places of files as relative URIs, which is all that code scanning takes."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import quote

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def repository_root(directory: Path) -> Path:
    """The nearest directory from `directory` up that holds a repository, else `directory`."""
    for candidate in (directory, *directory.parents):
        if (candidate / ".git").exists():
            return candidate
    return directory


def relative_uri(path: str, root: Path) -> str | None:
    """A path as a URI relative to `root`, percent-encoded; None for what is not below it.

    A relative path is one from the working directory. Symbolic links of either are followed only
    where the path as it is written leads out of `root`.
    """
    if not path or _SCHEME.match(path) or "\0" in path:
        return None
    absolute = os.path.normpath(os.path.join(os.getcwd(), path))
    below = _below(absolute, os.path.normpath(root))
    if below is None:
        below = _below(os.path.realpath(absolute), os.path.realpath(root))
    if below is None:
        return None
    return quote(PurePosixPath(*below.parts).as_posix().encode("utf-8", "replace"), safe="/")


def _below(path: str, root: str | os.PathLike[str]) -> Path | None:
    try:
        below = Path(path).relative_to(root)
    except ValueError:
        return None
    return below if below.parts else None
