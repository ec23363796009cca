"""Records as padded tensors. Padding is on the right, where a causal model cannot see it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def _is_relevant(record: logging.LogRecord) -> bool:
    """Not transformers' advice, where an id is that of padding, to pass the mask that a causal
    model does not need.
    """
    return "passing in an `attention_mask`" not in record.getMessage()


logging.getLogger("transformers.modeling_utils").addFilter(_is_relevant)


@dataclass(frozen=True)
class Batch:
    """Token sequences of B records, padded to T tokens.

    Attributes:
        ids_BT: token ids, padded on the right with 0. No attention mask is ever needed: in a causal
            model no token sees those to its right.
        labels_BT: True where the token is a label (its own loss counts). Column 0 is never a label.
        lengths: number of tokens of each record before padding.
    """

    ids_BT: Tensor
    labels_BT: Tensor
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        """B."""
        return self.ids_BT.shape[0]

    @property
    def length(self) -> int:
        """T."""
        return self.ids_BT.shape[1]

    def row(self, index: int) -> Batch:
        """One record alone, without its padding."""
        length = self.lengths[index]
        row = slice(index, index + 1)
        return Batch(self.ids_BT[row, :length], self.labels_BT[row, :length], (length,))

    def rows(self) -> list[Batch]:
        """Every record alone."""
        return [self.row(index) for index in range(self.size)]

    def padded(self, rows: Sequence[Tensor], along: int, join: int = 0) -> Tensor:
        """Results of single records, zero-padded in dimension `along`, concatenated in `join`."""
        padded = []
        for row in rows:
            shape = list(row.shape)
            shape[along] = self.length - shape[along]
            padded.append(torch.cat([row, row.new_zeros(shape)], along))
        return torch.cat(padded, join)


def make_batch(
    sequences: Sequence[Sequence[int]],
    labels: Sequence[Sequence[bool]] | None = None,
    device: torch.device | str = "cpu",
) -> Batch:
    """Pads sequences of token ids to a batch.

    Args:
        sequences: token ids of each record, at least two tokens each.
        labels: which tokens are labels; every token but the first when None.

    Raises:
        ValueError: no sequence, one with fewer than two tokens, or labels of another length.
    """
    if not sequences or min(len(s) for s in sequences) < 2:
        raise ValueError("a record needs at least two tokens: one to predict from, one to predict")
    longest = max(len(s) for s in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.as_tensor(list(sequence), dtype=torch.long)
        marks = [True] * len(sequence) if labels is None else list(labels[row])
        if len(marks) != len(sequence):
            raise ValueError(f"{len(marks)} label marks for {len(sequence)} tokens")
        mask[row, 1 : len(sequence)] = torch.as_tensor(marks[1:], dtype=torch.bool)
    return Batch(ids.to(device), mask.to(device), tuple(len(s) for s in sequences))
