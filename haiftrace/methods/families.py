"""What an influence function is made of: how it turns token dot products into a record's score.

With `d_j = u·g_kj` the exact dot products of a query vector u and token gradients, every gradient
method scores a record window by `Σ_j a_j d_j`, where the factors a_j come from norms; `a_j d_j` is
the evidence of token j, and sums to the score. The methods differ in four choices:

    preconditioner  u is the query's gradient v itself, or (H + d)⁻¹v by EK-FAC or by LiSSA
    metric          norms are those of g_kj, or of H⁻¹g_kj
    adjusted        token gradients are weighted by W(norm) (see `adjustment`), or all by 1/m
    outer           the sum is divided by its own norm, or not

Methods over the checkpoints of a training run make the same choices at every checkpoint. Lexical
methods look at the text only: they are here so that a trace shows what plain search would find.

A method is plain data. What depends on its kind is a property here, or a job of its scoring family
(`haiftrace.scoring.family`): nobody else asks which class a method has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from haiftrace.methods.adjustment import HAIF, Adjustment

IDENTITY = "identity"
"""No preconditioner: u = v; also the metric of plain gradients."""
EK_FAC = "ek-fac"
"""The preconditioned query gradient (H + d)⁻¹v, H by EK-FAC; also the metric ‖(H + d)⁻¹ ·‖."""
LISSA = "lissa"
"""The inverse-Hessian-vector product (H + λ)⁻¹v by LiSSA's stochastic Neumann series."""

Combine = Literal["sum", "positive", "max"]
COMBINES: tuple[Combine, ...] = ("sum", "positive", "max")


@dataclass(frozen=True)
class Rule:
    """How the adjusted methods weight and combine tokens.

    Attributes:
        adjustment: W of the inner A.
        at_quantile: c of a `soft:C` adjustment.
        combine: `sum` is the paper's; `positive` is Σ_j max(0, ·)/m and `max` the strongest token,
            both of u·A(g_kj), without an outer A.
    """

    adjustment: Adjustment = HAIF
    at_quantile: float = 0.0
    combine: Combine = "sum"

    def weights(self, norms: np.ndarray) -> np.ndarray:
        """W of each norm."""
        return self.adjustment.weights(norms, self.at_quantile)

    def combined(self, each: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """[T] evidence of the tokens, given each one's u·A(g_kj) and which are labels."""
        if self.combine == "positive":
            return np.maximum(each, 0.0) / max(1, int(np.count_nonzero(labels)))
        if self.combine == "max":
            strongest = int(np.argmax(np.where(labels, each, -np.inf)))
            return np.where(np.arange(len(each)) == strongest, each, 0.0)
        return each


TOKENS, MEAN, ADJUSTED = "token_norms", "mean_norm", "adjusted_norm"
"""Kinds of norms, as `WindowNorms` names them."""


class NormKind(NamedTuple):
    """One kind of norm: which, and in which metric."""

    kind: str
    metric: str


@dataclass(frozen=True)
class WindowNorms:
    """The norms of one record window of T tokens, each kind by the metric M that it is in.

    Attributes:
        labels: [T] True where the token is a label.
        token_norms: [T] ‖M g_kj‖, 0 where the token is no label.
        mean_norm: ‖M (1/m) Σ_j g_kj‖.
        adjusted_norm: ‖Σ_j A(M g_kj)‖ under the rule's adjustment.
    """

    labels: np.ndarray
    token_norms: Mapping[str, np.ndarray] = field(default_factory=dict)
    mean_norm: Mapping[str, float] = field(default_factory=dict)
    adjusted_norm: Mapping[str, float] = field(default_factory=dict)

    @property
    def label_count(self) -> int:
        """The number of labels, m."""
        return int(np.count_nonzero(self.labels))


@dataclass(frozen=True)
class Method:
    """What every method says of itself, whatever its kind.

    Attributes:
        name: as on the command line.
        summary: what it computes, with its source.
        adjusted: whether token gradients are adjusted (see `adjustment`), or all count 1/m.
        family: what scores it, as `haiftrace.scoring.families` names it.
        full_gradients: whether it takes the full gradients of tokens, a backward pass each.
        follows_run: whether it looks at the checkpoints of the training run.
        has_verdicts: whether its rankings can be evidence of the source.
        relative_margin: whether its scores are never negative, so that margins are relative.
    """

    name: str
    summary: str
    adjusted: bool = False

    family: ClassVar[str]
    full_gradients: ClassVar[bool] = False
    follows_run: ClassVar[bool] = False
    has_verdicts: ClassVar[bool] = True
    relative_margin: ClassVar[bool] = False

    @property
    def curvature(self) -> str | None:
        """The inverse curvature that it takes: EK_FAC, LISSA or none."""
        return None

    @property
    def plain_norms(self) -> bool:
        """Whether it divides by norms of gradients as they are, and by nothing else."""
        return False

    @property
    def no_calibration(self) -> str | None:
        """Why it has no null distribution; None where it has."""
        return None

    def needed_norms(self, rule: Rule) -> frozenset[NormKind]:
        """The norms of record windows at one checkpoint that it takes."""
        return frozenset()

    def score_scale(self, query_norm: float) -> float:
        """What makes a score comparable between queries, given ‖v‖."""
        return 1.0


@dataclass(frozen=True)
class GradientMethod(Method):
    """An influence function over the full gradients of one checkpoint.

    Attributes:
        preconditioner: which query vector u the token gradients are multiplied with.
        metric: of the norms that it divides by.
        outer: whether the record-side sum is divided by its norm.
        over_query_norm: whether the score is divided by ‖v‖.
    """

    preconditioner: str = IDENTITY
    metric: str = IDENTITY
    outer: bool = False
    over_query_norm: bool = False

    family: ClassVar[str] = "gradient"
    full_gradients: ClassVar[bool] = True

    @property
    def curvature(self) -> str | None:
        """The inverse curvature that it takes: EK_FAC, LISSA or none."""
        return None if self.preconditioner == IDENTITY else self.preconditioner

    @property
    def plain_norms(self) -> bool:
        """Whether it divides by norms of gradients as they are, and by nothing else."""
        return {self.metric, self.preconditioner} == {IDENTITY}

    @property
    def no_calibration(self) -> str | None:
        """Why it has no null distribution; None where it has."""
        return "it takes a series for every control" if self.preconditioner == LISSA else None

    def score_scale(self, query_norm: float) -> float:
        """What makes a score comparable between queries, given ‖v‖."""
        return 1.0 if self.over_query_norm else inverse(query_norm)

    def needed_norms(self, rule: Rule) -> frozenset[NormKind]:
        """The norms that scores and cosines take, all in the method's metric."""
        if not self.adjusted:
            return frozenset({NormKind(MEAN, self.metric)})
        kinds = (TOKENS, ADJUSTED) if rule.combine == "sum" else (TOKENS,)
        return frozenset(NormKind(kind, self.metric) for kind in kinds)

    def token_factors(self, norms: WindowNorms, rule: Rule) -> np.ndarray:
        """[T] the factors a_j of a sum over tokens, all but 1/‖v‖."""
        if self.adjusted:
            each = rule.weights(norms.token_norms[self.metric])
            return each * (inverse(norms.adjusted_norm[self.metric]) if self.outer else 1.0)
        each = norms.labels / max(1, norms.label_count)
        return each * (inverse(norms.mean_norm[self.metric]) if self.outer else 1.0)

    def evidence(
        self, dots: np.ndarray, norms: WindowNorms, query_norm: float, rule: Rule
    ) -> np.ndarray:
        """[T] each token's share of the score, which is their sum.

        Args:
            dots: [T] exact u·g_kj.
            query_norm: ‖v‖.
        """
        if self.adjusted and rule.combine != "sum":
            each = rule.weights(norms.token_norms[self.metric]) * dots
            return rule.combined(each, norms.labels)
        scale = inverse(query_norm) if self.over_query_norm else 1.0
        return self.token_factors(norms, rule) * dots * scale

    def cosine(
        self,
        score: float,
        norms: WindowNorms,
        query_norm: float,
        vector_norm: float,
        rule: Rule,
    ) -> float:
        """The cosine similarity of the query-side and the record-side vector.

        Where H⁻¹ stands on the record side (an outer norm in its metric) the query side is v, else
        it is u.

        Args:
            vector_norm: ‖u‖.
        """
        if self.outer or (self.adjusted and rule.combine != "sum"):
            length = 1.0
        elif self.adjusted:
            length = norms.adjusted_norm[self.metric]
        else:
            length = norms.mean_norm[self.metric]
        query_side = query_norm if self.metric == self.preconditioner else vector_norm
        if self.over_query_norm:
            query_side = 1.0
        return bounded(score * inverse(query_side) * inverse(length))


@dataclass(frozen=True)
class TrajectoryMethod(Method):
    """An influence function over several checkpoints θ_t of a run with learning rates η_t.

    Where it is adjusted, A is on every token gradient and on the whole sum.

    Attributes:
        last_query: the query's gradient is taken at the traced checkpoint only, not at each θ_t.
    """

    last_query: bool = False

    family: ClassVar[str] = "trajectory"
    full_gradients: ClassVar[bool] = True
    follows_run: ClassVar[bool] = True

    def score_scale(self, query_norm: float) -> float:
        """What makes a score comparable between queries, given ‖v‖."""
        return inverse(query_norm)


@dataclass(frozen=True)
class LexicalMethod(Method):
    """Search by words.

    Attributes:
        with_prompt: look for the words of the prompt too.
    """

    with_prompt: bool = False

    family: ClassVar[str] = "lexical"
    has_verdicts: ClassVar[bool] = False


@dataclass(frozen=True)
class LayerwiseMethod(Method):
    """The layerwise rule over token gradients (see `layerwise`)."""

    family: ClassVar[str] = "layerwise"
    relative_margin: ClassVar[bool] = True


def inverse(value: float) -> float:
    """1/value, and 0 of 0."""
    return 1.0 / value if value > 0 else 0.0


def bounded(cosine: float) -> float:
    """Rounding must not lead a cosine out of its range."""
    return min(1.0, max(-1.0, cosine))
