"""A plain training epoch, forward and backward: what an index is compared with as a process.

`python -m haiftrace.bench.speed.epoch MODEL CORPUS THREADS DEVICE` goes over the records in the
order of the corpus, eight a batch, in float32, without a step of an optimiser.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

BATCH = 8


def train_epoch(model: str, corpus: str, device: str) -> None:
    """Forward and backward over all records of a JSONL file with a field `text`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).to(device)
    tokenizer = AutoTokenizer.from_pretrained(model)
    end = tokenizer.eos_token_id
    texts = [json.loads(line)["text"] for line in Path(corpus).read_text("utf-8").splitlines()]
    rows = [[*tokenizer(text).input_ids, end] for text in texts]
    for at in range(0, len(rows), BATCH):
        batch = rows[at : at + BATCH]
        longest = max(map(len, batch))
        padded = torch.tensor([row + [end] * (longest - len(row)) for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        labels = padded.masked_fill(mask == 0, -100)
        inputs = {"input_ids": padded, "attention_mask": mask, "labels": labels}
        loss = network(**{name: each.to(device) for name, each in inputs.items()}).loss
        loss.backward()
        network.zero_grad()


if __name__ == "__main__":
    model, corpus, threads, device = sys.argv[1:]
    if device == "cpu":
        import torch

        torch.set_num_threads(int(threads))
    train_epoch(model, corpus, device)
