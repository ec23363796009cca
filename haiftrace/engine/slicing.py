"""Some of a matrix's outputs, as tensors: cut out, and put back into their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haiftrace.parameters.matrix_slice import MatrixPart


@dataclass(frozen=True)
class Part:
    """Outputs of a matrix.

    Attributes:
        dim: of the stored matrix, which its outputs are: 0 or 1.
        outputs: which ones.
    """

    dim: int
    outputs: Tensor

    def of(self, whole: Tensor) -> Tensor:
        """The part [..., r, C] (or [..., R, c]) of matrices [..., R, C]."""
        return whole.index_select(self.dim - 2, self.outputs)

    def of_outputs(self, delta: Tensor) -> Tensor:
        """What of the gradient [..., R] of the map's output belongs to the part."""
        return delta.index_select(-1, self.outputs)

    def size(self, whole: Tensor) -> int:
        """Entries of the part of a matrix."""
        return len(self.outputs) * whole.shape[1 - self.dim]

    def within(self, part: Tensor, like: Tensor) -> Tensor:
        """The matrix with this part, zero elsewhere, of the shape of `like`."""
        return part.new_zeros(like.shape).index_copy(self.dim, self.outputs, part)


def resolved(
    keys: Sequence[str], owned: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Part]]:
    """The parameters by key, and which part of each counts where not all of it does.

    Args:
        keys: names of parameters and of parts (see `haiftrace.parameters.matrix_slice`).
        owned: the model's parameters.

    Raises:
        ValueError: a parameter or a part that the model does not have, or none at all.
    """
    parameters: dict[str, Tensor] = {}
    parts: dict[str, Part] = {}
    missing = []
    for key in keys:
        part = None if key in owned else MatrixPart.parse(key)
        name = key if part is None else part.name
        if name not in owned:
            missing.append(key)
            continue
        parameters[key] = owned[name]
        if part is not None:
            outputs = part.outputs(tuple(owned[name].shape))
            parts[key] = Part(part.dim, torch.tensor(outputs, device=owned[name].device))
    if missing or not parameters:
        raise ValueError(f"no such parameters: {missing[:3]}" if missing else "no parameters")
    return parameters, parts
