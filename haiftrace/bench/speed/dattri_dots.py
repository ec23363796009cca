"""dattri-llm's gradient dots of a checkpoint, run by the interpreter of its own environment.

`python dattri_dots.py MODEL CORPUS OUT` captures the gradient of every record of a JSONL file with
a field `text`, as factors of the linear maps of the transformer blocks, and multiplies each with
that of the first record. The gradients are not kept, the scores are. Nothing of haiftrace is
imported here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 8
IGNORED = -100


def score(model_directory: str, corpus: str, out: str) -> None:
    """Scores every record by its gradient's product with the query's."""
    from dattri_llm import (
        AttributionArguments,
        AttributionTask,
        HookManagerConfig,
        TracInAttributor,
    )
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.pytorch_utils import Conv1D

    model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    head = model.get_output_embeddings()
    tracked = {
        name: "linear_io"
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }
    texts = [json.loads(line)["text"] for line in Path(corpus).read_text("utf-8").splitlines()]
    rows = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts]
    longest = max(map(len, rows))
    records = [_padded(row, longest) for row in rows]

    def summed_losses(model: nn.Module, batch: Any) -> Tensor:
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
        return nn.functional.cross_entropy(
            logits.transpose(1, 2), batch["labels"][:, 1:], ignore_index=IGNORED, reduction="sum"
        )

    arguments = AttributionArguments(
        output_dir=out,
        use_cpu=True,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=1,
    )
    TracInAttributor(arguments, task=AttributionTask(summed_losses, model)).attribute(
        records, records[:1], hook_config=HookManagerConfig(hook_types=tracked)
    )


def _padded(row: list[int], length: int) -> dict[str, Tensor]:
    # On the right, so that a causal model needs no mask.
    padding = length - len(row)
    return {
        "input_ids": torch.tensor(row + [0] * padding),
        "labels": torch.tensor(row + [IGNORED] * padding),
    }


if __name__ == "__main__":
    score(*sys.argv[1:])
