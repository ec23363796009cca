"""Greedy answers to many questions at once, and which of them are right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haiftrace.bench.synthetic.dataset import ProbeQuestion

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_BATCH = 256
_LOGITS_BYTES = 1 << 28


@dataclass(frozen=True)
class Prediction:
    """What a model answered: `text` without the space before it; `correct` is exact match."""

    question: ProbeQuestion
    text: str

    @property
    def correct(self) -> bool:
        """Whether the answer is right to the last character."""
        return self.text == self.question.answer


def answer_all(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, questions: Sequence[ProbeQuestion]
) -> list[Prediction]:
    """The model's greedy answers, in the order of the questions.

    Questions of the same length in tokens are answered together, so nothing is padded. An answer
    ends with the end token, or one token after the longest right answer.
    """
    ids = [tokenizer(question.prompt).input_ids for question in questions]
    longest = max(
        (len(tokenizer(question.response).input_ids) for question in questions), default=0
    )
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(ids):
        by_length[len(prompt)].append(number)
    texts = [""] * len(questions)
    for numbers in by_length.values():
        logits = 4 * len(ids[numbers[0]]) * model.config.vocab_size
        size = max(1, min(_BATCH, _LOGITS_BYTES // logits))
        for start in range(0, len(numbers), size):
            batch = numbers[start : start + size]
            for number, answer in zip(
                batch, _greedy(model, [ids[n] for n in batch], longest + 1), strict=True
            ):
                texts[number] = str(tokenizer.decode(answer, skip_special_tokens=True)).strip()
    return [Prediction(question, text) for question, text in zip(questions, texts, strict=True)]


def _greedy(model: PreTrainedModel, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
    """Continue prompts of one length by at most `max_tokens` tokens, each up to its end token."""
    import torch

    end = model.config.eos_token_id
    device = model.device
    input_BT = torch.tensor(prompts, device=device)
    mask_BT = torch.ones_like(input_BT)  # nothing is padded, though the end token fills up below
    ended_B = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    columns: list[torch.Tensor] = []
    cache = None
    with torch.no_grad():
        for _ in range(max_tokens):
            out = model(
                input_ids=input_BT, attention_mask=mask_BT, past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values
            next_B = out.logits[:, -1].argmax(-1).masked_fill(ended_B, end)
            columns.append(next_B)
            ended_B |= next_B == end
            if bool(ended_B.all()):
                break
            input_BT = next_B[:, None]
            mask_BT = torch.cat([mask_BT, torch.ones_like(input_BT)], 1)
    answers = torch.stack(columns, 1).tolist() if columns else [[] for _ in prompts]
    return [answer[: answer.index(end)] if end in answer else answer for answer in answers]
