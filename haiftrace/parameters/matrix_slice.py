"""Slices of a matrix parameter: those of its outputs that do one job, where a map does several.

Where query, key and value come from one matrix, a scope that means one of them means some of its
outputs. A slice is written as the matrix's name with the outputs behind it: `NAME[16:24/24]` are
outputs 16 to 23 of every 24, in a matrix that stores an output a row (`nn.Linear`), and
`NAME[:,64:96/96]` in one that stores an output a column (GPT-2's `Conv1D`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"(?P<name>.+)\[(?P<columns>:,)?(?P<start>\d+):(?P<stop>\d+)/(?P<period>\d+)\]")


@dataclass(frozen=True)
class MatrixSlice:
    """Outputs `start` to `stop` of every `period` of a matrix.

    Attributes:
        name: of the parameter.
        start, stop, period: which outputs.
        dim: dimension of the stored matrix that its outputs are, 0 or 1.
    """

    name: str
    start: int
    stop: int
    period: int
    dim: int = 0

    @classmethod
    def parse(cls, text: str) -> MatrixSlice | None:
        """Read what `str` gives; None where the text is the name of a parameter alone."""
        match = _FORM.fullmatch(text)
        if match is None:
            return None
        start, stop, period = (int(match[key]) for key in ("start", "stop", "period"))
        return cls(match["name"], start, stop, period, int(match["columns"] is not None))

    def __str__(self) -> str:
        """As `parse` reads it."""
        columns = ":," if self.dim else ""
        return f"{self.name}[{columns}{self.start}:{self.stop}/{self.period}]"

    def outputs(self, shape: tuple[int, ...]) -> list[int]:
        """Which outputs of a matrix of this shape.

        Raises:
            ValueError: the matrix has no such slice.
        """
        if len(shape) != 2 or not 0 <= self.start < self.stop <= self.period:
            raise ValueError(f"no slice of a parameter of shape {shape}: {self}")
        if shape[self.dim] % self.period:
            raise ValueError(f"no slice of {shape[self.dim]} outputs: {self}")
        return [i for i in range(shape[self.dim]) if self.start <= i % self.period < self.stop]

    def size(self, shape: tuple[int, ...]) -> int:
        """The number of its entries."""
        return len(self.outputs(shape)) * shape[1 - self.dim]


def parameter_name(key: str) -> str:
    """The parameter that a name of a parameter or of a slice belongs to."""
    matrix_slice = MatrixSlice.parse(key)
    return key if matrix_slice is None else matrix_slice.name
