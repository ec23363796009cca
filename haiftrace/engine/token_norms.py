"""Per-token gradient norms ‖∇θ l_kj‖, and projections of the normalised gradients, for all labels.

Labels are taken in chunks of consecutive positions. A chunk runs the model over the prefix that its
labels can see and back-propagates one cotangent a label, so the work for m labels is close to its
floor of P·m² floating-point operations (P parameters on the backward path).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from haiftrace.engine.backward import Pass
from haiftrace.engine.batch import Batch
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
    norms_BT = torch.zeros_like(losses_BT)
    vectors: list[Tensor] = []
    dots: list[Tensor] = []
    live = torch.nonzero(batch.labels_BT.any(0)).flatten().tolist()
    start, last = (live[0], live[-1]) if live else (1, 0)
    first = start
    while first <= last:
        # A label at position p is predicted from the positions before it.
        stop = min(first + chunk(first, batch.size), last + 1)
        run = make_pass(batch.ids_BT[:, : stop - 1], batch.ids_BT[:, first:stop], wanted)
        one_hot = torch.eye(stop - first, dtype=torch.float64, device=losses_BT.device)
        reduced = run.reduce(one_hot.unsqueeze(1).expand(-1, batch.size, -1))
        losses_BT[:, first:stop] = run.losses_BJ
        norms_BT[:, first:stop] = reduced.norm_NB.T
        if reduced.projected_NBD is not None:
            vectors.append(reduced.projected_NBD.transpose(0, 1))
        if reduced.dots_NBQ is not None:
            dots.append(reduced.dots_NBQ.permute(2, 1, 0))
        first = stop
    labels_BT = batch.labels_BT
    norms_BT = norms_BT * labels_BT
    vectors_BTD = dots_QBT = None
    if wanted.projector is not None:
        shape = (*labels_BT.shape, wanted.projector.dimension)
        vectors_BTD = torch.zeros(shape, dtype=wanted.projector.dtype, device=labels_BT.device)
        if vectors:
            found = torch.cat(vectors, 1)
            vectors_BTD[:, start : start + found.shape[1]] = found
        vectors_BTD *= inverse_norms(norms_BT).to(vectors_BTD.dtype).unsqueeze(-1)
    if wanted.queries is not None:
        count = len(next(iter(wanted.queries.values())))
        dots_QBT = torch.zeros(count, *labels_BT.shape, dtype=torch.float64)
        dots_QBT = dots_QBT.to(labels_BT.device)
        if dots:
            products = torch.cat(dots, 2)
            dots_QBT[:, :, start : start + products.shape[2]] = products
        dots_QBT *= labels_BT
    return TokenGradients(losses_BT * labels_BT, norms_BT, vectors_BTD, dots_QBT)


def inverse_norms(norms: Tensor) -> Tensor:
    """1/norm, and 0 where the norm is 0: the weight of `A(x) = x/‖x‖` with `A(0) = 0`."""
    return torch.where(norms > 0, 1.0 / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
