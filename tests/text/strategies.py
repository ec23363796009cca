"""Texts that the tests of terms and of BM25 make up."""

from __future__ import annotations

from hypothesis import strategies as st

from haiftrace.text.terms import terms

CHARACTERS = st.text(
    "aZ09 .@_éß①½㎏ﬁＡ·हि😀\u0301\u0323\u0345"  # Latin and what normalises to it, marks
    "ｶﾞがか\u3099북ㄱㅏᄀ각京市々一。\u200d\u00ad\u200b",  # CJK, what is not seen
    max_size=14,
)
"""Characters whose normal form differs in length or depends on their neighbours."""


def texts_of(text: str) -> list[str]:
    return [term.text for term in terms(text)]
