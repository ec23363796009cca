"""What a safetensors file says of itself, read without torch: its tensors, and whether it is whole.

A file is eight bytes with the length of its header, the header in JSON, and the tensors' bytes, of
which the header gives the places.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from haiftrace.errors import CheckpointError

_LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""

COMPILED_PREFIX = r"^(module\.)?_orig_mod\."
"""What torch.compile, within DistributedDataParallel or not, writes before every name."""


def plain_name(name: str) -> str:
    """A tensor's name without what torch.compile writes before it."""
    return re.sub(COMPILED_PREFIX, "", name)


def require_whole(files: Iterable[Path]) -> None:
    """CheckpointError where a file is shorter than its header says: it was half written."""
    for file in files:
        expected = _least_size(file)
        size = file.stat().st_size
        if size < expected:
            raise CheckpointError(
                f"The weights in {file} are half written: {size:,} of at least {expected:,} bytes "
                "are there.",
                "Wait until training has saved the checkpoint, take an earlier one, or copy that "
                "file again.",
            )


def stored_names(file: Path) -> list[str]:
    """The names of a file's tensors; none where its header cannot be read."""
    return [name for name in _header(file) if name != "__metadata__"]


def stored_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors by name; none where its header cannot be read."""
    header = _header(file)
    return {n: tuple(entry["shape"]) for n, entry in header.items() if n != "__metadata__"}


def _least_size(file: Path) -> int:
    """The bytes that a file must have by what it says of itself; 0 where that makes no sense."""
    try:
        size = file.stat().st_size
        length = _header_length(file)
    except OSError:
        return 0
    if length is None or length > _LONGEST_HEADER:
        return 0 if size >= 8 else 8
    if size < 8 + length:
        return 8 + length
    try:
        tensors = [entry for name, entry in _header(file).items() if name != "__metadata__"]
        return 8 + length + max((int(entry["data_offsets"][1]) for entry in tensors), default=0)
    except (KeyError, IndexError, TypeError, ValueError):
        return 0


def _header_length(file: Path) -> int | None:
    with file.open("rb") as stream:
        length = stream.read(8)
    return int.from_bytes(length, "little") if len(length) == 8 else None


def _header(file: Path) -> dict[str, Any]:
    """What a file's header says of each tensor; nothing where it cannot be read."""
    try:
        length = _header_length(file)
        if length is None or length > _LONGEST_HEADER:
            return {}
        with file.open("rb") as stream:
            stream.seek(8)
            content = json.loads(stream.read(length))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
