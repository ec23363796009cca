"""Preconditioning of gradients by the inverse of EK-FAC, an eigenvalue-corrected Kronecker-factored
approximation of the curvature.

For one affine map y = W x + b of a model (b only where it is traced beside W) the gradient is the
matrix `G = Σ_i δ_i [x_i; 1]ᵀ`, [R, C], with the bias folded into the input as a column of ones. The
curvature is diagonal in the Kronecker eigenbasis: `H vec(G) = vec(S (λ ⊙ (Sᵀ G A)) Aᵀ)` with S and
A the eigenvectors of the covariances of δ and x and λ [R, C] (George et al. 2018; Grosse et al.
2023, eq. 20). So is its damped inverse. The factors are estimated in `ekfac_factors`.

Shapes that differ from the engine's legend: R outputs and C inputs of an affine map, however its
matrix is stored; C has one more with a bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haiftrace.engine.products import matmul, square_sum
from haiftrace.engine.reductions import MatrixReduction, Reduction, VectorReduction


class NoFactors(ValueError):
    """A parameter in scope that is no plain linear map has no Kronecker factors."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not the matrix or bias of a linear map used once in a pass")
        self.name = name


class Singular(ValueError):
    """Curvature plus damping has no inverse on one matrix.

    Attributes:
        name: of the matrix.
        entries: number of its eigenvalues that vanish beside the largest.
        size: number of its eigenvalues.
    """

    def __init__(self, name: str, entries: int, size: int) -> None:
        super().__init__(f"{entries} of {size} eigenvalues of {name} vanish")
        self.name = name
        self.entries = entries
        self.size = size


@dataclass(frozen=True)
class AffineMap:
    """The traced parameters of one affine map.

    Attributes:
        weight: name of the matrix.
        bias: name of the bias that is folded in, or None.
        transposed: the matrix is stored as [inputs, outputs].
    """

    weight: str
    bias: str | None
    transposed: bool

    @classmethod
    def of(cls, reductions: Sequence[Reduction]) -> AffineMap:
        """The affine map of one call, from the reductions of its parameters.

        Raises:
            NoFactors: the call is not that of one linear map.
        """
        matrices = [r for r in reductions if isinstance(r, MatrixReduction)]
        biases = [r for r in reductions if isinstance(r, VectorReduction) and r.factor_BIR is None]
        if len(matrices) != 1 or len(matrices) + len(biases) != len(reductions) or len(biases) > 1:
            raise NoFactors(reductions[0].name)
        bias = biases[0].name if biases else None
        return cls(matrices[0].name, bias, matrices[0].transposed)

    def inputs(self, reductions: Sequence[Reduction]) -> Tensor:
        """[B, I, C]: the map's inputs, with a column of ones for the bias."""
        (matrix,) = (r for r in reductions if isinstance(r, MatrixReduction))
        rows_BIC = matrix.inputs_BIX
        if self.bias is None:
            return rows_BIC
        return torch.cat([rows_BIC, torch.ones_like(rows_BIC[..., :1])], -1)

    def gradient_matrix(self, gradient: Mapping[str, Tensor]) -> Tensor:
        """The [R, C] gradient of the map."""
        weight = gradient[self.weight]
        matrix = weight.t() if self.transposed else weight
        if self.bias is None:
            return matrix
        return torch.cat([matrix, gradient[self.bias].unsqueeze(1)], 1)

    def gradient_by_name(self, matrix_RC: Tensor) -> dict[str, Tensor]:
        """The [R, C] gradient by parameter name, as the parameters are stored."""
        gradient = {}
        weight = matrix_RC if self.bias is None else matrix_RC[:, :-1]
        gradient[self.weight] = (weight.t() if self.transposed else weight).contiguous()
        if self.bias is not None:
            gradient[self.bias] = matrix_RC[:, -1].contiguous()
        return gradient


@dataclass(frozen=True)
class EkfacFactors:
    """The curvature of one affine map in its Kronecker eigenbasis.

    Attributes:
        affine: the map's parameters.
        left_RR: S, eigenvectors of the covariance of output gradients, as columns.
        right_CC: A, eigenvectors of the covariance of inputs, as columns.
        eigenvalues_RC: λ, mean over records of the squared gradient in that basis.
    """

    affine: AffineMap
    left_RR: Tensor
    right_CC: Tensor
    eigenvalues_RC: Tensor


@dataclass(frozen=True)
class Damping:
    """The damping of a matrix's curvature: a number added to every eigenvalue.

    Attributes:
        value: the number added, or, where `relative`, its ratio to the matrix's mean eigenvalue.
    """

    value: float = 0.1
    relative: bool = True

    def of(self, eigenvalues: Tensor) -> float:
        """The number added to these eigenvalues."""
        mean = float(eigenvalues.double().mean())
        return self.value * mean if self.relative else self.value


class InverseCurvature:
    """(H + d)⁻¹ of EK-FAC factors, a preconditioner of gradients (a `Metric`).

    Args:
        factors: Kronecker factors of every affine map in scope, by the matrix's name.
        damping: d.

    Raises:
        Singular: H + d has no inverse: no damping, and an eigenvalue that is nothing but noise.
    """

    def __init__(self, factors: Mapping[str, EkfacFactors], damping: Damping) -> None:
        self._factors = factors
        self._inverse_RC = {
            name: _inverse(name, factor.eigenvalues_RC, damping) for name, factor in factors.items()
        }

    def apply(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The preconditioned gradient (H + d)⁻¹ g by parameter name, shaped like g."""
        preconditioned: dict[str, Tensor] = {}
        for name, factor in self._factors.items():
            left, right = factor.left_RR, factor.right_CC
            matrix_RC = factor.affine.gradient_matrix(gradient).to(left.dtype)
            rotated_RC = left.T @ matrix_RC @ right * self._inverse_RC[name]
            preconditioned |= factor.affine.gradient_by_name(left @ rotated_RC @ right.T)
        return {name: preconditioned[name] for name in gradient}

    def squared_norm(self, reductions: Sequence[Reduction], delta: Tensor) -> Tensor:
        """‖(H + d)⁻¹ G‖², [..., B] in float64, of the affine map's gradient G = Σ_i δ_i x_iᵀ.

        Its eigenvalues are no Kronecker product, so G has to be formed: [..., B, R, C].
        """
        affine = AffineMap.of(reductions)
        factor = self._factors[affine.weight]
        left_BIR = matmul(delta, factor.left_RR.to(delta.dtype))
        right_BIC = matmul(affine.inputs(reductions), factor.right_CC.to(delta.dtype))
        rotated_BRC = matmul(left_BIR.transpose(-1, -2), right_BIC)
        return square_sum(rotated_BRC * self._inverse_RC[affine.weight].to(delta.dtype), 2)


def _inverse(name: str, eigenvalues_RC: Tensor, damping: Damping) -> Tensor:
    """1/(λ + d) [R, C] of the matrix `name`."""
    added = damping.of(eigenvalues_RC)
    damped_RC = eigenvalues_RC + added
    largest = float(eigenvalues_RC.max())
    # Without damping an eigenvalue below the rounding of the largest is noise, and may be zero.
    least = 0.0 if added > 0 else largest * torch.finfo(eigenvalues_RC.dtype).eps
    vanishing = int((damped_RC <= least).sum())
    if vanishing or not largest < float("inf"):
        raise Singular(name, vanishing, damped_RC.numel())
    return 1.0 / damped_RC
