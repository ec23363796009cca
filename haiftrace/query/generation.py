"""Greedy generation, and the text of each generated token."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.checkpoint.load import Checkpoint


def _ending_ids(checkpoint: Checkpoint) -> set[int]:
    ends: Any = checkpoint.model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return {i for i in (*listed, checkpoint.tokenizer.eos_token_id) if i is not None}


def greedy(
    checkpoint: Checkpoint, prompt_ids: list[int], room: int, stop: tuple[str, ...]
) -> list[int]:
    """The likeliest token again and again, until the model ends, `stop` is met or room is used up.

    Transformers' own `generate` would follow the checkpoint's sampling settings, repetition
    penalties among them, and so need not give what the model finds likeliest.
    """
    import torch

    model, ends = checkpoint.model, _ending_ids(checkpoint)
    accepted = _accepted(model)
    new: list[int] = []
    cache: dict[str, Any] = {}
    with torch.no_grad():
        while len(new) < room:
            ids = new[-1:] if cache else prompt_ids + new
            place = _place(len(prompt_ids) + len(new), len(ids), model.device)
            place = {name: value for name, value in place.items() if name in accepted}
            tokens = torch.tensor([ids], device=model.device)
            output = model(tokens, use_cache=True, **place, **cache)
            token = int(output.logits[0, -1].argmax())
            if token in ends:
                break
            new.append(token)
            if stop and first_stop(_decoded(checkpoint, prompt_ids, new), stop) is not None:
                break
            # Architectures without such a cache read everything again.
            kept = getattr(output, "past_key_values", None)
            cache = {} if kept is None else {"past_key_values": kept}
    return new


def _accepted(model: Any) -> frozenset[str]:
    """The names of what the model's forward pass can be given."""
    forward = getattr(model, "forward", model)
    return frozenset(inspect.signature(forward).parameters)


def _place(total: int, new: int, device: Any) -> dict[str, Tensor]:
    """Where the last `new` of `total` tokens stand, as transformers' `generate` says it.

    Most models find it from their cache's length; of hybrid ones some (Bamba, MiniMax) do not, as
    the cache of a layer without attention has none.
    """
    import torch

    return {
        "attention_mask": torch.ones(1, total, dtype=torch.long, device=device),
        "position_ids": torch.arange(total - new, total, device=device)[None],
    }


def first_stop(answer: str, stop: tuple[str, ...]) -> int | None:
    """Where the first of the stop texts begins in the answer; None where there is none."""
    return min((answer.index(text) for text in stop if text and text in answer), default=None)


def _decoded(checkpoint: Checkpoint, prompt_ids: list[int], new: list[int]) -> str:
    """The text of the new tokens: decoded with what stands before, which their spaces depend on."""

    def text(ids: list[int]) -> str:
        return str(checkpoint.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    return text(prompt_ids + new)[len(text(prompt_ids)) :]


def token_texts(checkpoint: Checkpoint, prompt_ids: list[int], new: list[int]) -> list[str]:
    """Text of every new token, so that the pieces add up to the answer.

    A character that several tokens spell stands with the last of them.
    """
    pieces, done = [], ""
    for count in range(1, len(new) + 1):
        text = _decoded(checkpoint, prompt_ids, new[:count])
        unfinished = text.endswith("\ufffd") and count < len(new)
        pieces.append("" if unfinished else text[len(done) :])
        done = done if unfinished else text
    return pieces


def token_spans(pieces: list[str]) -> list[tuple[int, int]]:
    """Where each piece stands; tokens that spell a character together all have its place."""
    spans, end = [], sum(map(len, pieces))
    stop = end
    for piece in reversed(pieces):
        if piece:
            stop = end
        spans.append((end - len(piece), stop))
        end -= len(piece)
    return spans[::-1]
