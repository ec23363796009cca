"""Multinomial logistic regression by mini-batch SGD in float64, for many runs at once.

Shapes: N records, D features, C classes, T steps, B records of a batch, K followed records, each
with a run or a column of its own; P = D·C parameters θ [D, C], without a bias.

The loss of a batch is `(1/B) Σ_b w_b l_b(θ) + (λ/2)‖θ‖²`: a record's weight w changes neither the
denominator nor the regularisation, so w = 0 is training without the record. λ must be positive:
adding one vector to all classes changes no loss, hence the Hessian without λ is singular.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Advance = Callable[[int], None]
"""Called with the number of steps since the last call."""

_STEPS_PER_REPORT = 50


@dataclass(frozen=True)
class Recipe:
    """How the regression is trained: from θ = 0, with a constant learning rate.

    Attributes:
        steps: T.
        batch_size: B, records of a step; an epoch is a new order of all records, its last
            N mod B records left out.
        learning_rate: η.
        l2: λ of (λ/2)‖θ‖², positive.
    """

    steps: int = 5000
    batch_size: int = 50
    learning_rate: float = 0.05
    l2: float = 0.01


@dataclass(frozen=True)
class Problem:
    """Training data: features_ND (float64) and labels_N (int64, 0..C−1), on one device."""

    features_ND: Tensor
    labels_N: Tensor
    classes: int

    def one_hot(self, rows_B: Tensor) -> Tensor:
        """Labels of the records `rows_B` as [B, C] of zeros and ones."""
        hot_BC = torch.nn.functional.one_hot(self.labels_N[rows_B], self.classes)
        return hot_BC.to(self.features_ND.dtype)

    def residuals(self, rows_B: Tensor, theta_DC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features [B, D], probabilities p [B, C] and p − y [B, C], with ∇l_b = x_b (p − y)_bᵀ."""
        x_BD = self.features_ND[rows_B]
        p_BC = torch.softmax(x_BD @ theta_DC, dim=-1)
        return x_BD, p_BC, p_BC - self.one_hot(rows_B)


@dataclass(frozen=True)
class SgdDerivatives:
    """The end of an SGD run and its derivatives with respect to record weights (Lemma 1).

    Attributes:
        theta_DC: the parameters after T steps.
        influence_KDC: I = dθ_T/dw_k, the exact derivative with respect to the record's weight.
        gradient_sum_KDC: −Σ_t (η/B) ∇l_k(θ_t) over the steps whose batch held the record:
            the same with every Hessian left out.
    """

    theta_DC: Tensor
    influence_KDC: Tensor
    gradient_sum_KDC: Tensor


def sample_batches(records: int, recipe: Recipe, seed: int) -> Tensor:
    """Which records make up each step's batch, [T, B] int64; no record twice in an epoch."""
    assert recipe.batch_size <= records
    generator = torch.Generator().manual_seed(seed)
    an_epoch = records // recipe.batch_size
    epochs = [
        torch.randperm(records, generator=generator)[: an_epoch * recipe.batch_size]
        for _ in range(-(-recipe.steps // an_epoch))
    ]
    return torch.cat(epochs).view(-1, recipe.batch_size)[: recipe.steps]


def train_weighted(
    problem: Problem,
    recipe: Recipe,
    batches_TB: Tensor,
    followed_K: Tensor,
    weights_K: Tensor,
    advance: Advance,
) -> Tensor:
    """K trainings at once: θ_T [K, D, C], run k with the loss weight w_k on its record.

    Args:
        problem: the training data.
        recipe: how to train.
        batches_TB: the batches, the same for every run.
        followed_K: record of each run.
        weights_K: its weight; 1 is training as it was, 0 is training without the record.
        advance: called with the finished steps.
    """
    features_ND = problem.features_ND
    shape = (features_ND.shape[1], len(followed_K), problem.classes)
    theta_DKC = features_ND.new_zeros(shape)
    theta_Dx = theta_DKC.view(shape[0], -1)  # all runs are one matrix product
    extra_K = (weights_K - 1).to(features_ND)
    column_N = _columns(problem, followed_K)
    for step, rows_B in enumerate(batches_TB):
        x_BD = features_ND[rows_B]
        residual_BKC = (x_BD @ theta_Dx).view(len(rows_B), *shape[1:]).softmax(-1)
        residual_BKC -= problem.one_hot(rows_B)[:, None]
        b, k = _hits(column_N, rows_B)
        residual_BKC[b, k] += extra_K[k, None] * residual_BKC[b, k]
        _descend(theta_Dx, x_BD, residual_BKC.view(len(rows_B), -1), recipe)
        _report(advance, step, recipe)
    return theta_DKC.transpose(0, 1).contiguous()


def follow(
    problem: Problem, recipe: Recipe, batches_TB: Tensor, followed_K: Tensor, advance: Advance
) -> SgdDerivatives:
    """Train once and carry the derivatives with respect to K records' weights along.

    Lemma 1 (Liu and Yang 2024, eq. 15) as a recursion:
    `I_{t+1} = (1 − η H_t) I_t − η 1[k ∈ B_t] ∇l_k(θ_t)/B`, with H_t the Hessian of the batch's
    loss, λ included.
    """
    features_ND = problem.features_ND
    shape = (features_ND.shape[1], len(followed_K), problem.classes)
    theta_DC = features_ND.new_zeros(shape[0], problem.classes)
    influence_DKC = features_ND.new_zeros(shape)
    influence_Dx = influence_DKC.view(shape[0], -1)
    sum_KDC = features_ND.new_zeros(shape[1], shape[0], shape[2])
    column_N = _columns(problem, followed_K)
    rate = recipe.learning_rate / recipe.batch_size
    for step, rows_B in enumerate(batches_TB):
        x_BD, p_BC, residual_BC = problem.residuals(rows_B, theta_DC)
        moved_BKC = (x_BD @ influence_Dx).view(len(rows_B), *shape[1:])
        # The derivative of p − y along each column: (diag p − p pᵀ) xᵀI.
        turned_BKC = moved_BKC.mul_(p_BC[:, None])
        turned_BKC -= turned_BKC.sum(-1, keepdim=True) * p_BC[:, None]
        b, k = _hits(column_N, rows_B)
        turned_BKC[b, k] += residual_BC[b]
        sum_KDC[k] -= rate * x_BD[b][:, :, None] * residual_BC[b][:, None]
        _descend(influence_Dx, x_BD, turned_BKC.view(len(rows_B), -1), recipe)
        _descend(theta_DC, x_BD, residual_BC, recipe)
        _report(advance, step, recipe)
    return SgdDerivatives(theta_DC, influence_DKC.transpose(0, 1).contiguous(), sum_KDC)


def record_gradients(problem: Problem, theta_DC: Tensor, records_K: Tensor) -> Tensor:
    """∇l_k(θ) [K, D, C] of single records, without the regularisation."""
    x_KD, _, residual_KC = problem.residuals(records_K, theta_DC)
    return x_KD[:, :, None] * residual_KC[:, None]


def mean_gradient(problem: Problem, theta_DC: Tensor, l2: float) -> Tensor:
    """The gradient [D, C] of the mean loss over all records, regularisation included."""
    every_N = torch.arange(len(problem.labels_N), device=theta_DC.device)
    x_ND, _, residual_NC = problem.residuals(every_N, theta_DC)
    return x_ND.T @ residual_NC / len(every_N) + l2 * theta_DC


def hessian(problem: Problem, theta_DC: Tensor, l2: float) -> Tensor:
    """H [P, P] of the mean loss over all records, λ included; parameters in θ[D, C]'s order."""
    x_ND = problem.features_ND
    p_NC = torch.softmax(x_ND @ theta_DC, dim=-1)
    d, c = theta_DC.shape
    h_DCDC = x_ND.new_zeros(d, c, d, c)
    for i in range(c):
        for j in range(i, c):
            curvature_N = p_NC[:, i] * (float(i == j) - p_NC[:, j])
            block_DD = x_ND.T @ (x_ND * (curvature_N / len(x_ND))[:, None])
            h_DCDC[:, i, :, j] = block_DD
            h_DCDC[:, j, :, i] = block_DD
    h_PP = h_DCDC.view(d * c, d * c)
    h_PP.diagonal().add_(l2)
    return h_PP


def hessian_influence(problem: Problem, theta_DC: Tensor, l2: float, records_K: Tensor) -> Tensor:
    """−H⁻¹∇l_k/N [K, D, C]: the derivative of the optimum with respect to a record's weight.

    Koh and Liang 2017; Liu and Yang 2024 (eq. 4). It takes θ for the optimum and forgets how SGD
    came there.
    """
    gradient_KP = record_gradients(problem, theta_DC, records_K).flatten(1)
    factor_PP = torch.linalg.cholesky(hessian(problem, theta_DC, l2))
    solved_PK = torch.cholesky_solve(gradient_KP.T, factor_PP)
    return -solved_PK.T.reshape(-1, *theta_DC.shape) / len(problem.labels_N)


def _descend(theta_Dx: Tensor, x_BD: Tensor, residual_Bx: Tensor, recipe: Recipe) -> None:
    """θ ← (1 − ηλ) θ − (η/B) Xᵀ R, in place."""
    shrink = 1 - recipe.learning_rate * recipe.l2
    theta_Dx.addmm_(
        x_BD.T, residual_Bx, beta=shrink, alpha=-recipe.learning_rate / recipe.batch_size
    )


def _columns(problem: Problem, followed_K: Tensor) -> Tensor:
    """For each record of the data the column that follows it, −1 for none."""
    assert len(followed_K.unique()) == len(followed_K)
    column_N = torch.full_like(problem.labels_N, -1)
    column_N[followed_K] = torch.arange(len(followed_K), device=column_N.device)
    return column_N


def _hits(column_N: Tensor, rows_B: Tensor) -> tuple[Tensor, Tensor]:
    """Places in the batch that hold followed records, and their columns."""
    column_B = column_N[rows_B]
    (place,) = torch.nonzero(column_B >= 0, as_tuple=True)
    return place, column_B[place]


def _report(advance: Advance, step: int, recipe: Recipe) -> None:
    done = step + 1
    if done % _STEPS_PER_REPORT == 0 or done == recipe.steps:
        advance(done % _STEPS_PER_REPORT or _STEPS_PER_REPORT)
