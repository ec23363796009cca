"""kronfluence's EK-FAC of a checkpoint, run by the interpreter of its own environment.

`python kronfluence_factors.py MODEL CORPUS OUT` fits all factors over the records of a JSONL file
with a field `text`, and scores its first record against all. It tracks the linear maps of the
transformer blocks, which must be `torch.nn.Linear`. Nothing of haiftrace is imported here.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

IGNORED = -100


class _Records(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Records, padded on the right to the longest."""

    def __init__(self, rows: list[list[int]]) -> None:
        self._rows = rows
        self._length = max(map(len, rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self._rows[index]
        padding = self._length - len(ids)
        return {
            "ids": torch.tensor(ids + [0] * padding),
            "labels": torch.tensor(ids + [IGNORED] * padding),
            "mask": torch.tensor([1] * len(ids) + [0] * padding),
        }


def fit_and_score(model_directory: str, corpus: str, out: str) -> None:
    """Fits the factors and scores one query."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    head = model.get_output_embeddings()
    tracked = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
    if not tracked:
        raise SystemExit("the model has no torch.nn.Linear to track")
    texts = [json.loads(line)["text"] for line in Path(corpus).read_text("utf-8").splitlines()]
    rows = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts]

    class TokenLosses(Task):
        """The sum of a record's token losses."""

        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            logits = model(input_ids=batch["ids"]).logits[:, :-1]
            return nn.functional.cross_entropy(
                logits.transpose(1, 2),
                batch["labels"][:, 1:],
                ignore_index=IGNORED,
                reduction="sum",
            )

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return tracked

        def get_attention_mask(self, batch: Any) -> Any:
            return batch["mask"]

    task = TokenLosses()
    analyzer = Analyzer(
        analysis_name="speed",
        model=prepare_model(model, task),
        task=task,
        cpu=True,
        log_level=logging.ERROR,
        disable_tqdm=True,
        output_dir=out,
    )
    records, query = _Records(rows), _Records(rows[:1])
    analyzer.fit_all_factors(
        "factors",
        records,
        per_device_batch_size=8,
        factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=True),
    )
    analyzer.compute_pairwise_scores(
        "scores",
        "factors",
        query,
        records,
        per_device_query_batch_size=1,
        per_device_train_batch_size=8,
        score_args=ScoreArguments(),
    )


if __name__ == "__main__":
    fit_and_score(*sys.argv[1:])
