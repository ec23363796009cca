"""Figure 1 of Liu and Yang (2024): where influence functions err, where truth can be computed.

Multinomial logistic regression on images of digits, by mini-batch SGD in float64. For K records the
change of the parameters that an influence function predicts for leaving the record out is compared
with training without it (same start, same batches, same denominators), and the error is set against
the norm of the record's gradient. Three predictions, each −dθ/dw_k:

- `hif`: −H⁻¹∇l_k/N at the end of training (Hessian-based; eq. 4);
- `ttif`: −Σ_t (η/B) ∇l_k(θ_t) over the steps that saw the record (training trajectory; eq. 10);
- `sgd`: the exact derivative of what SGD computed (Lemma 1, eq. 15), which is itself checked
  against finite differences of trainings with the weights 1 ± ε.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from haiftrace.bench.digits.data import Digits, load_digits
from haiftrace.bench.digits.softmax_regression import (
    Problem,
    Recipe,
    follow,
    hessian_influence,
    mean_gradient,
    record_gradients,
    sample_batches,
    train_weighted,
)
from haiftrace.bench.harness.results import WORK_NAME, check_installed, check_out, versions
from haiftrace.bench.harness.stages import Stages
from haiftrace.bench.harness.statistics import Proportion
from haiftrace.device import choose_device
from haiftrace.errors import UsageError
from haiftrace.progress import Progress

ESTIMATORS = ("hif", "ttif", "sgd")
_TENSORS = "tensors.safetensors"
_HELD_OUT = 0.2
_BOUND = 1e30

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DigitsSettings:
    """What to run.

    Attributes:
        data: files or one directory of digits; scikit-learn's where empty.
        recipe: how the regression is trained.
        records: K, how many records are left out, one at a time.
        limit: how many images to use at most; a fifth of them is held out from training.
        epsilon: ε of the finite differences.
        seed: the first seed; it fixes the split, the records and the batches.
        seeds: how many seeds, one after the other.
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    data: tuple[str, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    records: int = 100
    limit: int = 10_000
    epsilon: float = 1e-3
    seed: int = 0
    seeds: int = 1
    device: str = "auto"


@dataclass(frozen=True)
class SeedOutcome:
    """A seed's results; arrays over the K records that were left out.

    Attributes:
        seed: the seed.
        rows: position of each record in the data as it was read.
        labels: its class.
        gradient_norm: ‖∇l_k(θ_T)‖.
        change_norm: ‖Δθ‖, the true change of the parameters without the record.
        error: ‖Δ̂θ − Δθ‖ by estimator.
        cosine: cosine of Δ̂θ and Δθ by estimator.
        lemma: relative difference of Lemma 1's derivative and the finite difference.
        accuracy: of the full training, on the images held out.
        rest: norm of the full training loss's gradient where SGD ended; 0 at the optimum.
    """

    seed: int
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    gradient_norm: Floats
    change_norm: Floats
    error: Mapping[str, Floats]
    cosine: Mapping[str, Floats]
    lemma: Floats
    accuracy: Proportion
    rest: float

    def relative(self, estimator: str) -> Floats:
        """‖Δ̂θ − Δθ‖ / ‖Δθ‖: 1 is what predicting no change at all would give."""
        return self.error[estimator] / self.change_norm


@dataclass(frozen=True)
class DigitsOutcome:
    """The results of the bench.

    Attributes:
        settings: what ran.
        source: the data, for people.
        fingerprint: SHA-256 of the data.
        shape: images used for training, pixels, classes.
        by_seed: an outcome a seed.
        seconds: how long this run took.
    """

    settings: DigitsSettings
    source: str
    fingerprint: str
    shape: tuple[int, int, int]
    by_seed: tuple[SeedOutcome, ...]
    seconds: float


@dataclass(frozen=True)
class _Split:
    problem: Problem
    held_out: Problem
    batches_TB: Tensor
    followed_K: Tensor
    rows_K: NDArray[np.int64]


def run_digits(settings: DigitsSettings, out: Path, progress: Progress) -> DigitsOutcome:
    """Run the experiment; finished stages below `out` are kept and not repeated.

    Raises:
        UsageError: settings that do not fit the data, or a training that diverged.
        CorpusError: data that cannot be read.
        OutputError: `out` cannot be written or holds other things.
    """
    began = time.monotonic()
    _check(settings)
    device = choose_device(settings.device)
    check_installed("matplotlib", "pandas", "scipy")
    check_out(out)
    digits = load_digits(settings.data)
    fingerprint = digits.fingerprint
    training = _training_size(digits, settings)
    outcomes = []
    with Stages(out / WORK_NAME, versions("torch"), progress) as stages:
        for seed in range(settings.seed, settings.seed + settings.seeds):
            split = _split(digits, settings, seed, device)
            outcomes.append(_run_seed(split, settings, fingerprint, seed, stages, progress))
    return DigitsOutcome(
        settings=settings,
        source=digits.source,
        fingerprint=fingerprint,
        shape=(training, digits.features_ND.shape[1], digits.classes),
        by_seed=tuple(outcomes),
        seconds=time.monotonic() - began,
    )


def _check(settings: DigitsSettings) -> None:
    recipe = settings.recipe
    if min(recipe.steps, recipe.batch_size, settings.records, settings.seeds) < 1:
        raise UsageError(
            "--steps, --batch-size, --records and --seeds count from 1.", "Give a larger number."
        )
    if settings.seed < 0:
        raise UsageError("--seed is negative.", "Give 0 or more.")
    if not recipe.l2 > 0:
        raise UsageError(
            "--l2 must be positive: without it the Hessian of a softmax regression is singular.",
            "Use for example --l2 0.001.",
        )
    if not 0 < recipe.learning_rate * recipe.l2 < 1:
        raise UsageError(
            "--learning-rate must be positive, and times --l2 below 1.",
            "Use for example --learning-rate 0.05.",
        )
    if not 0 < settings.epsilon <= 0.1:
        raise UsageError("--epsilon must lie between 0 and 0.1.", "Use for example 0.001.")


def _training_size(digits: Digits, settings: DigitsSettings) -> int:
    used = min(len(digits.labels_N), settings.limit)
    training = used - round(_HELD_OUT * used)
    needed = max(settings.recipe.batch_size, settings.records)
    if training < needed or training == used:
        raise UsageError(
            f"{used} images leave {training} for training, and a fifth is held out; the batch"
            f" and the records need {needed}.",
            "Use more images (--limit), a smaller --batch-size or fewer --records.",
        )
    return training


def _split(digits: Digits, settings: DigitsSettings, seed: int, device: torch.device) -> _Split:
    """Training and held-out images, the batches, and the records to leave out."""
    rng = np.random.default_rng(seed)
    rows_N = rng.permutation(len(digits.labels_N))[: settings.limit]
    training = _training_size(digits, settings)
    batches_TB = sample_batches(training, settings.recipe, seed)
    # Leaving out a record that no batch held changes nothing.
    seen_N = batches_TB.unique().numpy()
    if len(seen_N) < settings.records:
        raise UsageError(
            f"{settings.recipe.steps} steps see only {len(seen_N)} records, and"
            f" {settings.records} are to be left out.",
            "Use more --steps or fewer --records.",
        )
    followed_K = np.sort(rng.choice(seen_N, settings.records, replace=False))

    def problem(rows: NDArray[np.int64]) -> Problem:
        features, labels = digits.features_ND[rows], digits.labels_N[rows]
        return Problem(
            torch.from_numpy(features).to(device),
            torch.from_numpy(labels).to(device),
            digits.classes,
        )

    return _Split(
        problem(rows_N[:training]),
        problem(rows_N[training:]),
        batches_TB.to(device),
        torch.from_numpy(followed_K).to(device),
        rows_N[followed_K],
    )


def _run_seed(
    split: _Split,
    settings: DigitsSettings,
    fingerprint: str,
    seed: int,
    stages: Stages,
    progress: Progress,
) -> SeedOutcome:
    recipe, problem, followed_K = settings.recipe, split.problem, split.followed_K
    count, device = len(followed_K), followed_K.device
    common = {
        **asdict(recipe),
        "data": fingerprint,
        "limit": settings.limit,
        "records": settings.records,
        "seed": seed,
        "device": device.type,
    }

    def tensors(
        name: str, what: str, trainings: int, make: Callable[[], dict[str, Tensor]], **more: Any
    ) -> dict[str, Tensor]:
        def write(directory: Path) -> None:
            progress.start(f"Seed {seed}: {what}", trainings * recipe.steps or None)
            result = make()
            _refuse_divergence(result)
            save_file(
                {key: value.contiguous() for key, value in result.items()}, directory / _TENSORS
            )

        kept = stages.stage(f"seed-{seed}-{name}", {**common, **more}, write)
        return load_file(kept.path / _TENSORS, device=str(device))

    def advance(steps: int) -> None:
        progress.advance(steps)

    def trained(weight: float) -> Tensor:
        weights_K = torch.full((count,), weight, dtype=torch.float64, device=device)
        return train_weighted(problem, recipe, split.batches_TB, followed_K, weights_K, advance)

    def differences() -> dict[str, Tensor]:
        e = settings.epsilon
        return {"sgd_KDC": (trained(1 + e) - trained(1 - e)) / ((1 + e) - (1 - e))}

    followed = tensors(
        "training",
        f"training, with the derivatives of {count} records",
        1,
        lambda: asdict(follow(problem, recipe, split.batches_TB, followed_K, advance)),
    )
    theta_DC = followed["theta_DC"]
    hessian = tensors(
        "hessian",
        "the Hessian and its inverse",
        0,
        lambda: {"hif_KDC": hessian_influence(problem, theta_DC, recipe.l2, followed_K)},
    )
    without = tensors(
        "retraining",
        f"training without each of {count} records",
        1,
        lambda: {"theta_KDC": trained(0.0)},
    )
    checked = tensors(
        "differences",
        "training with the weights 1 + ε and 1 - ε",
        2,
        differences,
        epsilon=settings.epsilon,
    )
    influence = {
        "hif": hessian["hif_KDC"],
        "ttif": followed["gradient_sum_KDC"],
        "sgd": followed["influence_KDC"],
    }
    change_KDC = without["theta_KDC"] - theta_DC
    right_N = (split.held_out.features_ND @ theta_DC).argmax(-1) == split.held_out.labels_N
    return SeedOutcome(
        seed=seed,
        rows=split.rows_K,
        labels=problem.labels_N[followed_K].cpu().numpy(),
        gradient_norm=_norms(record_gradients(problem, theta_DC, followed_K)),
        change_norm=_norms(change_KDC),
        error={name: _norms(-influence[name] - change_KDC) for name in ESTIMATORS},
        cosine={name: _cosines(-influence[name], change_KDC) for name in ESTIMATORS},
        lemma=_norms(influence["sgd"] - checked["sgd_KDC"]) / _norms(checked["sgd_KDC"]),
        accuracy=Proportion(int(right_N.sum()), len(right_N)),
        rest=float(mean_gradient(problem, theta_DC, recipe.l2).norm()),
    )


def _refuse_divergence(tensors: Mapping[str, Tensor]) -> None:
    # The parameters themselves stay bounded, their derivatives need not; NaN is refused too.
    if not all(bool((value.abs() < _BOUND).all()) for value in tensors.values()):
        raise UsageError("The training diverged.", "Use a smaller --learning-rate.")


def _norms(x_KDC: Tensor) -> Floats:
    return x_KDC.flatten(1).norm(dim=1).cpu().numpy()


def _cosines(x_KDC: Tensor, y_KDC: Tensor) -> Floats:
    dots_K = (x_KDC * y_KDC).flatten(1).sum(1).cpu().numpy()
    return dots_K / (_norms(x_KDC) * _norms(y_KDC))
