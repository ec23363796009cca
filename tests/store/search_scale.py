"""What the search over many token vectors costs: 10,000,000 of them, through the store's own code.

`python -m tests.store.search_scale OUT [--tokens 10000000]` writes synthetic codes as an index has
them, and beside them the inverted file; then it searches with vectors that are no token's, and
compares with a scan of all. 10,000,000 tokens take a core ten minutes and 3.5 GB in OUT, which go.

The vectors are a tree: groups in groups, and a token shares more signs with the nearer ones. The
cosine of two is 0.77 in a group of 64, 0.48 in one of 512, 0.28 in one of 8,192, else about 0.1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from haiftrace.store.durable import replace_durably
from haiftrace.store.inverted_file import InvertedFile, inverted_factory
from haiftrace.store.inverted_recall import NEAREST, keep_inverted_file
from haiftrace.store.manifest import FileEntry, Manifest
from haiftrace.store.token_codes import decode_signs
from haiftrace.store.token_search import TokenSearch, write_token_index
from tests.index.memory_growth import peak_mb, reset_peak

BYTES = 256
GROUPS = (64, 512, 8192, 131_072)
LABELS = 50
"""Tokens of a window."""
_BLOCK = 1 << 14
_NOISES = 4096


class TokenTree:
    """Codes of so many tokens, in no order of their groups."""

    def __init__(self, tokens: int, seed: int = 0) -> None:
        self.tokens = tokens
        rng = np.random.default_rng(seed)
        self._noise = [_eighth(rng, _NOISES) for _ in GROUPS]
        self._seed = seed

    def codes(self, first: int, count: int, sample: int = 0) -> np.ndarray:
        """[count, 256] uint8: of consecutive tokens.

        Args:
            sample: which draw of what a token has of its own.
        """
        rng = np.random.default_rng([self._seed, sample, first])
        places = (np.arange(first, first + count, dtype=np.uint64) * 0x9E3779B1) % self.tokens
        codes = _eighth(rng, count)
        for size, noise in zip(GROUPS, self._noise, strict=True):
            group = (places // size * 0x85EBCA6B) >> 7
            codes ^= noise[(group % _NOISES).astype(np.int64)]
        return codes.view(np.uint8).reshape(count, BYTES)

    def blocks(self) -> Iterator[np.ndarray]:
        """All of them."""
        for first in range(0, self.tokens, _BLOCK):
            yield self.codes(first, min(_BLOCK, self.tokens - first))

    def queries(self, count: int) -> np.ndarray:
        """[count, K] float32: vectors near some tokens, with sizes as well as signs."""
        rng = np.random.default_rng([self._seed, 7])
        numbers = rng.integers(self.tokens, size=count).tolist()
        codes = np.concatenate([self.codes(number, 1, sample=1) for number in numbers])
        sizes = np.abs(rng.standard_normal((count, 8 * BYTES)))
        vectors = np.sign(decode_signs(codes)) * sizes
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _eighth(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, 32] uint64: an eighth of the bits are set."""
    words = (rng.integers(0, 1 << 64, (count, BYTES // 8), np.uint64) for _ in range(3))
    first, second, third = words
    return first & second & third


@dataclass(frozen=True)
class Built:
    """A search over synthetic tokens, and what building it took."""

    search: TokenSearch
    manifest: Manifest
    flat: FileEntry
    inverted_bytes: int
    cells: int
    probes: int
    recall: float


def build(root: Path, tree: TokenTree, factory: str = "auto") -> Built:
    """Write both files as the end of indexing does, and open them."""
    dim, tokens = 8 * BYTES, tree.tokens
    settings = {"token_vectors": dim, "seed": 0}
    settings["faiss"] = inverted_factory(tokens) if factory == "auto" else factory
    manifest = Manifest("0", "", settings, {})
    written = replace_durably(
        root / "tokens.faiss",
        lambda sink: write_token_index(sink, dim, tokens, tree.blocks()),
    )
    flat = FileEntry("tokens.faiss", written.sha256, written.bytes, tokens)
    kept = keep_inverted_file(root, manifest, 0, flat)
    assert kept is not None
    inverted = InvertedFile(root / kept.file.file, tokens, kept.probes)
    counts = np.diff(np.append(np.arange(0, tokens, LABELS), tokens))
    search = TokenSearch(root / flat.file, dim, counts, tokens, inverted=inverted)
    return Built(search, manifest, flat, kept.file.bytes, inverted.cells, kept.probes, kept.recall)


def recall_of(search: TokenSearch, queries_QK: np.ndarray) -> float:
    """The share of the 256 tokens with the largest inner products, by a scan, that are given."""
    best = np.full((NEAREST, len(queries_QK)), -np.inf, np.float32)
    for _, _, products_JQ in search.products(queries_QK):
        best = np.partition(np.concatenate([best, products_JQ]), -NEAREST, axis=0)[-NEAREST:]
    limit_Q = best.min(0)
    nearest = search.nearest(queries_QK, NEAREST)
    shares = [
        np.count_nonzero(each.products >= limit - 1e-6) / NEAREST
        for each, limit in zip(nearest, limit_Q, strict=True)
    ]
    return float(np.mean(shares))


def measure(out: Path, tokens: int, queries: int) -> None:
    """Prints and writes what it took to scale.jsonl."""
    root = out / f"search-{tokens}"
    root.mkdir(parents=True)
    tree = TokenTree(tokens)
    reset_peak()
    began, cpu = time.monotonic(), time.process_time()
    row: dict[str, float | str] = {"tokens": tokens}

    def note(**values: float | str) -> None:
        row.update(values)
        print(", ".join(f"{key} {value}" for key, value in values.items()), flush=True)

    try:
        for _ in tree.blocks():
            pass
        note(inventing_cpu_s=round(time.process_time() - cpu, 1))
        began, cpu = time.monotonic(), time.process_time()
        built = build(root, tree)
        note(
            build_cpu_s=round(time.process_time() - cpu, 1),
            build_wall_s=round(time.monotonic() - began, 1),
            build_peak_mb=round(peak_mb()),
            flat_mb=round(built.flat.bytes / 1e6),
            inverted_mb=round(built.inverted_bytes / 1e6),
            cells=built.cells,
            probes=built.probes,
            recall_kept=round(built.recall, 4),
        )
        vectors = tree.queries(queries)
        reset_peak()
        walls, cpus = [], []
        for vector in vectors:
            began, cpu = time.monotonic(), time.process_time()
            built.search.nearest(vector[None], NEAREST)
            walls.append(time.monotonic() - began)
            cpus.append(time.process_time() - cpu)
        note(
            search_cpu_ms=round(1000 * float(np.median(cpus)), 1),
            search_cpu_max_ms=round(1000 * max(cpus), 1),
            search_wall_ms=round(1000 * float(np.median(walls)), 1),
            search_wall_max_ms=round(1000 * max(walls), 1),
            search_peak_mb=round(peak_mb()),
        )
        cpu = time.process_time()
        note(recall_of_queries=round(recall_of(built.search, vectors), 4))
        note(scan_cpu_s=round(time.process_time() - cpu, 1))
        with (out / "scale.jsonl").open("a") as lines:
            lines.write(json.dumps(row) + "\n")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    import faiss

    faiss.omp_set_num_threads(1)
    parser = argparse.ArgumentParser(prog="python -m tests.store.search_scale")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--queries", type=int, default=16)
    measure(**vars(parser.parse_args()))
