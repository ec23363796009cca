"""A matrix slice, the parameters of a subset of a matrix's outputs: cut out, and put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haiftrace.parameters.matrix_slice import MatrixSlice


@dataclass(frozen=True)
class OutputSlice:
    """A subset of the outputs of a matrix.

    Attributes:
        dim: the dimension of the stored matrix that its outputs are, 0 or 1.
        outputs: indices of the outputs, int64.
    """

    dim: int
    outputs: Tensor

    def of(self, matrix: Tensor) -> Tensor:
        """The slice [..., r, C] (or [..., R, c]) of matrices [..., R, C]."""
        return matrix.index_select(self.dim - 2, self.outputs)

    def of_outputs(self, delta: Tensor) -> Tensor:
        """The gradient [..., r] of the slice's outputs, from that of all outputs [..., R]."""
        return delta.index_select(-1, self.outputs)

    def size(self, matrix: Tensor) -> int:
        """Entries of the slice of a matrix."""
        return len(self.outputs) * matrix.shape[1 - self.dim]

    def within(self, values: Tensor, like: Tensor) -> Tensor:
        """The matrix with these values in the slice, zero elsewhere, of the shape of `like`."""
        return values.new_zeros(like.shape).index_copy(self.dim, self.outputs, values)


def resolved(
    keys: Sequence[str], owned: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, OutputSlice]]:
    """The parameters by key, and the slice that is traced of those that are not traced in full.

    Args:
        keys: names of parameters and of matrix slices (see `haiftrace.parameters.matrix_slice`).
        owned: the model's parameters by name.

    Raises:
        ValueError: a parameter or a slice that the model does not have, or no keys.
    """
    parameters: dict[str, Tensor] = {}
    slices: dict[str, OutputSlice] = {}
    missing = []
    for key in keys:
        matrix_slice = None if key in owned else MatrixSlice.parse(key)
        name = key if matrix_slice is None else matrix_slice.name
        if name not in owned:
            missing.append(key)
            continue
        parameters[key] = owned[name]
        if matrix_slice is not None:
            outputs = matrix_slice.outputs(tuple(owned[name].shape))
            indices = torch.tensor(outputs, device=owned[name].device)
            slices[key] = OutputSlice(matrix_slice.dim, indices)
    if missing or not parameters:
        raise ValueError(f"no such parameters: {missing[:3]}" if missing else "no parameters")
    return parameters, slices
