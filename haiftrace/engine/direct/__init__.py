"""Direct value gradients: one forward and one backward pass a record, whatever its length.

The formulas are in `factors`, the shape letters in `haiftrace.engine`.
"""

from haiftrace.engine.direct.gradients import DirectGradients, DirectQueries
from haiftrace.engine.direct.support import NoDirectGradients
from haiftrace.engine.direct.whitening import DAMPING, SecondMoments, Whitening

__all__ = [
    "DAMPING",
    "DirectGradients",
    "DirectQueries",
    "NoDirectGradients",
    "SecondMoments",
    "Whitening",
]
