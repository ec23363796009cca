"""Kronecker factors of an index's records: kept in the index, or computed for this run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.errors import IndexStoreError, UsageError
from haiftrace.methods.settings import FactorSettings
from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.store import Index, SupplementWriter

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import EkfacFactors, FisherEstimator, GradientEngine, InverseCurvature

SUPPLEMENT = "ek-fac"


class Curvature:
    """The damped inverse curvature of an index's records, made when it is first asked for.

    Args:
        how_to_keep: the command that keeps what is computed here in the index.
    """

    def __init__(
        self,
        index: Index,
        engine: GradientEngine,
        settings: FactorSettings,
        progress: Progress,
        how_to_keep: str,
    ) -> None:
        self._index = index
        self._engine = engine
        self.settings = settings
        self._progress = progress
        self._how_to_keep = how_to_keep
        self._inverse: InverseCurvature | None = None

    @property
    def inverse(self) -> InverseCurvature:
        """(H + d)⁻¹.

        Raises:
            UsageError: a parameter in scope has no factors, or the damping leaves one singular.
            IndexStoreError: the index holds factors of another checkpoint.
        """
        if self._inverse is None:
            factors = stored_factors(self._index, self.settings, self._engine)
            if factors is None:
                self._progress.say(
                    "The index holds no Kronecker factors with these settings: they are computed"
                    f" for this run. To keep them in the index: {self._how_to_keep}"
                )
                factors = computed_factors(self._index, self._engine, self.settings, self._progress)
            self._inverse = inverse_of(factors, self.settings)
        return self._inverse


def inverse_of(factors: dict[str, EkfacFactors], settings: FactorSettings) -> InverseCurvature:
    """(H + d)⁻¹ of the factors. Raises UsageError where that does not exist."""
    from haiftrace.engine import Damping, InverseCurvature, Singular

    damping = Damping(settings.damping.value, settings.damping.relative)
    try:
        return InverseCurvature(factors, damping)
    except Singular as error:
        raise UsageError(
            f"With a damping of {settings.damping} the curvature has no inverse: {error.entries:,}"
            f" of the {error.size:,} eigenvalues of {error.name} vanish.",
            "Use a positive --damping, like 0.1x (a tenth of each matrix's mean eigenvalue).",
        ) from None


def computed_factors(
    index: Index, engine: GradientEngine, settings: FactorSettings, progress: Progress
) -> dict[str, EkfacFactors]:
    """Factors by two passes over the index's records, or a seeded sample of them.

    Raises:
        UsageError: a parameter in scope belongs to no plain linear map.
    """
    estimator = _estimator(engine, settings)
    rows = _sample(len(index), settings)
    for name, add in (
        ("covariances", estimator.add_covariances),
        ("eigenvalues", estimator.add_eigenvalues),
    ):
        progress.start(f"curvature: {name}", float(len(rows)))
        for windows in window_batches(index, rows.tolist(), engine.device):
            add(batch_of(windows, engine.device), [str(window.row) for window in windows])
            progress.advance(len(windows), len(windows), token_count(windows))
        if name == "covariances":
            progress.start("curvature: eigenvectors", float(len(estimator.maps)))
            estimator.end_covariances(lambda: progress.advance(1.0))
    return estimator.factors()


def _sample(count: int, settings: FactorSettings) -> np.ndarray:
    if settings.records is None or settings.records >= count:
        return np.arange(count)
    drawn = np.random.default_rng(settings.seed).choice(count, settings.records, replace=False)
    return np.sort(drawn)


def require_factors(engine: GradientEngine, settings: FactorSettings) -> None:
    """Raises UsageError where a parameter in scope has no Kronecker factors."""
    _estimator(engine, settings)


def _estimator(engine: GradientEngine, settings: FactorSettings) -> FisherEstimator:
    from haiftrace.engine import NoFactors

    try:
        return engine.fisher(settings.fisher, settings.seed)
    except NoFactors as error:
        raise UsageError(
            f"EK-FAC's curvature is defined for linear maps only, and {error}.",
            "Index with --parameters linear for ek-fac, relatif and ahif (mixtures of experts have"
            " no Kronecker factors here), or use another method.",
        ) from None


def _fitted_to(index: Index, settings: FactorSettings) -> dict[str, object]:
    return {**settings.fitted(), "weights": index.fingerprints["weights"]}


def stored_factors(
    index: Index, settings: FactorSettings, engine: GradientEngine
) -> dict[str, EkfacFactors] | None:
    """Factors that the index holds; None where it has none with these settings.

    Raises:
        IndexStoreError: they are damaged, or another checkpoint's.
    """
    from haiftrace.engine import AffineMap, EkfacFactors

    entry = index.supplement(SUPPLEMENT)
    if entry is None:
        return None
    if entry.settings.get("weights") != index.fingerprints["weights"]:
        raise _foreign(index)
    if entry.settings != _fitted_to(index, settings):
        return None
    factors = {}
    for tensors, about in index.supplement_tensors(SUPPLEMENT):
        if about.get("weights") != index.fingerprints["weights"]:
            raise _foreign(index)
        affine = AffineMap(about["weight"], about["bias"] or None, about["transposed"] == "True")
        moved = {name: tensor.to(engine.device) for name, tensor in tensors.items()}
        factors[affine.weight] = EkfacFactors(
            affine, moved["left"], moved["right"], moved["eigenvalues"]
        )
    covered = {name for f in factors.values() for name in (f.affine.weight, f.affine.bias)}
    if not set(engine.parameters) <= covered:
        raise _foreign(index)
    return factors


def _foreign(index: Index) -> IndexStoreError:
    return IndexStoreError(
        f"The Kronecker factors in {index.path} are those of another checkpoint than the index.",
        f"Remove {index.path}/supplements and run `haiftrace index … --method ek-fac --overwrite`"
        " with the present checkpoint.",
    )


def keep_factors(
    writer: SupplementWriter,
    index: Index,
    engine: GradientEngine,
    settings: FactorSettings,
    progress: Progress,
) -> None:
    """Computes the factors and puts them into the index, a file a matrix.

    Raises:
        UsageError: there are none, or the damping leaves one singular; nothing is written then.
    """
    wanted = _fitted_to(index, settings)
    factors = stored_factors(index, settings, engine)
    if factors is not None:
        inverse_of(factors, settings)
        return
    factors = computed_factors(index, engine, settings, progress)
    inverse_of(factors, settings)
    writer.begin(SUPPLEMENT, wanted)
    writer.restart(SUPPLEMENT)
    for tensors, about in _files(factors, str(wanted["weights"])):
        writer.add_tensors(SUPPLEMENT, tensors, about)
    writer.finish(SUPPLEMENT)


def _files(
    factors: dict[str, EkfacFactors], weights: str
) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    for factor in factors.values():
        tensors = {
            "left": factor.left_RR,
            "right": factor.right_CC,
            "eigenvalues": factor.eigenvalues_RC,
        }
        about = {
            "weight": factor.affine.weight,
            "bias": factor.affine.bias or "",
            "transposed": str(factor.affine.transposed),
            "weights": weights,
        }
        yield tensors, about
