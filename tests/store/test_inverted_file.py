"""The inverted file over tokens: FAISS's own file, whatever parts it is made of, and its recall."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from haiftrace.errors import IndexStoreError, UsageError
from haiftrace.store import Index, Revision, check_factory, inverted_file, inverted_recall
from haiftrace.store.durable import HashingSink
from haiftrace.store.faiss_file import FlatCodes, write_codes
from haiftrace.store.inverted_file import InvertedFile, write_inverted_file
from haiftrace.store.inverted_recall import measured_recall
from haiftrace.store.token_codes import decode_signs, encode_signs
from haiftrace.store.token_search import TokenSearch
from tests.store import search_scale
from tests.store.store_samples import (
    contents,
    make_records,
    make_row,
    open_writer,
    quick_fsync,  # noqa: F401 (autouse)
    settings,
    write_index,
)

DIM, TOKENS = 64, 3000
FACTORIES = ("BIVF16", "IVF16,SQ8", "IVF8,PQ4x4", "PCA32,IVF8,Flat")


@pytest.fixture(scope="module", name="codes")
def clustered_codes(tmp_path_factory: pytest.TempPathFactory) -> FlatCodes:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((40, DIM))
    vectors = centres[rng.integers(40, size=TOKENS)] + 0.7 * rng.standard_normal((TOKENS, DIM))
    path = tmp_path_factory.mktemp("codes") / "tokens.faiss"
    with path.open("wb") as file:
        write_codes(HashingSink(file), DIM, TOKENS, [encode_signs(vectors)])
    return FlatCodes(path, DIM, TOKENS)


def written(path: Path, codes: FlatCodes, factory: str) -> Path:
    with path.open("wb") as file:
        write_inverted_file(path.parent, HashingSink(file), codes, factory, seed=0)
    assert os.listdir(path.parent) == [path.name]  # its parts are gone
    return path


@pytest.mark.parametrize("factory", FACTORIES)
def test_it_is_the_file_that_faiss_writes_of_all_tokens(tmp_path, monkeypatch, codes, factory):
    monkeypatch.setattr(inverted_file, "_PART_BYTES", 1)
    monkeypatch.setattr(inverted_file, "_BLOCK", 700)
    monkeypatch.setattr("haiftrace.store.faiss_file._BLOCK", 350)  # nine blocks, five parts
    path = written(tmp_path / "tokens-ivf.faiss", codes, factory)
    whole = inverted_file._new_index(factory, DIM)
    inverted_file._train(whole, codes, 0)
    for block in codes.blocks():  # products of float32 depend on the block in their last bits
        numbers = np.arange(whole.ntotal, whole.ntotal + len(block))
        whole.add_with_ids(inverted_file._points(whole, block), numbers)
    assert path.read_bytes() == inverted_file._encoded(whole)


@pytest.mark.parametrize("factory", FACTORIES)
def test_where_the_layout_is_unknown_faiss_writes_it(tmp_path, monkeypatch, codes, factory):
    right = written(tmp_path / "tokens-ivf.faiss", codes, factory).read_bytes()
    monkeypatch.setattr(inverted_file, "_NO_LISTS", b"?")
    assert written(tmp_path / "tokens-ivf.faiss", codes, factory).read_bytes() == right


def test_with_all_cells_the_nearest_are_those_of_a_scan(tmp_path, codes):
    path = written(tmp_path / "tokens-ivf.faiss", codes, "BIVF16")
    counts = np.full(TOKENS // 10, 10)
    inverted = InvertedFile(path, TOKENS, probes=16)
    search = TokenSearch(Path(codes._file.name), DIM, counts, TOKENS, inverted=inverted)
    queries = np.random.default_rng(2).standard_normal((3, DIM)).astype(np.float32)
    products_JQ = np.concatenate([block for _, _, block in search.products(queries)])
    for number, nearest in enumerate(search.nearest(queries, 200)):  # 3,200 are shortlisted
        order = np.argsort(-products_JQ[:, number], kind="stable")[:200]
        np.testing.assert_allclose(nearest.products, products_JQ[order, number], rtol=1e-5)
        np.testing.assert_array_equal(nearest.rows, nearest.tokens // 10)
        np.testing.assert_allclose(
            nearest.products, products_JQ[nearest.tokens, number], rtol=1e-5, atol=1e-6
        )
    rows = [3, 70, 71]
    for row, block in search.products_of(rows, queries):
        np.testing.assert_allclose(block, products_JQ[10 * row : 10 * row + 10], rtol=1e-4)


def test_the_recall_that_is_kept_is_that_of_a_naive_count(tmp_path, monkeypatch, codes):
    monkeypatch.setattr(inverted_recall, "NEAREST", 32)
    monkeypatch.setattr(inverted_recall, "TARGET", 0.0)
    monkeypatch.setattr(inverted_recall, "_QUERIES", 12)
    inverted = InvertedFile(written(tmp_path / "i", codes, "BIVF16"), TOKENS, probes=2)
    kept = measured_recall(inverted, codes, seed=3)
    signs = decode_signs(codes.rows(0, TOKENS)) > 0
    rows = np.unique(np.random.default_rng([3, 10]).integers(TOKENS, size=12))
    shares = []
    for row in rows:
        apart = (signs != signs[row]).sum(1)
        limit = np.sort(np.delete(apart, row))[31]
        (given,) = inverted.search(decode_signs(codes.at(np.array([row]))), 16 * 32)
        hits = [token for token in given.tolist() if token != row and apart[token] <= limit]
        shares.append(min(1.0, len(hits) / 32))
    assert kept == pytest.approx(np.mean(shares), abs=1e-12)
    assert 0.2 < kept < 1
    monkeypatch.setattr(inverted_recall, "TARGET", 0.99)
    assert measured_recall(inverted, codes, seed=3) > max(kept, 0.9)
    assert inverted.probes > 2


@pytest.mark.parametrize(
    "factory", ["IVF", "flat", "PQ8", "BFlat", "BIVFx", "IVF8,PQ8x4fs", "IVF4,PQ7", "HNSW8"]
)
def test_other_factories_are_refused_at_once(factory):
    with pytest.raises(UsageError, match=r"FAISS"):
        check_factory(factory, 64)
    with pytest.raises(UsageError, match="none are kept"):
        check_factory(factory, 0)


def test_few_tokens_are_scanned_and_many_are_not(monkeypatch):
    assert inverted_file.factory_for("auto", 4_000_000) == "Flat"
    assert inverted_file.factory_for("auto", 4_000_001) == "BIVF512"
    assert inverted_file.factory_for("auto", 10_000_000) == "BIVF1024"
    assert inverted_file.factory_for("IVF8,PQ8", 5) == "IVF8,PQ8"


@pytest.fixture(name="small")
def of_few_tokens(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings with which an index of few tokens has an inverted file."""
    monkeypatch.setattr(inverted_file, "_LEAST_SAMPLE", 4)
    return settings(faiss="BIVF2", seed=0)


def use(path: Path) -> list[np.ndarray]:
    with Index.open(path) as index:
        search = index.token_search
        assert search is not None
        assert not search.scans
        return [each.tokens for each in search.nearest(np.eye(8), 5)]


def test_it_is_a_part_of_the_index(tmp_path, small):
    """Its file is checked, resumed runs give the same, and other versions' indexes have none."""
    records = make_records(20)
    write_index(tmp_path / "a", records, small)
    with open_writer(tmp_path / "b", small) as writer:
        for number in range(6):  # two shards
            writer.append_record(records[number])
    write_index(tmp_path / "b", records, small)
    assert (
        contents(tmp_path / "a")["tokens-ivf.faiss"] == contents(tmp_path / "b")["tokens-ivf.faiss"]
    )
    with Index.open(tmp_path / "a") as index:
        kept = index.manifest.token_ivf
        assert kept is not None
        assert (kept.factory, kept.probes, kept.recall) == ("BIVF2", 2, 1.0)
    assert len(use(tmp_path / "a")[0]) == 5
    data = bytearray((tmp_path / "a/tokens-ivf.faiss").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a/tokens-ivf.faiss").write_bytes(data)
    with pytest.raises(IndexStoreError, match=r"tokens-ivf\.faiss does not match its checksum"):
        use(tmp_path / "a")
    write_index(tmp_path / "none", records)
    with Index.open(tmp_path / "none") as index:
        assert index.token_search.scans


def test_it_follows_the_records(tmp_path, small):
    """Masked records are given to nobody, and compaction makes it anew."""
    records = [[make_row(number)] for number in range(30)]
    write_index(tmp_path / "i", records, small)
    from haiftrace.store import DroppedRecord

    starts = np.cumsum([0, *(sum(row.labels) for (row,) in records)])
    dropped = [DroppedRecord(n, n, 1, int(starts[n + 1] - starts[n])) for n in (0, 4, 29)]
    gone = {token for n in (0, 4, 29) for token in range(starts[n], starts[n + 1])}
    with Revision(tmp_path / "i") as revision:
        revision.mask(dropped)
    assert not gone & {int(token) for tokens in use(tmp_path / "i") for token in tokens}
    with Revision(tmp_path / "i") as revision:
        revision.compact()
    assert not (tmp_path / "i/tokens-ivf.faiss").exists()
    assert (tmp_path / "i/tokens-ivf-1.faiss").exists()
    with Index.open(tmp_path / "i") as index:
        every = index.token_search.nearest(np.eye(8), 1000)[0]
        assert sorted(every.tokens.tolist()) == list(range(index.manifest.totals.label_tokens))
        assert set(every.rows.tolist()) == set(range(27))


@pytest.mark.slow
def test_a_million_tokens(tmp_path):
    """Few cells give nearly all that a scan gives, in memory that does not hold the tokens."""
    faiss.omp_set_num_threads(1)
    tree = search_scale.TokenTree(1_000_000)
    search_scale.reset_peak()
    before = search_scale.peak_mb()
    built = search_scale.build(tmp_path, tree)
    assert search_scale.peak_mb() - before < 400  # 256 MB of codes, 72 MB of the inverted file
    assert built.recall >= 0.95
    assert built.probes <= built.cells / 4
    assert search_scale.recall_of(built.search, tree.queries(8)) >= 0.95
