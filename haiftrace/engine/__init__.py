"""Gradients of a causal language model's token losses: tensors in, tensors out.

Names of tensors end in their dimensions, and docstrings use the same letters. A module whose
letters differ says so.

    B  records of a batch                N  weightings of the token losses
    T  tokens of a record, padded        Q  queries: query tokens, gradients or directions
    I  positions of a record             V  vocabulary
    J  labels: of each record after a B, R  rows of a parameter as stored
       else of the batch, by record      C  columns of it; width of a hidden state
    K  dimensions of a projection        X  any other width or count

In `direct` also, and in place of these:

    H  query heads                       E  width of a head's value
    G  key-value heads                   C  width of a head's query and key
    R  query heads of a key-value head   D  width of a value projection's input
    S  a range of rows of the attention  I  positions that these rows attend to
    L  layers                            N  labels at a time
"""

from haiftrace.engine.accumulators import Metric
from haiftrace.engine.batch import Batch, make_batch
from haiftrace.engine.batched_pass import ReducedGradients
from haiftrace.engine.curvature.ekfac import (
    AffineMap,
    Damping,
    EkfacFactors,
    InverseCurvature,
    NoFactors,
    Singular,
)
from haiftrace.engine.curvature.ekfac_factors import Fisher, FisherEstimator
from haiftrace.engine.curvature.lissa import (
    Diverged,
    LissaResult,
    inverse_product_auto,
    largest_sampled_eigenvalue,
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
from haiftrace.engine.token_norms import ReducedTokenGradients, inverse_norms

__all__ = [
    "DAMPING",
    "DIMENSION_STEP",
    "AffineMap",
    "Batch",
    "CurvatureKind",
    "Damping",
    "DirectGradients",
    "Diverged",
    "EkfacFactors",
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
    "ReducedGradients",
    "ReducedTokenGradients",
    "SecondMoments",
    "Singular",
    "Support",
    "TokenMeasures",
    "TokenSimilarity",
    "Whitening",
    "inverse_norms",
    "inverse_product_auto",
    "largest_sampled_eigenvalue",
    "make_batch",
]
