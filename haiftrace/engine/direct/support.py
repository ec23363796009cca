"""What the direct pass needs to know of a model, by a trial on it (see `trial`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

LEAST_LAYERS = 8
"""Layers whose direct gradients are taken, at least, where there are so many."""


class NoDirectGradients(Exception):
    """A model has no direct gradients; the message is the reason, as the end of a sentence."""


@dataclass(frozen=True, eq=False)
class DirectSupport:
    """What the direct pass needs to know of a model.

    Attributes:
        projections: each attention layer's value projection, from the first layer on that is not
            skipped.
        constants: modules that mix positions by other means than attention. Their outputs count as
            constants, as keys and values of other positions do.
        separate_head: the logits of a subset of positions can be computed from their last hidden
            states alone.
        skipped: number of lower attention layers, which the backward pass does not reach.
        feed_forward: branches of layers that have no attention and mix no positions.
        position_bytes: activations that a pass saves for its backward pass, a position.
        input_width: D, numbers of a value projection's input; of the widest.
    """

    projections: tuple[nn.Module, ...]
    constants: tuple[nn.Module, ...] = ()
    separate_head: bool = False
    skipped: int = 0
    feed_forward: tuple[nn.Module, ...] = ()
    position_bytes: int = 0
    input_width: int = 0

    def upper(self) -> DirectSupport:
        """The support of a pass over the upper half of the layers, and `LEAST_LAYERS` at least.

        The lower layers of a deep model encode the words of a text more than what it says, and the
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
