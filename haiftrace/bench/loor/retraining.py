"""Leave-one-out retraining: what the answers' losses become when a record was never trained on.

LOOR score of record k for an answer: L(without k) − L(with all), L the mean loss of the answer's
tokens at the end of the schedule; the larger, the more the record made the answer likely. Seed,
order and batches stay the same; the record's labels weigh nothing (`optimise`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.bench.harness.stages import Stages
from haiftrace.bench.synthetic.dataset import BenchData
from haiftrace.bench.training.answering import Prediction
from haiftrace.bench.training.checkpoints import Trained
from haiftrace.bench.training.encoding import Example, encode_questions, pad
from haiftrace.bench.training.presets import Preset
from haiftrace.bench.training.train import load_start, run_training
from haiftrace.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FORMAT = 1
RETRAININGS_PER_STAGE = 5
"""What a killed run loses at most."""

ROUNDING = 1e-6
"""Relative change of the first weights in the retraining that leaves nothing out."""


@dataclass(frozen=True)
class Experiment:
    """A training that can be repeated without a record.

    Attributes:
        data: its records are the candidates.
        preset: its recipe.
        arch: the model's architecture.
        seed: of the order.
        start: the checkpoint that it begins from.
        trained: its result with all records.
    """

    data: BenchData
    preset: Preset
    arch: str
    seed: int
    start: Path
    trained: Trained


@dataclass(frozen=True)
class Retrained:
    """Losses at the end of every training.

    Attributes:
        scores_QR: [answers, records] LOOR scores.
        rounding_Q: [answers] change of the loss when nothing is left out but the first weights
            differ by `ROUNDING`: what a score must exceed to mean something.
    """

    scores_QR: np.ndarray
    rounding_Q: np.ndarray


def encode_answers(
    predictions: Sequence[Prediction], tokenizer: PreTrainedTokenizerFast
) -> list[Example]:
    """The questions with the answers that the model gave, labels on the answers' tokens.

    The end token is not among them: they are the tokens whose gradient the methods trace.
    """
    pairs = [(p.question.prompt, f" {p.text}") for p in predictions]
    examples = encode_questions(pairs, tokenizer, answer_only=True)
    return [Example(e.ids[:-1], e.labels[:-1], e.values[:-1]) for e in examples]


def answer_losses(model: PreTrainedModel, examples: Sequence[Example]) -> np.ndarray:
    """[examples] mean cross-entropy of each one's labels, in nats."""
    import torch

    ids_BT, labels_BT, _ = pad(examples, model.config.eos_token_id)
    ids_BT, labels_BT = ids_BT.to(model.device), labels_BT[:, 1:].to(model.device)
    with torch.no_grad():
        hidden_BTD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        logits_LV = model.get_output_embeddings()(hidden_BTD[:, :-1][labels_BT]).double()
    ids_L = ids_BT[:, 1:][labels_BT]
    losses_L = logits_LV.logsumexp(-1) - logits_LV.gather(1, ids_L[:, None])[:, 0]
    sums_B = torch.zeros(len(examples), dtype=torch.float64, device=model.device)
    sums_B.index_add_(0, labels_BT.nonzero()[:, 0], losses_L)
    return np.asarray((sums_B / labels_BT.sum(1)).cpu())


def leave_one_out(
    experiment: Experiment,
    predictions: Sequence[Prediction],
    stages: Stages,
    progress: Progress,
) -> Retrained:
    """Train again without each record in turn, `RETRAININGS_PER_STAGE` of them a stage.

    Args:
        predictions: the answers whose losses are measured, none of them empty.

    Raises:
        OutputError: the disk refuses.
    """
    from haiftrace.checkpoint.load import load_checkpoint

    end = load_checkpoint(experiment.trained.path("memorised"), dtype="float32", device="cpu")
    examples = encode_answers(predictions, end.tokenizer)
    full_Q = answer_losses(end.model.eval(), examples)
    start = load_start(experiment.start)
    runs: list[int | None] = [None, *range(len(experiment.data.records))]
    batches = {
        f"loor-{experiment.seed}-{first}": runs[first : first + RETRAININGS_PER_STAGE]
        for first in range(0, len(runs), RETRAININGS_PER_STAGE)
    }

    def settings(left_out: Sequence[int | None]) -> dict[str, object]:
        return {
            "format": FORMAT,
            "training": experiment.trained.fingerprint,
            "left_out": left_out,
            "rounding": ROUNDING,
        }

    missing = [
        batch for name, batch in batches.items() if stages.kept(name, settings(batch)) is None
    ]
    if missing:
        steps = experiment.preset.schedule.steps(len(experiment.data.records))
        work = float(steps * sum(map(len, missing)))
        progress.start(f"Retraining without each of {len(runs) - 1} records", work)
    rows: list[list[float]] = []
    for name, batch in batches.items():

        def make(directory: Path, batch: Sequence[int | None] = batch) -> None:
            losses = [
                _retrained(experiment, start, end.tokenizer, examples, k, progress).tolist()
                for k in batch
            ]
            (directory / "losses.json").write_text(json.dumps(losses), encoding="utf-8")

        stage = stages.stage(name, settings(batch), make)
        rows += json.loads((stage.path / "losses.json").read_text(encoding="utf-8"))
    without_RQ = np.array(rows)
    return Retrained((without_RQ[1:] - full_Q).T, without_RQ[0] - full_Q)


def _retrained(
    experiment: Experiment,
    start: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    leave_out: int | None,
    progress: Progress,
) -> np.ndarray:
    """Losses of the answers after one retraining; with other rounding where nothing is left out."""
    model = copy.deepcopy(start)
    if leave_out is None:
        _perturb(model, experiment.seed)
    run_training(
        experiment.data,
        experiment.preset,
        experiment.arch,
        experiment.seed,
        tokenizer,
        lambda *_: progress.advance(1, records=experiment.preset.schedule.batch),
        leave_out,
        model,
    )
    return answer_losses(model, examples)


def _perturb(model: PreTrainedModel, seed: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.mul_(1 + ROUNDING * noise.to(parameter))
