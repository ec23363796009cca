"""Norms ‖∇θ l_kj‖ of per-token gradients, and projections and dots of them, for all labels.

Labels are taken in chunks of consecutive positions. A chunk runs the model over the prefix that its
labels can see and back-propagates one cotangent a label, so the work for m labels is close to its
floor of P·m² floating-point operations (P parameters on the backward path).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haiftrace.engine.accumulators import ReductionSpec
from haiftrace.engine.batch import Batch
from haiftrace.engine.batched_pass import Pass, ReducedGradients

MakePass = Callable[[Tensor, Tensor, ReductionSpec], Pass]


@dataclass(frozen=True)
class ReducedTokenGradients:
    """Token losses l, and reductions of the per-token gradients; zero where a token is no label.

    Attributes:
        losses_BT: nats, float64.
        norms_BT: ‖∇θ l‖ over the traced parameters, float64.
        vectors_BTK: projection of ∇θ l / ‖∇θ l‖ (zero where the norm is), or None.
        dots_QBT: inner products of ∇θ l with the query gradients, float64, or None.
    """

    losses_BT: Tensor
    norms_BT: Tensor
    vectors_BTK: Tensor | None = None
    dots_QBT: Tensor | None = None

    @classmethod
    def joined(cls, batch: Batch, rows: Sequence[ReducedTokenGradients]) -> ReducedTokenGradients:
        """Those of each record of a batch as those of the batch."""
        vectors = [row.vectors_BTK for row in rows if row.vectors_BTK is not None]
        dots = [row.dots_QBT for row in rows if row.dots_QBT is not None]
        return cls(
            batch.padded([row.losses_BT for row in rows], along=1),
            batch.padded([row.norms_BT for row in rows], along=1),
            batch.padded(vectors, along=1) if vectors else None,
            batch.padded(dots, along=2, join=1) if dots else None,
        )


def token_gradients(
    make_pass: MakePass, batch: Batch, spec: ReductionSpec, chunk: Callable[[int, int], int]
) -> ReducedTokenGradients:
    """Exact reductions of the per-token gradients of a batch.

    Args:
        make_pass: makes a pass of (prefix ids, labels of its last positions, reductions).
        spec: with a projector for `vectors_BTK`, with queries for `dots_QBT`.
        chunk: number of labels of one pass, given first label position and batch size.

    Raises:
        NeedsSingleRecord: the architecture takes one record at a time.
    """
    losses_BT = torch.zeros(batch.ids_BT.shape, dtype=torch.float64, device=batch.ids_BT.device)
    chunks: list[ReducedGradients] = []
    live = torch.nonzero(batch.labels_BT.any(0)).flatten().tolist()
    start, last = (live[0], live[-1]) if live else (1, 0)
    first = start
    while first <= last:
        # A label at position p is predicted from the positions before it.
        stop = min(first + chunk(first, batch.size), last + 1)
        run = make_pass(batch.ids_BT[:, : stop - 1], batch.ids_BT[:, first:stop], spec)
        one_hot = torch.eye(stop - first, dtype=torch.float64, device=losses_BT.device)
        chunks.append(run.reduce(one_hot.unsqueeze(1).expand(-1, batch.size, -1)))
        losses_BT[:, first:stop] = run.losses_BJ
        first = stop
    losses_BT *= batch.labels_BT
    return _joined(chunks, spec, batch, start, losses_BT)


def _joined(
    chunks: Sequence[ReducedGradients],
    spec: ReductionSpec,
    batch: Batch,
    start: int,
    losses_BT: Tensor,
) -> ReducedTokenGradients:
    """Reductions of chunks of consecutive labels, from position `start` on, at their positions."""
    labels_BT = batch.labels_BT

    def placed(values_JB: Sequence[Tensor], zeros_BT: Tensor) -> Tensor:
        if values_JB:
            values_BJ = torch.cat(list(values_JB)).transpose(0, 1)
            zeros_BT[:, start : start + values_BJ.shape[1]] = values_BJ
        return zeros_BT

    norms_BT = placed([chunk.norm_NB for chunk in chunks], torch.zeros_like(losses_BT)) * labels_BT
    vectors_BTK = dots_QBT = None
    if spec.projector is not None:
        shape = (*labels_BT.shape, spec.projector.dimension)
        zeros = torch.zeros(shape, dtype=spec.projector.dtype, device=labels_BT.device)
        vectors = [c.projected_NBK for c in chunks if c.projected_NBK is not None]
        vectors_BTK = placed(vectors, zeros)
        vectors_BTK *= inverse_norms(norms_BT).to(vectors_BTK.dtype).unsqueeze(-1)
    if spec.queries is not None:
        count = len(next(iter(spec.queries.values())))
        shape = (*labels_BT.shape, count)
        zeros = torch.zeros(shape, dtype=torch.float64, device=labels_BT.device)
        dots = [c.dots_NBQ for c in chunks if c.dots_NBQ is not None]
        dots_QBT = placed(dots, zeros).movedim(-1, 0).contiguous() * labels_BT
    return ReducedTokenGradients(losses_BT, norms_BT, vectors_BTK, dots_QBT)


def inverse_norms(norms: Tensor) -> Tensor:
    """1/norm, and 0 where the norm is 0: the weight of `A(x) = x/‖x‖` with `A(0) = 0`."""
    return torch.where(norms > 0, 1.0 / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
