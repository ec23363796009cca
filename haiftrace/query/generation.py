"""Generation, greedy or drawn, and the text of each generated token."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.query.sampling import Sampling


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

    ends = _ending_ids(checkpoint)
    step = _Steps(checkpoint, prompt_ids)
    new: list[int] = []
    cache: Any = None
    with torch.no_grad():
        while len(new) < room:
            logits_BV, cache = step([new], cache)
            token = int(logits_BV[0].argmax())
            if token in ends:
                break
            new.append(token)
            if stop and first_stop(_decoded(checkpoint, prompt_ids, new), stop) is not None:
                break
    return new


def sampled(
    checkpoint: Checkpoint,
    prompt_ids: list[int],
    room: int,
    stop: tuple[str, ...],
    sampling: Sampling,
) -> list[list[int]]:
    """Answers drawn from the model's own distribution, each as `greedy` gives one."""
    import torch

    from haiftrace.query.sampling import drawn

    def is_over(new: list[int]) -> bool:
        return bool(stop) and first_stop(_decoded(checkpoint, prompt_ids, new), stop) is not None

    with torch.no_grad():
        step = _Steps(checkpoint, prompt_ids)
        return drawn(step, prompt_ids, room, _ending_ids(checkpoint), is_over, sampling)


class _Steps:
    """Passes that go on with answers to one prompt, from the cache of the last where there is one.

    Args:
        checkpoint: its model is in evaluation mode.
        prompt_ids: of the prompt.
    """

    def __init__(self, checkpoint: Checkpoint, prompt_ids: list[int]) -> None:
        self._model = checkpoint.model
        self._prompt_ids = prompt_ids
        self._accepted = _accepted(checkpoint.model)

    def __call__(self, new: list[list[int]], cache: Any) -> tuple[Tensor, Any]:
        """Logits [B, V] after each of B answers of one length, and the cache to go on from.

        Architectures without such a cache read everything again.
        """
        import torch

        device = self._model.device
        rows = [answer[-1:] if cache is not None else self._prompt_ids + answer for answer in new]
        total = len(self._prompt_ids) + len(new[0])
        place = {
            name: value.expand(len(new), -1)
            for name, value in _place(total, len(rows[0]), device).items()
            if name in self._accepted
        }
        kept = {} if cache is None else {"past_key_values": cache}
        tokens = torch.tensor(rows, device=device)
        output: Any = self._model(tokens, use_cache=True, **place, **kept)
        return output.logits[:, -1], getattr(output, "past_key_values", None)


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
