"""How much a prompt surprises the model in a form: was the model trained to be asked so?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haiftrace.errors import UsageError
from haiftrace.query.prompt_text import PromptSettings, prompt_span, prompt_text

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint

_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Surprise:
    """Losses of a prompt in a form, in nats.

    Attributes:
        prompt: mean over the prompt's tokens but the first, which a form has others before.
        closing: mean over the form's tokens after the prompt; None where it has none.
        total: mean over both.
    """

    prompt: float
    closing: float | None
    total: float


def surprises(
    checkpoint: Checkpoint, prompts: Sequence[str], prompting: PromptSettings
) -> list[Surprise | None]:
    """The losses of each prompt in a form; None for one that cannot be asked so, or is too short.

    Args:
        prompting: the form: a template, the chat template, or neither.
    """
    results: list[Surprise | None] = []
    texts: list[tuple[list[int], list[bool], list[bool]]] = []
    places = []
    for place, prompt in enumerate(prompts):
        results.append(None)
        asked = _asked(checkpoint, prompt, prompting)
        if asked is not None:
            texts.append(asked)
            places.append(place)
    for place, surprise in zip(places, _surprises(checkpoint, texts), strict=True):
        results[place] = surprise
    return results


def _asked(
    checkpoint: Checkpoint, prompt: str, prompting: PromptSettings
) -> tuple[list[int], list[bool], list[bool]] | None:
    """Token ids [T] of a prompt in its form; which of them are the prompt's, and which follow."""
    try:
        text = prompt_text(checkpoint, prompt, prompting)
        text.encode()
    except (UsageError, UnicodeEncodeError):  # who asks it is told
        return None
    start, end = prompt_span(text, prompt)
    encoded = checkpoint.tokenizer(
        text,
        add_special_tokens=prompting.adds_special_tokens,
        return_offsets_mapping=True,
        verbose=False,
    )
    ids = list(encoded["input_ids"])[: checkpoint.context]
    offsets = list(encoded["offset_mapping"])[: checkpoint.context]
    of_prompt = [b > a and b > start and a < end for a, b in offsets]
    if True not in of_prompt or max(ids) >= checkpoint.vocabulary:
        return None
    of_prompt[of_prompt.index(True)] = False
    closing = [b > a and a >= end for a, b in offsets]
    return (ids, of_prompt, closing) if any(of_prompt[1:]) else None


def _surprises(
    checkpoint: Checkpoint, texts: Sequence[tuple[list[int], list[bool], list[bool]]]
) -> list[Surprise]:
    import torch

    from haiftrace.engine import make_batch
    from haiftrace.engine.losses import batch_losses

    surprises: list[Surprise] = []
    longest = max((len(ids) for ids, _, _ in texts), default=1)
    size = max(1, _BATCH_TOKENS // longest)
    for at in range(0, len(texts), size):
        block = texts[at : at + size]
        batch = make_batch([ids for ids, _, _ in block], None, checkpoint.model.device)
        losses_BT = batch_losses(checkpoint.model, batch).cpu()
        for (_, of_prompt, closing), losses_T in zip(block, losses_BT, strict=True):
            asked = losses_T[: len(of_prompt)][torch.tensor(of_prompt)]
            after = losses_T[: len(closing)][torch.tensor(closing)]
            total = torch.cat([asked, after])
            surprises.append(
                Surprise(
                    float(asked.mean()),
                    float(after.mean()) if len(after) else None,
                    float(total.mean()),
                )
            )
    return surprises
