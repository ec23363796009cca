"""Directories that Hugging Face's `datasets` wrote (`save_to_disk`): which files are the data.

A data set is a directory with `state.json` and `dataset_info.json` beside its Arrow files; several
splits are such directories under one with `dataset_dict.json`. Neither these nor what the library
keeps beside the data (`cache-….arrow`) is corpus.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from haiftrace.corpus.corpus_file import plain, unreadable
from haiftrace.errors import CorpusError

_STATE = "state.json"
_SPLITS = "dataset_dict.json"
_ABOUT = ("dataset_info.json", "dataset_infos.json", _STATE, _SPLITS)
_TRAINING = "train"


def is_about_dataset(name: str) -> bool:
    """Whether a file's name is one that the library writes beside the data."""
    return name in _ABOUT or (name.startswith("cache-") and name.endswith(".arrow"))


def dataset_files(folder: str, names: list[str], shown: str) -> list[str] | None:
    """The names of a data set's own files in its directory; None where it is none.

    Args:
        names: of the files in it.
        shown: the directory as the user knows it.

    Raises:
        CorpusError: what it says of its files cannot be read, or one of them is missing.
    """
    if _STATE not in names or "dataset_info.json" not in names:
        return None
    entries = _json(folder, _STATE, shown).get("_data_files")
    if not isinstance(entries, list):
        return None
    listed = [str(entry.get("filename")) for entry in entries if isinstance(entry, dict)]
    for name in listed:
        if name not in names:
            raise CorpusError(
                f"The data set {plain(shown, 300)} is incomplete: {plain(name)} is listed in "
                f"{_STATE} and missing.",
                "Save it again with save_to_disk, or copy it again from its source.",
            )
    return listed


def split_of(folder: str, names: list[str], shown: str) -> tuple[str | None, str]:
    """The split of several that was trained on, and a note on those that are left out.

    Args:
        names: of the files in the directory.
        shown: the directory as the user knows it.

    Returns:
        No split where there are not several.

    Raises:
        CorpusError: none of them is called "train".
    """
    if _SPLITS not in names:
        return None, ""
    listed = _json(folder, _SPLITS, shown).get("splits")
    splits = [str(name) for name in listed] if isinstance(listed, list) else []
    if len(splits) < 2:
        return None, ""
    others = [plain(name) for name in splits if name != _TRAINING]
    if _TRAINING not in splits:
        raise CorpusError(
            f"The data set {plain(shown, 300)} has the splits {', '.join(others)}.",
            f"Name the one that training read: --corpus {os.path.join(shown, splits[0])}",
        )
    return _TRAINING, (
        f"of the data set {plain(shown, 300)} the split '{_TRAINING}' is read, not "
        f"{', '.join(others)}: where training read those too, name the splits' own directories"
    )


def _json(folder: str, name: str, shown: str) -> dict[str, Any]:
    where = os.path.join(shown, name)
    try:
        content = json.loads(Path(folder, name).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise unreadable(where, error) from error
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise CorpusError(
            f"{plain(where, 300)} is no JSON object.", "Save the data set again with save_to_disk."
        )
    return content
