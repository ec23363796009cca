"""Token ids in a field: sequences that training packed, or tokenised, beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from haiftrace.corpus.corpus_file import plain
from haiftrace.corpus.field_paths import columns_for, field_value
from haiftrace.corpus.layouts.layout import BadRowError, Content, Fields, type_name

_NO_LOSS = -100
"""The label of a token without loss, in transformers and PyTorch."""

_MASKS = ("completion_mask", "assistant_masks")
"""TRL's fields that mark the tokens with loss."""


@dataclass(frozen=True)
class TokensLayout:
    """`{"input_ids": […]}` or another field, traced as it was trained: no token more or less.

    `attention_mask`, where the record has it, takes padding out. Which tokens are the response is
    told by `labels` (−100 for the others), or by TRL's `completion_mask` or `assistant_masks`.

    Attributes:
        field: of the ids, its name or a path to it.
    """

    field: str
    name = "tokens"

    @property
    def shown(self) -> str:
        """What the user is told of it."""
        return f"token ids (field '{plain(self.field)}')"

    @property
    def needs(self) -> str:
        """The field."""
        return f"'{plain(self.field)}'"

    def columns(self) -> set[str]:
        """The columns of ids, labels and masks."""
        return columns_for(self.field) | {"labels", "attention_mask", *_MASKS}

    def fits(self, fields: Fields) -> bool:
        """Whether the ids are there."""
        return field_value(fields, self.field) is not None

    def read(self, fields: Fields) -> Content:
        """The ids without padding, and which of them carry loss where the record says so."""
        ids = _numbers(field_value(fields, self.field), self.field)
        if any(number < 0 for number in ids):
            raise BadRowError(f"the field '{plain(self.field)}' holds a negative number")
        marks = _marks(fields, len(ids), self.field)
        kept = [True] * len(ids)
        if "attention_mask" in fields:
            mask = _numbers(fields["attention_mask"], "attention_mask", len(ids), self.field)
            kept = [bool(number) for number in mask]
        return Content(
            token_ids=tuple(i for i, keep in zip(ids, kept, strict=True) if keep),
            token_labels=None
            if marks is None
            else tuple(m for m, keep in zip(marks, kept, strict=True) if keep),
        )


def _marks(fields: Fields, length: int, ids_field: str) -> list[bool] | None:
    if "labels" in fields:
        labels = _numbers(fields["labels"], "labels", length, ids_field)
        return [number != _NO_LOSS for number in labels]
    for name in _MASKS:
        if name in fields:
            return [bool(number) for number in _numbers(fields[name], name, length, ids_field)]
    return None


def _numbers(value: Any, name: str, length: int | None = None, ids_field: str = "") -> list[int]:
    what = f"the field '{plain(name)}'"
    if not isinstance(value, list):
        raise BadRowError(
            f"{what} is {type_name(value)}, not a list of token ids",
            "Name the field that holds the token ids with --ids-field.",
        )
    if not all(type(number) is int for number in value):
        raise BadRowError(f"{what} holds something else than whole numbers")
    if length is not None and len(value) != length:
        raise BadRowError(f"{what} has not as many numbers as '{plain(ids_field)}'")
    return value
