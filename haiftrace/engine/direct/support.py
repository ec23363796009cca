"""What the pass needs to know of a model, found by trying it (see `trial`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

LEAST_LAYERS = 8
"""Layers that judge, where there are so many."""


class NoDirectGradients(Exception):
    """A model's direct gradients cannot be had in one pass; says why, as the end of a sentence."""


@dataclass(frozen=True, eq=False)
class DirectSupport:
    """How a model's direct gradients are had.

    Attributes:
        projections: each attention layer's value projection, from the first layer on that is not
            skipped.
        constants: modules that mix positions by other means than attention. What they give counts
            as a constant, as keys and values of other positions do.
        separate_head: the logits can be had of a few last hidden states at a time.
        skipped: attention layers below, which the backward pass does not reach.
        feed_forward: branches of layers that have no attention and mix no positions.
        position_bytes: what a pass keeps of each position for its way back.
    """

    projections: tuple[nn.Module, ...]
    constants: tuple[nn.Module, ...] = ()
    separate_head: bool = False
    skipped: int = 0
    feed_forward: tuple[nn.Module, ...] = ()
    position_bytes: int = 0

    def upper(self) -> DirectSupport:
        """The same of the layers that judge: the upper half, and eight at least.

        The lower layers of a deep model see the words of a text more than what it says, and the
        backward pass ends above them.
        """
        count = len(self.projections)
        kept = min(count, max(LEAST_LAYERS, -(-count // 2)))
        return replace(
            self,
            projections=self.projections[count - kept :],
            skipped=self.skipped + count - kept,
            position_bytes=self.position_bytes * kept // max(1, count),
        )
