"""What the tests of queries share: one about a given leak, and the text that it traces."""

from __future__ import annotations

from haiftrace.query.prompt_text import PromptSettings
from haiftrace.query.query import given_query
from tests import kit
from tests.kit import ANSWER, PROMPT


def leak(prompt=PROMPT, response=ANSWER, span=None, model=None, **asking):
    return given_query(model or kit.checkpoint(), prompt, response, PromptSettings(**asking), span)


def traced_text(query):
    return "".join(p for p, label in zip(query.pieces, query.labels, strict=True) if label)
