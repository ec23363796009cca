"""Files that are complete or absent: written aside, synced, renamed, their directory synced.

Files are private (mode 0600), since what haiftrace writes holds training text.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_BUFFER_BYTES = 1 << 20


def write_atomically(target: Path, document: bytes) -> None:
    """Create or replace `target` by a document, in one step that survives a crash.

    Raises:
        OSError: as of `replace_atomically`.
    """
    replace_atomically(target, lambda file: file.write(document))


def replace_atomically(
    target: Path, fill: Callable[[BinaryIO], object], *, temporary: Path | None = None
) -> None:
    """Create or replace `target` by what `fill` writes, in one step that survives a crash.

    Args:
        target: the file; a symbolic link of that name is replaced, not followed.
        fill: writes the content into the file that it is given.
        temporary: the name to write under before the rename, in the same directory. Where it is
            given, a file that an interrupted run left there is written over, so there must be one
            writer at a time; by default the name is a new one.

    Raises:
        OSError: the disk is full or refuses; `target` is then the old file or, where only the
            last step failed, the new one, and never a mixture.
    """
    try:
        if temporary is None:
            # A short name, which is not too long for the file system where that of `target` is not.
            descriptor, name = tempfile.mkstemp(prefix=".haiftrace-", dir=target.parent)
            temporary = Path(name)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "wb", buffering=_BUFFER_BYTES) as file:
            os.fchmod(file.fileno(), 0o600)
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise
    sync_directory(target.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable, as far as its file system can.

    Raises:
        OSError: the disk refuses.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # files may be made in a directory that may not be read
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems do not know fsync of a directory; their renames are
        # durable by other means or not at all. Anything else is a real fault.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
