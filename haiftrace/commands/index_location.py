"""Where an index is: a directory, or a store that is worked on through a copy on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from haiftrace.errors import UsageError

if TYPE_CHECKING:
    from haiftrace.progress import Progress

INDEX_DIRECTORY = Path("haiftrace-index")
"""Where an index is by default."""

_stores: dict[Path, str] = {}
"""URIs of the stores that were named, by the directories of their working copies."""


def index_directory(name: str | Path) -> Path:
    """The directory that a user names, by a path or a URI; of a store, that of its working copy.

    Raises:
        UsageError: the URI holds a password, or no path.
    """
    text = str(name)
    scheme, separator, rest = text.partition("://")
    if not separator or not scheme.isalnum():
        return Path(name)
    if scheme == "file" and rest.startswith("/"):
        return Path(unquote(rest))
    from haiftrace.store.mirror import working_copy
    from haiftrace.store.remote_directory import shown_uri

    place = rest.partition("?")[0]
    if ":" in place.rpartition("@")[0]:
        raise UsageError(
            f"The URI {shown_uri(text)} holds a password, which a shell's history keeps.",
            "Set the credentials where the store's clients look, such as AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY.",
        )
    if not place.strip("/"):
        raise UsageError(
            f"The URI {shown_uri(text)} names no place.", "Give one, such as s3://BUCKET/DIR."
        )
    root = working_copy(text)
    _stores[root] = text
    return root


def store_uri(path: Path) -> str | None:
    """The URI of the store whose working copy this is; None for a directory by itself."""
    return _stores.get(path)


def place_name(path: Path) -> str:
    """What an index is called in reports and commands: its directory, or its store's URI."""
    from haiftrace.store.remote_directory import shown_uri

    uri = store_uri(path)
    return str(path) if uri is None else shown_uri(uri)


def with_stores_named(text: str) -> str:
    """A text for the user in which stores stand for their working copies."""
    if not _stores:
        return text
    from haiftrace.store.remote_directory import shown_uri

    for root, uri in _stores.items():
        text = text.replace(str(root), shown_uri(uri)).replace(str(root.parent), shown_uri(uri))
    return text


def fetched(path: Path, progress: Progress, *, afresh: bool = False) -> Path:
    """The same directory, with the working copy of a store brought to what the store has.

    Args:
        afresh: copy all files again, whatever the copy has.

    Raises:
        HaiftraceError: the store cannot be read.
    """
    uri = store_uri(path)
    if uri is not None:
        from haiftrace.store.mirror import Mirror

        Mirror(uri).fetch(progress, afresh=afresh)
    return path


@contextmanager
def written(path: Path, progress: Progress) -> Iterator[None]:
    """Inside the block, what becomes of the working copy of a store becomes of the store.

    Raises:
        HaiftraceError: the store cannot be read or written.
    """
    uri = store_uri(path)
    if uri is None:
        yield
        return
    from haiftrace.store.mirror import Mirror

    mirror = Mirror(uri)
    mirror.fetch(progress)
    with mirror.written():
        yield


def matching_stores(pattern: str) -> list[Path]:
    """Working copies of the directories of a store that a URI's last component matches.

    Raises:
        HaiftraceError: the store cannot be read.
    """
    from haiftrace.store.remote_directory import RemoteDirectory

    return [index_directory(uri) for uri in RemoteDirectory(pattern).matching()]
