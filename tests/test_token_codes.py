"""Eight bits a number: what comes back is half a step away at most, and cosines hardly change."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from haiftrace.store.token_codes import decoded, encoded

numbers = st.floats(-(2.0**100), 2.0**100, width=32)


@given(npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=2), elements=numbers))
def test_half_a_step_at_most(vectors_NK: np.ndarray) -> None:
    codes_NK, scale_N = encoded(vectors_NK)
    assert codes_NK.dtype == np.int8
    assert codes_NK.min() >= -127  # so that a vector's opposite has the opposite codes
    found = decoded(codes_NK, scale_N)
    assert found.dtype == np.float32
    smallest = np.finfo(np.float32).tiny
    allowed = np.maximum(np.abs(vectors_NK).max(1, keepdims=True) / 254 * (1 + 1e-5), smallest)
    assert (np.abs(found - vectors_NK) <= allowed).all()


def test_no_vector_and_none_at_all() -> None:
    codes_NK, scale_N = encoded(np.zeros((2, 3), dtype=np.float16))
    assert not codes_NK.any()
    assert not scale_N.any()
    assert not decoded(codes_NK, scale_N).any()
    assert decoded(*encoded(np.zeros((0, 3)))).shape == (0, 3)


def test_cosines_are_kept() -> None:
    """The docstring's figure: rounding adds 0.03/√K to a cosine's error, K numbers each."""
    rng = np.random.default_rng(0)
    vectors_NK = rng.standard_normal((400, 1024)) / 32
    queries_QK = rng.standard_normal((100, 1024)) / 32
    error = (decoded(*encoded(vectors_NK)) - vectors_NK) @ queries_QK.T
    assert 0.005 < np.sqrt((error**2).mean()) * 32 < 0.03
