"""The share of a scan's nearest tokens that an inverted file gives, and the cells that this takes.

It is measured when the file is made, with tokens of the index as queries, and kept in the manifest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from haiftrace.store.durable import replace_durably
from haiftrace.store.faiss_file import FlatCodes
from haiftrace.store.inverted_file import (
    AUTO,
    FLAT,
    SHORTLISTED,
    InvertedFile,
    enough_to_train,
    factory_for,
    write_inverted_file,
)
from haiftrace.store.manifest import (
    FileEntry,
    InvertedEntry,
    Manifest,
    token_ivf_file,
)
from haiftrace.store.token_codes import decode_signs

NEAREST = 256
"""Tokens of which the share is taken."""
TARGET = 0.98
"""Cells are doubled until so many of the nearest are there."""
_QUERIES = 64
_LEAST_PROBES = 16
"""With 4, which sufficed for tokens as queries, other vectors had 93 % of 10,000,000."""
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
"""[256] the ones of a byte."""


def keep_inverted_file(
    root: Path, manifest: Manifest, generation: int, flat: FileEntry | None
) -> InvertedEntry | None:
    """Write an inverted file where the settings ask for it; no manifest names it yet.

    Args:
        manifest: of the index, for its settings.
        generation: of the files.
        flat: the file of all codes, written already.

    Returns:
        None where all tokens are to be scanned: few, or fewer than the cells take to be trained.

    Raises:
        OSError: the disk refuses.
    """
    if flat is None:
        return None
    factory = factory_for(manifest.settings.get("faiss", AUTO), flat.rows)
    if factory == FLAT:
        return None
    codes = FlatCodes(root / flat.file, manifest.layout.token_vectors, flat.rows)
    try:
        if not enough_to_train(codes, factory):
            return None
        seed = int(manifest.settings.get("seed", 0))
        name = token_ivf_file(generation)
        written = replace_durably(
            root / name, lambda sink: write_inverted_file(root, sink, codes, factory, seed)
        )
        opened = InvertedFile(root / name, codes.count, _LEAST_PROBES)
        opened.probes = min(_LEAST_PROBES, opened.cells)
        recall = measured_recall(opened, codes, seed)
    finally:
        codes.close()
    file = FileEntry(name, written.sha256, written.bytes, codes.count)
    return InvertedEntry(file, factory, opened.probes, recall)


def measured_recall(inverted: InvertedFile, codes: FlatCodes, seed: int) -> float:
    """Doubles the cells that are searched until the recall is the target's; returns the recall.

    Args:
        inverted: its `probes` are set.
        seed: of the tokens that are the queries.
    """
    rng = np.random.default_rng([seed, 10])
    rows = np.unique(rng.integers(codes.count, size=_QUERIES))
    queries = codes.at(rows)
    wanted = min(NEAREST, codes.count - 1)
    limits = _distances_of_nearest(codes, queries)[:, wanted]
    vectors_QK = decode_signs(queries)
    while True:
        shares = []
        shortlists = inverted.search(vectors_QK, SHORTLISTED * NEAREST)
        for row, query, limit, tokens in zip(rows, queries, limits, shortlists, strict=True):
            others = tokens[tokens != row]
            distances = _ONES[codes.at(others) ^ query].sum(1, dtype=np.int64)
            shares.append(min(1.0, np.count_nonzero(distances <= limit) / max(1, wanted)))
        recall = float(np.mean(shares))
        if recall >= TARGET or inverted.probes >= inverted.cells:
            return recall
        inverted.probes = min(2 * inverted.probes, inverted.cells)


def _distances_of_nearest(codes: FlatCodes, queries: np.ndarray) -> np.ndarray:
    """[Q, 257] how many signs differ in each query's nearest tokens, itself the first."""
    import faiss

    nearest = np.full((len(queries), NEAREST + 1), codes.dim, dtype=np.int32)
    for block in codes.blocks():
        flat = faiss.IndexBinaryFlat(codes.dim)
        flat.add(block)
        distances, _ = flat.search(queries, min(NEAREST + 1, len(block)))
        nearest = np.sort(np.concatenate([nearest, distances], axis=1), axis=1)[:, : NEAREST + 1]
    return nearest
