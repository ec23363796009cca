"""The vectors of an unfinished index's tokens: in tokens/, until the index over tokens holds them.

The manifest that names the search index names these files no more.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from haiftrace.store.durable import is_real_directory, replace_durably
from haiftrace.store.manifest import FileEntry, Manifest, token_faiss_file
from haiftrace.store.parquet import open_parquet
from haiftrace.store.token_codes import read_codes
from haiftrace.store.token_search import write_token_index

FOLDER = "tokens"
SHARD_NAME = re.compile(
    r"\d{5,}(-\d+)?\.parquet|\.{1,2}\d{5,}(-\d+)?\.parquet(\.[0-9a-f]{16})?(\.tmp){1,2}"
)
"""Names of a shard's files, in whatever folder."""


def write_token_file(root: Path, manifest: Manifest) -> FileEntry | None:
    """Write the index over the tokens of an unfinished index; None where it has no vectors.

    Raises:
        IndexStoreError: a file in tokens/ is damaged.
        OSError: the disk refuses.
    """
    dim, count = manifest.layout.token_vectors, manifest.totals.label_tokens
    if not dim or not count:
        return None
    name = token_faiss_file(manifest.generation)
    written = replace_durably(
        root / name,
        lambda sink: write_token_index(sink, dim, count, staged_blocks(root, manifest)),
    )
    return FileEntry(name, written.sha256, written.bytes, count)


def staged_blocks(root: Path, manifest: Manifest) -> Iterator[np.ndarray]:
    """[n, K/8] uint8: the codes of an unfinished index's tokens, in order.

    Raises:
        IndexStoreError: a file in tokens/ is damaged.
    """
    for shard in manifest.shards:
        if shard.tokens is None:
            continue
        path = root / shard.tokens.file
        with open_parquet(path, shard.tokens.rows) as file:
            for group in range(file.metadata.num_row_groups):
                yield read_codes(path, file, group)


def remove_staged(root: Path) -> None:
    """Remove the files in tokens/ of a complete index, as far as the disk lets it.

    What stays belongs to nothing, and goes at the next opening for writing.
    """
    folder = root / FOLDER
    if not is_real_directory(folder):
        return
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if SHARD_NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)
        folder.rmdir()
