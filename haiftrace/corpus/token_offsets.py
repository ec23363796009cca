"""Token ids of a text, and the characters that each token covers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from haiftrace.corpus.record_fields import Record, Span
from haiftrace.errors import CorpusError

# A character has at most four bytes, so no more byte tokens than that spell it.
_MOST_TOKENS_A_CHARACTER = 8


def tokenise(record: Record, text: str, tokenizer: Any) -> tuple[list[int], list[Span]]:
    """Token ids of a record's text, and the character span of each.

    Raises:
        CorpusError: the tokenizer gives no offsets, and they cannot be reconstructed.
    """
    settings = {
        "add_special_tokens": record.messages is None,  # a template writes its own
        "truncation": False,
        "padding": False,
        "verbose": False,  # a record longer than the context is no reason to warn
    }
    if not getattr(tokenizer, "is_fast", False):
        ids = list(tokenizer(text, **settings)["input_ids"])
        return ids, _align(record, text, ids, tokenizer)
    encoded = tokenizer(text, return_offsets_mapping=True, **settings)
    offsets = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
    return list(encoded["input_ids"]), offsets


def decode_tokens(ids: Sequence[int], tokenizer: Any) -> tuple[str, list[Span]]:
    """The text that token ids spell, special tokens included, and the character span of each.

    Tokens that spell a character together all have its span. The text is what the tokens add one
    after the other, each decoded with those before it that its white space depends on.

    Args:
        ids: T of them.

    Returns:
        The text, and T spans of it.
    """

    def decoded(piece: Sequence[int]) -> str:
        return str(tokenizer.decode(list(piece), clean_up_tokenization_spaces=False))

    text = ""
    offsets: list[Span] = []
    before = first = complete = 0  # tokens [before, first) stand before those that are pending
    for end in range(1, len(ids) + 1):
        known = decoded(ids[before:first])
        piece = decoded(ids[before:end])
        follows = piece.startswith(known)
        piece = piece[len(known) :] if follows else decoded(ids[first:end])
        # A last character of which some bytes are missing is decoded as this one.
        whole = max(complete, len(piece.rstrip("\ufffd")))
        pending = whole < len(piece) or not follows
        offsets.append((len(text) + complete, len(text) + min(whole + pending, len(piece))))
        complete = whole
        if pending and end < len(ids) and end - first < _MOST_TOKENS_A_CHARACTER:
            continue
        text += piece
        offsets[-1] = (offsets[-1][0], len(text))
        before, first, complete = first, end, 0
    return text, offsets


def _align(record: Record, text: str, ids: list[int], tokenizer: Any) -> list[Span]:
    """Offsets for a tokenizer that gives none: decode token by token and follow along the text.

    White space between text and decoded piece may differ; anything else that differs is an error.
    """
    special = set(tokenizer.all_special_ids)
    offsets: list[Span] = []
    at = 0
    while len(offsets) < len(ids):
        first = len(offsets)
        # Several tokens may spell one character, which only all of them decode to.
        for size in range(1, min(_MOST_TOKENS_A_CHARACTER, len(ids) - first) + 1):
            span = _find(text, at, tokenizer.decode(ids[first : first + size]))
            if span is not None:
                offsets += [span] * size
                at = max(at, span[1])
                break
            if size == 1 and ids[first] in special:
                offsets.append((0, 0))
                break
        else:
            raise CorpusError(
                f"{record.place}: the tokenizer gives no character offsets, and token "
                f"{first + 1} does not decode to what stands in the text.",
                "Use the checkpoint's fast tokenizer (tokenizer.json).",
            )
    return offsets


def _find(text: str, at: int, piece: str) -> Span | None:
    if piece and text.startswith(piece, at):
        return at, at + len(piece)
    bare = piece.strip()
    if not bare and text[at : at + 1].isspace():  # white space that decoding drops
        return at, at + 1
    while at < len(text) and text[at].isspace():
        at += 1
    if bare and text.startswith(bare, at):
        return at, at + len(bare)
    return None


def append_eos_token(ids: list[int], offsets: list[Span], tokenizer: Any) -> None:
    """Append the end-of-text token, which covers no text, where it is not the last already.

    Raises:
        CorpusError: the tokenizer has none.
    """
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos is None:
        raise CorpusError(
            "The tokenizer has no end-of-text token to append.", "Leave --append-eos out."
        )
    if ids[-1:] != [eos]:
        ids.append(int(eos))
        offsets.append((0, 0))
