"""Passages of prose that fill a corpus beside the records that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PASSAGE = 40
"""Words of a passage."""


def passages(prose: Path) -> Iterator[str]:
    """A text in pieces."""
    words = prose.read_text("utf-8", errors="replace").split()
    for at in range(0, len(words), PASSAGE):
        yield " ".join(words[at : at + PASSAGE])
