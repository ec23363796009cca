"""One file of a corpus: where it is, how it is shown, what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from haiftrace.errors import CorpusError


@dataclass(frozen=True)
class CorpusFile:
    """One file of the corpus.

    Attributes:
        path: where to open it.
        shown: how the user knows it: relative to the working directory when below it, else
            absolute.
        name: relative to the directory that was given, else the base name; unlike `shown` the
            same from every working directory, so it is what the fingerprint sees.
        format: as the registry of formats names it.
        codec: "gzip", "zstd" or None.
    """

    path: Path
    shown: str
    name: str
    format: str
    codec: str | None


def plain(text: str, limit: int = 80) -> str:
    """`text` fit for an error message: control characters replaced, at most `limit` characters."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else "\ufffd" for c in short)


def unreadable(shown: str, error: Exception) -> CorpusError:
    """The error for a file that the system or its format's reader refuses."""
    if isinstance(error, OSError) and error.strerror:
        why = error.strerror
    else:
        why = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    return CorpusError(
        f"{plain(shown, 300)} cannot be read: {plain(why, 200)}.",
        "Check the file's permissions and that it is complete and of the format its suffix says.",
    )
