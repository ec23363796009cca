"""What methods need beyond an index's rows, kept in the index. A further supplement is an entry."""

from haiftrace.index.supplements.attif_norms import AttifNorms
from haiftrace.index.supplements.kronecker_factors import KroneckerFactors
from haiftrace.index.supplements.norms import OtherNorms, PlainNorms
from haiftrace.index.supplements.precomputation import Precomputation, Supplement

SUPPLEMENTS: tuple[Supplement, ...] = (
    PlainNorms(),
    KroneckerFactors(),
    OtherNorms(),  # under the factors, which are kept before
    AttifNorms(),
)

__all__ = ["SUPPLEMENTS", "Precomputation", "Supplement"]
