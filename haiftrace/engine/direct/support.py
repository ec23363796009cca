"""What the pass needs to know of a model, found by trying it (see `trial`)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


class NoDirectGradients(Exception):
    """A model's direct gradients cannot be had in one pass; says why, as the end of a sentence."""


@dataclass(frozen=True, eq=False)
class DirectSupport:
    """How a model's direct gradients are had.

    Attributes:
        projections: each attention layer's value projection.
        constants: modules that mix positions by other means than attention. What they give counts
            as a constant, as keys and values of other positions do.
        separate_head: the logits can be had of a few last hidden states at a time.
        feed_forward: branches of layers that have no attention and mix no positions.
        position_bytes: what a pass keeps of each position for its way back.
    """

    projections: tuple[nn.Module, ...]
    constants: tuple[nn.Module, ...] = ()
    separate_head: bool = False
    feed_forward: tuple[nn.Module, ...] = ()
    position_bytes: int = 0
