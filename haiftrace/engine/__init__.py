"""The one place where gradients are computed: tensors in, tensors out."""

from haiftrace.engine.batch import Batch, make_batch
from haiftrace.engine.batched_pass import Reduced
from haiftrace.engine.capture import Metric
from haiftrace.engine.curvature.ekfac import (
    AffineMap,
    Damping,
    Factors,
    InverseCurvature,
    NoFactors,
    Singular,
)
from haiftrace.engine.curvature.ekfac_factors import Fisher, FisherEstimator
from haiftrace.engine.curvature.lissa import (
    Diverged,
    LissaResult,
    inverse_product_auto,
    largest_of_draws,
)
from haiftrace.engine.direct import (
    DAMPING,
    DirectGradients,
    NoDirectGradients,
    SecondMoments,
    Whitening,
)
from haiftrace.engine.engine import CurvatureKind, GradientEngine
from haiftrace.engine.full_similarity import FullGradients
from haiftrace.engine.projection import DIMENSION_STEP, Projector
from haiftrace.engine.similarity import TokenMeasures, TokenSimilarity
from haiftrace.engine.support import Support
from haiftrace.engine.token_norms import TokenGradients, inverse_norms

__all__ = [
    "DAMPING",
    "DIMENSION_STEP",
    "AffineMap",
    "Batch",
    "CurvatureKind",
    "Damping",
    "DirectGradients",
    "Diverged",
    "Factors",
    "Fisher",
    "FisherEstimator",
    "FullGradients",
    "GradientEngine",
    "InverseCurvature",
    "LissaResult",
    "Metric",
    "NoDirectGradients",
    "NoFactors",
    "Projector",
    "Reduced",
    "SecondMoments",
    "Singular",
    "Support",
    "TokenGradients",
    "TokenMeasures",
    "TokenSimilarity",
    "Whitening",
    "inverse_norms",
    "inverse_product_auto",
    "largest_of_draws",
    "make_batch",
]
