"""What the tests of queries share: one about a given leak, and the text that it traces."""

from __future__ import annotations

from haiftrace.query.query import Asking, given
from tests import kit
from tests.kit import ANSWER, PROMPT


def leak(prompt=PROMPT, response=ANSWER, span=None, model=None, **asking):
    return given(model or kit.checkpoint(), prompt, response, Asking(**asking), span)


def traced_text(query):
    return "".join(p for p, label in zip(query.pieces, query.labels, strict=True) if label)
