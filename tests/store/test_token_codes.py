"""A bit a number: signs come back, and with a query's numbers they estimate inner products."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from haiftrace.store.token_codes import SignProducts, decode_signs, encode_signs

numbers = st.floats(-(2.0**100), 2.0**100, width=32)
shapes = st.tuples(st.integers(0, 5), st.integers(1, 5).map(lambda n: 8 * n))


@given(npst.arrays(np.float32, shapes, elements=numbers))
def test_signs_come_back(vectors_NK: np.ndarray) -> None:
    codes = encode_signs(vectors_NK)
    assert codes.dtype == np.uint8
    assert codes.nbytes * 8 == vectors_NK.size
    vectors = decode_signs(codes)
    assert vectors.dtype == np.float32
    assert vectors.shape == vectors_NK.shape
    assert ((vectors > 0) == (vectors_NK > 0)).all()
    scale = math.sqrt(math.pi / (2 * vectors_NK.shape[1]))
    assert np.allclose(np.abs(vectors), scale, rtol=1e-6)


@given(
    st.integers(0, 400), st.integers(1, 5).map(lambda n: 8 * n), st.integers(1, 3), st.integers(0)
)
def test_products_are_those_of_decoded_vectors(
    tokens: int, dim: int, queries: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes_NB = rng.integers(0, 256, (tokens, dim // 8), np.uint8)
    queries_KQ = rng.standard_normal((dim, queries)).astype(np.float32)
    products_NQ = SignProducts(queries_KQ).of(codes_NB)
    assert products_NQ.dtype == np.float32
    right_NQ = decode_signs(codes_NB).astype(np.float64) @ queries_KQ
    np.testing.assert_allclose(products_NQ, right_NQ, atol=1e-5 * np.abs(queries_KQ).sum())


def test_inner_products_are_estimated_without_bias() -> None:
    """Of unit vectors' projections to K numbers; the error is that of K/1.57 whole numbers."""
    rng = np.random.default_rng(0)
    dim, cosine = 2048, 0.6
    first = rng.standard_normal((500, dim)) / math.sqrt(dim)
    other = rng.standard_normal((500, dim)) / math.sqrt(dim)
    queries = cosine * first + math.sqrt(1 - cosine**2) * other
    products = (decode_signs(encode_signs(first)) * queries).sum(1)
    assert abs(products.mean() - cosine) < 0.005
    apart = (decode_signs(encode_signs(first)) * other).sum(1)
    assert abs(apart.mean()) < 0.005
    assert abs(apart.std() * math.sqrt(dim) - math.sqrt(math.pi / 2)) < 0.1
