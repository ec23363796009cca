"""Per-token gradient norms ‖∇θ l_kj‖, and projections of the normalised gradients, for all labels.

Labels are taken in chunks of consecutive positions. A chunk runs the model over the prefix that its
labels can see and back-propagates one cotangent a label, so the work for m labels is close to its
floor of P·m² floating-point operations (P parameters on the backward path).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch
from haiftrace.engine.batched_pass import Pass, Reduced
from haiftrace.engine.capture import Wanted

MakePass = Callable[[Tensor, Tensor, Wanted], Pass]


@dataclass(frozen=True)
class TokenGradients:
    """What is known of every token's gradient; zero where a token is no label.

    Attributes:
        losses_BT: nats, float64.
        norms_BT: ‖∇θ l‖ over the traced parameters, float64.
        vectors_BTD: projection of ∇θ l / ‖∇θ l‖ (zero where the norm is), or None.
        dots_QBT: inner products of ∇θ l with the queries, float64, or None.
    """

    losses_BT: Tensor
    norms_BT: Tensor
    vectors_BTD: Tensor | None = None
    dots_QBT: Tensor | None = None

    @classmethod
    def joined(cls, batch: Batch, rows: Sequence[TokenGradients]) -> TokenGradients:
        """Those of each record of a batch as those of the batch."""
        vectors = [row.vectors_BTD for row in rows if row.vectors_BTD is not None]
        dots = [row.dots_QBT for row in rows if row.dots_QBT is not None]
        return cls(
            batch.padded([row.losses_BT for row in rows], along=1),
            batch.padded([row.norms_BT for row in rows], along=1),
            batch.padded(vectors, along=1) if vectors else None,
            batch.padded(dots, along=2, join=1) if dots else None,
        )


def token_gradients(
    make_pass: MakePass, batch: Batch, wanted: Wanted, chunk: Callable[[int, int], int]
) -> TokenGradients:
    """Exact token norms of a batch.

    Args:
        make_pass: makes a pass of (prefix ids, labels of its last positions, reductions).
        wanted: with a projector for `vectors_BTD`, with queries for `dots_QBT`.
        chunk: number of labels of one pass, given first label position and batch size.
    """
    losses_BT = torch.zeros(batch.ids_BT.shape, dtype=torch.float64, device=batch.ids_BT.device)
    pieces: list[Reduced] = []
    live = torch.nonzero(batch.labels_BT.any(0)).flatten().tolist()
    start, last = (live[0], live[-1]) if live else (1, 0)
    first = start
    while first <= last:
        # A label at position p is predicted from the positions before it.
        stop = min(first + chunk(first, batch.size), last + 1)
        run = make_pass(batch.ids_BT[:, : stop - 1], batch.ids_BT[:, first:stop], wanted)
        one_hot = torch.eye(stop - first, dtype=torch.float64, device=losses_BT.device)
        pieces.append(run.reduce(one_hot.unsqueeze(1).expand(-1, batch.size, -1)))
        losses_BT[:, first:stop] = run.losses_BJ
        first = stop
    losses_BT *= batch.labels_BT
    return _joined(pieces, wanted, batch, start, losses_BT)


def _joined(
    pieces: Sequence[Reduced], wanted: Wanted, batch: Batch, start: int, losses_BT: Tensor
) -> TokenGradients:
    """One reduction of consecutive labels from `start` on, at their places."""
    labels_BT = batch.labels_BT

    def placed(parts_JB: Sequence[Tensor], like_BT: Tensor) -> Tensor:
        if parts_JB:
            found = torch.cat(list(parts_JB)).transpose(0, 1)
            like_BT[:, start : start + found.shape[1]] = found
        return like_BT

    norms_BT = placed([piece.norm_NB for piece in pieces], torch.zeros_like(losses_BT)) * labels_BT
    vectors_BTD = dots_QBT = None
    if wanted.projector is not None:
        shape = (*labels_BT.shape, wanted.projector.dimension)
        zeros = torch.zeros(shape, dtype=wanted.projector.dtype, device=labels_BT.device)
        vectors = [p.projected_NBD for p in pieces if p.projected_NBD is not None]
        vectors_BTD = placed(vectors, zeros)
        vectors_BTD *= inverse_norms(norms_BT).to(vectors_BTD.dtype).unsqueeze(-1)
    if wanted.queries is not None:
        count = len(next(iter(wanted.queries.values())))
        shape = (*labels_BT.shape, count)
        zeros = torch.zeros(shape, dtype=torch.float64, device=labels_BT.device)
        dots = [p.dots_NBQ for p in pieces if p.dots_NBQ is not None]
        dots_QBT = placed(dots, zeros).movedim(-1, 0).contiguous() * labels_BT
    return TokenGradients(losses_BT, norms_BT, vectors_BTD, dots_QBT)


def inverse_norms(norms: Tensor) -> Tensor:
    """1/norm, and 0 where the norm is 0: the weight of `A(x) = x/‖x‖` with `A(0) = 0`."""
    return torch.where(norms > 0, 1.0 / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
