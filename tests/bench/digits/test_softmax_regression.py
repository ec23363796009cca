"""Batched SGD, Lemma 1's recursion, Hessian and its influence against automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from haiftrace.bench.digits.softmax_regression import (
    Problem,
    Recipe,
    follow,
    hessian,
    hessian_influence,
    mean_gradient,
    record_gradients,
    sample_batches,
    train_weighted,
)
from tests.kit import close

RECORDS, FEATURES, CLASSES = 23, 5, 3
RECIPE = Recipe(steps=37, batch_size=6, learning_rate=0.2, l2=0.03)
FOLLOWED = torch.tensor([2, 7, 11, 19])


def quiet(steps: int) -> None:
    pass


@pytest.fixture(scope="module")
def problem() -> Problem:
    generator = torch.Generator().manual_seed(1)
    x_ND = torch.rand(RECORDS, FEATURES, generator=generator, dtype=torch.float64)
    labels_N = torch.randint(CLASSES, (RECORDS,), generator=generator)
    return Problem(x_ND, labels_N, CLASSES)


@pytest.fixture(scope="module")
def batches() -> torch.Tensor:
    return sample_batches(RECORDS, RECIPE, seed=4)


def loss_of(problem, theta_DC, rows_B, weights_B, l2):
    """(1/B) Σ w_b l_b + (λ/2)‖θ‖², by torch's own cross-entropy."""
    logits_BC = problem.features_ND[rows_B] @ theta_DC
    losses_B = cross_entropy(logits_BC, problem.labels_N[rows_B], reduction="none")
    return (weights_B * losses_B).sum() / len(rows_B) + l2 / 2 * (theta_DC**2).sum()


def unrolled(problem, batches_TB, weights_N):
    """θ_0 … θ_T by a plain loop with automatic gradients, differentiable in the weights."""
    theta_DC = torch.zeros(FEATURES, CLASSES, dtype=torch.float64, requires_grad=True)
    thetas = [theta_DC]
    for rows_B in batches_TB:
        loss = loss_of(problem, theta_DC, rows_B, weights_N[rows_B], RECIPE.l2)
        (gradient_DC,) = torch.autograd.grad(loss, theta_DC, create_graph=True)
        theta_DC = theta_DC - RECIPE.learning_rate * gradient_DC
        thetas.append(theta_DC)
    return thetas


def test_batches_hold_no_record_twice_in_an_epoch_and_follow_the_seed(batches):
    assert batches.shape == (37, 6)
    for epoch in batches[:36].split(3):  # 23 // 6 steps an epoch
        assert len(epoch.unique()) == 18
    assert torch.equal(batches, sample_batches(RECORDS, RECIPE, seed=4))
    assert not torch.equal(batches, sample_batches(RECORDS, RECIPE, seed=5))


@pytest.mark.parametrize("weight", [0.0, 1.0, 1.7])
def test_weighted_trainings_are_those_of_a_plain_loop(problem, batches, weight):
    ours_KDC = train_weighted(problem, RECIPE, batches, FOLLOWED, torch.full((4,), weight), quiet)
    for k, record in enumerate(FOLLOWED):
        weights_N = torch.ones(RECORDS, dtype=torch.float64)
        weights_N[record] = torch.tensor(weight)  # float32, as it was given
        close(ours_KDC[k], unrolled(problem, batches, weights_N)[-1].detach(), 1e-12)


def test_weight_zero_is_training_on_data_without_the_record(problem, batches):
    """Whatever its label says, a record of weight 0 changes nothing."""
    weights_K = torch.zeros(1, dtype=torch.float64)
    ours = train_weighted(problem, RECIPE, batches, FOLLOWED[:1], weights_K, quiet)
    labels_N = problem.labels_N.clone()
    labels_N[2] = (labels_N[2] + 1) % CLASSES
    other = Problem(problem.features_ND, labels_N, CLASSES)
    close(train_weighted(other, RECIPE, batches, FOLLOWED[:1], weights_K, quiet), ours, 1e-15)


def test_lemma_1_is_the_derivative_through_the_unrolled_training(problem, batches):
    trajectory = follow(problem, RECIPE, batches, FOLLOWED, quiet)
    weights_N = torch.ones(RECORDS, dtype=torch.float64, requires_grad=True)
    thetas = unrolled(problem, batches, weights_N)
    close(trajectory.theta_DC, thetas[-1].detach(), 1e-12)
    derivative_DCN = torch.stack(
        [torch.autograd.grad(x, weights_N, retain_graph=True)[0] for x in thetas[-1].flatten()]
    )
    exact_KDC = derivative_DCN[:, FOLLOWED].T.reshape(4, FEATURES, CLASSES)
    close(trajectory.influence_KDC, exact_KDC, 1e-11)


def test_lemma_1_agrees_with_finite_differences(problem, batches):
    trajectory = follow(problem, RECIPE, batches, FOLLOWED, quiet)
    up, down = (
        train_weighted(
            problem, RECIPE, batches, FOLLOWED, torch.full((4,), w, dtype=torch.float64), quiet
        )
        for w in (1 + 1e-4, 1 - 1e-4)
    )
    close((up - down) / 2e-4, trajectory.influence_KDC, 1e-8)


def test_the_trajectory_sum_leaves_the_hessians_out(problem, batches):
    trajectory = follow(problem, RECIPE, batches, FOLLOWED, quiet)
    thetas = unrolled(problem, batches, torch.ones(RECORDS, dtype=torch.float64))
    for k, record in enumerate(FOLLOWED):
        total_DC = torch.zeros(FEATURES, CLASSES, dtype=torch.float64)
        for rows_B, theta_DC in zip(batches, thetas[:-1], strict=True):
            if record in rows_B:
                loss = loss_of(problem, theta_DC, record[None], torch.ones(1), 0.0)
                (gradient_DC,) = torch.autograd.grad(loss, theta_DC)
                total_DC -= RECIPE.learning_rate / RECIPE.batch_size * gradient_DC
        close(trajectory.gradient_sum_KDC[k], total_DC, 1e-12)


def test_gradients_and_hessian_are_those_of_autograd(problem):
    theta_DC = torch.randn(FEATURES, CLASSES, dtype=torch.float64)
    every_N, ones_N = torch.arange(RECORDS), torch.ones(RECORDS, dtype=torch.float64)

    def mean(theta_P):
        return loss_of(problem, theta_P.view(FEATURES, CLASSES), every_N, ones_N, RECIPE.l2)

    exact_PP = torch.autograd.functional.hessian(mean, theta_DC.flatten())
    close(hessian(problem, theta_DC, RECIPE.l2), exact_PP, 1e-13)
    exact_P = torch.autograd.functional.jacobian(mean, theta_DC.flatten())
    close(mean_gradient(problem, theta_DC, RECIPE.l2).flatten(), exact_P, 1e-13)
    for k, record in enumerate(FOLLOWED):
        exact_DC = torch.autograd.functional.jacobian(
            lambda theta, row=record: loss_of(problem, theta, row[None], torch.ones(1), 0.0),
            theta_DC,
        )
        close(record_gradients(problem, theta_DC, FOLLOWED)[k], exact_DC, 1e-13)


def optimum(problem: Problem, weights_N: torch.Tensor) -> torch.Tensor:
    """θ at the minimum of the weighted mean loss, by Newton's method with autograd's Hessian."""
    theta_P = torch.zeros(FEATURES * CLASSES, dtype=torch.float64)
    every_N = torch.arange(RECORDS)

    def mean(theta_P):
        theta_DC = theta_P.view(FEATURES, CLASSES)
        return loss_of(problem, theta_DC, every_N, weights_N, RECIPE.l2)

    for _ in range(30):
        gradient_P = torch.autograd.functional.jacobian(mean, theta_P)
        curvature_PP = torch.autograd.functional.hessian(mean, theta_P)
        theta_P = theta_P - torch.linalg.solve(curvature_PP, gradient_P)
    return theta_P.view(FEATURES, CLASSES)


def test_the_hessian_based_influence_is_the_derivative_of_the_optimum(problem):
    ones_N = torch.ones(RECORDS, dtype=torch.float64)
    influence_KDC = hessian_influence(problem, optimum(problem, ones_N), RECIPE.l2, FOLLOWED)
    for k, record in enumerate(FOLLOWED):
        step_N = 1e-4 * (torch.arange(RECORDS) == record)
        up, down = optimum(problem, ones_N + step_N), optimum(problem, ones_N - step_N)
        close((up - down) / 2e-4, influence_KDC[k], 1e-7)


def test_long_training_brings_the_exact_derivative_to_the_hessian_based_one(problem):
    """Full batches and many steps: SGD is gradient descent, and both are the optimum's."""
    recipe = Recipe(steps=4000, batch_size=RECORDS, learning_rate=0.5, l2=0.03)
    steps_done: list[int] = []
    batches_TB = sample_batches(RECORDS, recipe, seed=0)
    trajectory = follow(problem, recipe, batches_TB, FOLLOWED, steps_done.append)
    influence_KDC = hessian_influence(problem, trajectory.theta_DC, recipe.l2, FOLLOWED)
    close(trajectory.influence_KDC, influence_KDC, 1e-9)
    assert sum(steps_done) == 4000
