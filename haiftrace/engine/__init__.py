"""The one place where gradients are computed: tensors in, tensors out."""

from haiftrace.engine.backward import Reduced
from haiftrace.engine.batch import Batch, make_batch
from haiftrace.engine.engine import GradientEngine
from haiftrace.engine.projection import DIMENSION_STEP, Projector
from haiftrace.engine.support import Support
from haiftrace.engine.token_norms import TokenGradients, inverse_norms

__all__ = [
    "DIMENSION_STEP",
    "Batch",
    "GradientEngine",
    "Projector",
    "Reduced",
    "Support",
    "TokenGradients",
    "inverse_norms",
    "make_batch",
]
