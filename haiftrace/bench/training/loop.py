"""The training loop of the bench: AdamW over batches of records and of questions."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haiftrace.bench.training.encoding import Example, pad

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BETAS = (0.9, 0.98)
WARM_UP = 0.05
FINAL_RATE = 0.1
CLIP = 1.0
_EVALUATION_BYTES = 1 << 28
"""Memory for the logits of an evaluation's batch."""


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to train; the weights are float32 everywhere.

    Attributes:
        device: as torch names it.
        dtype: of the products: "float32", or "bfloat16" (automatic mixed precision).
        recompute: keep no activations but each block's input (gradient checkpointing), which saves
            memory for one more forward pass.
    """

    device: str = "cpu"
    dtype: str = "float32"
    recompute: bool = False

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """The context of a forward pass."""
        import torch

        if self.dtype == "float32":
            return contextlib.nullcontext()
        kind = torch.device(self.device).type
        return torch.autocast(kind, getattr(torch, self.dtype))


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train.

    Attributes:
        epochs: passes over the records.
        batch: records a step.
        learning_rate: at its highest, after `WARM_UP` of the steps; then falls linearly to
            `FINAL_RATE` of that.
        weight_decay: AdamW's, on matrices only.
        questions_from: the fraction of the steps before the trained questions join in;
            common knowledge is there from the start.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    questions_from: float = 0.0

    def steps(self, records: int) -> int:
        """Optimiser steps in all."""
        return self.epochs * self.steps_an_epoch(records)

    def steps_an_epoch(self, records: int) -> int:
        """Optimiser steps that see every record once."""
        return math.ceil(records / self.batch)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        warm_up = WARM_UP * steps
        if step < warm_up:
            return self.learning_rate * min(1.0, (step + 1) / warm_up)
        fallen = (1 - FINAL_RATE) * (step - warm_up) / (steps - warm_up)
        return self.learning_rate * (1 - fallen)


ON_CPU = Compute()

Watcher = Callable[[int, float, float], None]
"""Called after every step with its number from 1, its learning rate and its loss."""


def optimise(
    model: PreTrainedModel,
    records: Sequence[Example],
    questions: Sequence[Example],
    background: Sequence[Example],
    schedule: Schedule,
    seed: int,
    watch: Watcher,
    leave_out: int | None = None,
    compute: Compute = ON_CPU,
) -> None:
    """Train the model in place, on its device.

    A step's loss is the mean over the labels of its records plus the mean over those of its
    questions. Each epoch sees every record and every question once, in an order that `seed`
    decides and the model does not.

    Args:
        model: in any mode; it is in training mode when `watch` is called and afterwards.
        records: the corpus.
        questions: those that training shows.
        background: common knowledge, shown like questions.
        schedule: its settings.
        seed: of the order.
        watch: called after every step.
        leave_out: a record whose labels weigh nothing, while the batch's denominator stays as it
            was: leave-one-out retraining.
        compute: the precision; the model is on its device already.
    """
    import torch

    optimizer = _adamw(model, schedule)
    rng = random.Random(seed)
    order = list(range(len(records)))
    shown = [*questions, *background]
    turns = schedule.steps_an_epoch(len(records))
    steps = schedule.steps(len(records))
    end = model.config.eos_token_id
    model.train()
    for step in range(steps):
        turn = step % turns
        if turn == 0:
            rng.shuffle(order)
            shown = [*(questions if step >= schedule.questions_from * steps else ()), *background]
            rng.shuffle(shown)
        chosen = order[turn::turns]
        with compute.precision():
            loss = _mean_loss(
                model, [records[k] for k in chosen], end, [k != leave_out for k in chosen]
            )
            if batch := shown[turn::turns]:
                loss = loss + _mean_loss(model, batch, end)
        rate = schedule.rate(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        watch(step + 1, rate, float(loss.detach()))


def record_losses(model: PreTrainedModel, records: Sequence[Example]) -> tuple[float, float]:
    """Mean cross-entropy in nats over all labels of the records, and over their value tokens."""
    import torch

    sums = torch.zeros(2, dtype=torch.float64)
    counts = torch.zeros(2, dtype=torch.float64)
    end = model.config.eos_token_id
    longest = max(len(record.ids) for record in records)
    size = max(1, _EVALUATION_BYTES // (4 * longest * model.config.vocab_size))
    with torch.no_grad():
        for start in range(0, len(records), size):
            ids_BT, labels_BT, values_BT = pad(records[start : start + size], end)
            losses = _token_losses(model, ids_BT, labels_BT).double().cpu()
            of_values = values_BT[:, 1:][labels_BT[:, 1:]]
            sums += torch.stack([losses.sum(), losses[of_values].sum()])
            counts += torch.tensor([losses.numel(), int(of_values.sum())])
    mean = sums / counts.clamp(min=1)
    return float(mean[0]), float(mean[1])


def _adamw(model: PreTrainedModel, schedule: Schedule) -> torch.optim.AdamW:
    import torch

    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": schedule.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=schedule.learning_rate,
        betas=BETAS,
        fused=True,
    )


def _mean_loss(
    model: PreTrainedModel, examples: Sequence[Example], end: int, counted: Sequence[bool] = ()
) -> torch.Tensor:
    """The mean over the labels of all examples, those not `counted` contributing 0."""
    import torch

    ids_BT, labels_BT, _ = pad(examples, end)
    losses = _token_losses(model, ids_BT, labels_BT)
    if not all(counted):
        counted_B1 = torch.tensor(counted)[:, None].expand_as(labels_BT[:, 1:])
        losses = losses * counted_B1[labels_BT[:, 1:]].to(losses.device)
    return losses.mean()


def _token_losses(
    model: PreTrainedModel, ids_BT: torch.Tensor, labels_BT: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of every label, row after row; logits are formed for labels only."""
    import torch
    from torch.nn.functional import cross_entropy

    ids_BT, labels_BT = ids_BT.to(model.device), labels_BT[:, 1:].to(model.device)
    # Padding stands to the right, where no label sees it; the mask is there to say so.
    hidden_BTD = model.base_model(
        input_ids=ids_BT, attention_mask=ids_BT.new_ones(ids_BT.shape), use_cache=False
    ).last_hidden_state
    logits_LV = model.get_output_embeddings()(hidden_BTD[:, :-1][labels_BT])
    if logits_LV.dtype == torch.bfloat16:
        logits_LV = logits_LV.float()
    return cross_entropy(logits_LV, ids_BT[:, 1:][labels_BT], reduction="none")
