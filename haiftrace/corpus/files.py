"""Which files make up a corpus: expansion of what the user named, formats, fingerprint."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from haiftrace.corpus.corpus_file import CorpusFile, plain, unreadable
from haiftrace.corpus.formats import FORMATS
from haiftrace.corpus.saved_datasets import dataset_files, is_about_dataset, split_of
from haiftrace.errors import CorpusError

CODECS = {".gz": "gzip", ".zst": "zstd"}

_BLOCK = 1 << 20
_MOST_NAMED = 5
_ABOUT = re.compile(r"(readme|licen[cs]e)\.(md|txt)", re.IGNORECASE)
_HUB_NAME = re.compile(r"[A-Za-z][\w.-]*/[A-Za-z][\w.-]*")
_BY_SUFFIX = {suffix: name for name, form in FORMATS.items() for suffix in form.suffixes}
_SUFFIX_HINT = f"Known suffixes: {' '.join(_BY_SUFFIX)}, each also with {' or '.join(CODECS)}."


def find_files(
    paths: Iterable[str], notes: list[str] | None = None, base: str | None = None
) -> list[CorpusFile]:
    """Expand files, globs and directories into the corpus files, in the order of `paths`.

    Globs and directories are sorted by path. A directory gives its files with a known suffix, at
    any depth; hidden names, links to directories and haiftrace's own index directories are left
    out. Of a data set that Hugging Face's `datasets` saved its own files alone are read, and of one
    with several splits the one that is called "train". A README or a licence beside files that
    hold records by their fields is about them, and left out. A file that is named twice, also by
    way of a link, is read once.

    Args:
        paths: files, globs and directories.
        notes: filled with what is to be said of them.
        base: directory that files are shown relative to; the working directory when None.

    Raises:
        CorpusError: no such file, a glob without a match, a directory without a corpus file, a
            file with an unknown suffix, or something that is not a regular file.
    """
    files: dict[str, CorpusFile] = {}
    for pattern in paths:
        path = os.path.expanduser(pattern)
        matches = [path] if os.path.lexists(path) else sorted(glob.glob(path, recursive=True))
        if not matches:
            raise _no_match(pattern)
        for match in matches:
            below = os.path.isdir(match)
            for file in _below(match, notes, base) if below else [_file(match, None, base)]:
                files.setdefault(os.path.realpath(file.path), file)
    if not files:
        raise CorpusError("No corpus was named.", "Give a file, a glob or a directory.")
    return list(files.values())


def content_hash(files: Iterable[CorpusFile], settings: bytes) -> str:
    """SHA-256 (hex) over `settings` and every file's name, size and bytes as stored.

    Raises:
        CorpusError: a file cannot be read.
    """
    digest = hashlib.sha256(len(settings).to_bytes(8, "little") + settings)
    for file in files:
        name = os.fsencode(file.name)
        digest.update(len(name).to_bytes(8, "little") + name)
        try:
            with open(file.path, "rb") as stream:
                size = 0
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    size += len(block)
        except OSError as error:
            raise unreadable(file.shown, error) from error
        # The size after the bytes ends the file's entry: no two lists of files hash alike.
        digest.update(size.to_bytes(8, "little"))
    return digest.hexdigest()


def _no_match(pattern: str) -> CorpusError:
    shown = plain(pattern, 300)
    listed = [part.strip() for part in pattern.split(",")]
    if len(listed) > 1 and all(part and _exists(part) for part in listed):
        again = " ".join(f"--corpus {shlex.quote(plain(part, 300))}" for part in listed)
        return CorpusError(
            f"{shown} is read as one name; several files are several options.",
            f"Repeat the option: {again}",
        )
    if glob.has_magic(pattern):
        return CorpusError(f"No file matches {shown}.", "Check the pattern with `ls`.")
    hint = "Check the path with `ls`."
    if _HUB_NAME.fullmatch(pattern) and _kind(pattern) is None:
        hint += (
            f" haiftrace uses no network; for a data set's name on a hub: hf download {pattern}"
            f" --repo-type dataset --local-dir {pattern}"
        )
    return CorpusError(f"There is no file or directory {shown}.", hint)


def _exists(pattern: str) -> bool:
    path = os.path.expanduser(pattern)
    return os.path.lexists(path) or bool(glob.glob(path, recursive=True))


def _file(path: str, root: str | None, base: str | None) -> CorpusFile:
    shown = _shown(path, base)
    if not os.path.exists(path):
        raise CorpusError(
            f"{plain(shown, 300)} is a link to a file that does not exist.",
            "Remove the link or restore its target.",
        )
    if not os.path.isfile(path):
        raise CorpusError(
            f"{plain(shown, 300)} is not a regular file; the corpus is read more than once.",
            "Save it to a file first.",
        )
    kind = _kind(path)
    if kind is None:
        raise CorpusError(f"{plain(shown, 300)} has no known corpus suffix.", _SUFFIX_HINT)
    name = os.path.relpath(path, root) if root else os.path.basename(path)
    return CorpusFile(Path(path), shown, name, *kind)


def _below(root: str, notes: list[str] | None, base: str | None) -> list[CorpusFile]:
    paths: list[str] = []
    for folder, folders, names in os.walk(root, onerror=_raise_unreadable):
        folders[:] = [f for f in folders if not f.startswith(".")]
        if "manifest.json" in names and "records" in folders:  # an index, not a corpus
            folders.clear()
            continue
        split, note = split_of(folder, names, _shown(folder))
        if split is not None:
            folders[:] = [split]
            if notes is not None:
                notes.append(note)
        own = dataset_files(folder, names, _shown(folder))
        if own is None:
            own = [n for n in names if not n.startswith(".") and not is_about_dataset(n)]
        paths += [os.path.join(folder, n) for n in own if _kind(n) is not None]
    if not paths:
        raise CorpusError(
            f"The directory {plain(_shown(root), 300)} holds no corpus file.", _SUFFIX_HINT
        )
    files = [_file(file, root, base) for file in sorted(paths, key=os.fsencode)]
    about = [file for file in files if _ABOUT.fullmatch(file.path.name)]
    if about and any(file.format != "text" for file in files):
        files = [file for file in files if file not in about]
        if notes is not None:
            named = ", ".join(plain(file.shown) for file in about[:_MOST_NAMED])
            more = ", …" if len(about) > _MOST_NAMED else ""
            notes.append(
                f"{named}{more}: left out, as it is about the corpus; --corpus with its own name"
                " reads it"
            )
    return files


def _raise_unreadable(error: OSError) -> None:
    raise unreadable(_shown(str(error.filename)), error) from error


def _kind(path: str) -> tuple[str, str | None] | None:
    stem, suffix = os.path.splitext(path.lower())
    codec = CODECS.get(suffix)
    if codec is not None:
        suffix = os.path.splitext(stem)[1]
    form = _BY_SUFFIX.get(suffix)
    return None if form is None else (form, codec)


def shown_base(paths: Iterable[str]) -> str | None:
    """The working directory, where names of corpus files depend on it; None where they do not."""
    here = os.getcwd()
    for pattern in paths:
        absolute = os.path.abspath(os.path.expanduser(pattern))
        beginning = re.split(r"[*?[]", absolute, maxsplit=1)[0]  # of a glob
        if os.path.commonpath([here, absolute]) == here or here.startswith(beginning):
            return here
    return None


def _shown(path: str, base: str | None = None) -> str:
    absolute, directory = os.path.abspath(path), base or os.getcwd()
    below = absolute.startswith(directory.rstrip(os.sep) + os.sep)
    name = os.path.relpath(absolute, directory) if below else absolute
    # A file name need not be UTF-8, and everything that shows or stores it needs it to be.
    return os.fsencode(name).decode("utf-8", "replace")
