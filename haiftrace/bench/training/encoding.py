"""A data set's texts as token ids, labels, and the tokens that hold a record's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haiftrace.bench.synthetic.dataset import BenchData, TrainingRecord

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Example:
    """One training text of T tokens, the end token last.

    Attributes:
        ids: T token ids.
        labels: T flags, true where the token's cross-entropy is trained on (never the first's).
        values: T flags, true where the token holds a value of the record (all false in questions).
    """

    ids: tuple[int, ...]
    labels: tuple[bool, ...]
    values: tuple[bool, ...]


def training_texts(data: BenchData) -> list[str]:
    """All that a model of the data set is trained on; its tokenizer learns from the same."""
    questions = [question.prompt + question.response for question in data.trained()]
    background = [prompt + response for prompt, response in data.background]
    return [record.text for record in data.records] + questions + background


def encode_records(data: BenchData, tokenizer: PreTrainedTokenizerFast) -> list[Example]:
    """The records in their order, every token a label."""
    return [_encode_record(record, tokenizer) for record in data.records]


def encode_questions(
    pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, *, answer_only: bool
) -> list[Example]:
    """Pairs (prompt, response), with labels on the response alone or on both."""
    examples = []
    for prompt, response in pairs:
        # Every tokenizer here splits before the response's space, so the tokens can be joined.
        prompt_ids = tokenizer(prompt).input_ids
        response_ids = tokenizer(response, add_special_tokens=False).input_ids
        ids = (*prompt_ids, *response_ids, tokenizer.eos_token_id)
        first = len(prompt_ids) if answer_only else 1
        labels = tuple(position >= first for position in range(len(ids)))
        examples.append(Example(ids, labels, (False,) * len(ids)))
    return examples


def pad(examples: Sequence[Example], end: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels and values, each [B, T], filled up to the right with the end token and false.

    Under causal attention, padding to the right changes nothing before it.
    """
    import torch

    longest = max(len(example.ids) for example in examples)
    ids_BT = torch.full((len(examples), longest), end)
    labels_BT = torch.zeros(len(examples), longest, dtype=torch.bool)
    values_BT = torch.zeros(len(examples), longest, dtype=torch.bool)
    for row, example in enumerate(examples):
        ids_BT[row, : len(example.ids)] = torch.tensor(example.ids)
        labels_BT[row, : len(example.ids)] = torch.tensor(example.labels)
        values_BT[row, : len(example.ids)] = torch.tensor(example.values)
    return ids_BT, labels_BT, values_BT


def _encode_record(record: TrainingRecord, tokenizer: PreTrainedTokenizerFast) -> Example:
    encoded = tokenizer(record.text, return_offsets_mapping=True)
    values = tuple(
        any(span.start < end and start < span.end for span in record.values())
        for start, end in encoded.offset_mapping
    )
    ids = (*encoded.input_ids, tokenizer.eos_token_id)
    return Example(ids, (False, *(True,) * (len(ids) - 1)), (*values, False))
