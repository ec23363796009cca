"""Kit of the LiSSA tests: dense curvatures and gradients, samples of them, exact inverses."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from haiftrace.engine import CurvatureKind, GradientEngine, Support
from haiftrace.engine.batch import make_batch
from haiftrace.engine.curvature.lissa import Product
from haiftrace.engine.jvp import Direction
from tests.engine.curvature.dense_curvature import dense_scope
from tests.oracle import TrueFloat64, flatten
from tests.tiny_models import records

BATCH = 4
"""Records of a sample, of the twelve that a tiny model has learnt."""

FORWARD = Support(batched=False, forward_mode=True)


@cache
def per_record(name: str, curvature: CurvatureKind) -> Tensor:
    """[12, P, P] dense curvature of each learnt record's mean loss."""
    chosen = dense_scope(name)
    of = chosen.gauss_newton if curvature == "gauss-newton" else chosen.hessian
    return torch.stack(
        [
            of(row, torch.full((len(row) - 1,), 1 / (len(row) - 1), dtype=torch.float64))
            for row in records(name)
        ]
    )


@cache
def query(name: str) -> Tensor:
    """[P] the gradient of the last four tokens of the first record."""
    chosen, row = dense_scope(name), records(name)[0]
    batch = make_batch([row])
    weights_BT = batch.labels_BT.double() / 4
    weights_BT[:, :-4] = 0
    with TrueFloat64():
        engine = GradientEngine(chosen.model, chosen.names, support=FORWARD)
        return flatten(engine.gradient(batch, weights_BT), chosen.names)


def split(flat: Tensor) -> dict[str, Tensor]:
    """A vector as two tensors of different shapes."""
    head, tail = flat.split([len(flat) // 3, len(flat) - len(flat) // 3])
    return {"head": head.unsqueeze(0), "tail": tail}


def join(named: Direction) -> Tensor:
    return torch.cat([named["head"].squeeze(0), named["tail"]])


def of_matrices(matrices: Sequence[Tensor], seed: str = "") -> Product:
    """Samples of matrices, in a random but fixed order."""

    def product(number: int, x: Direction) -> Direction:
        chosen = random.Random(f"draw {number} {seed}").randrange(len(matrices))
        return split(matrices[chosen] @ join(x))

    return product


def mini_batches(matrices: Tensor) -> list[Tensor]:
    """Means over `BATCH` of the records; their own mean is that of all records."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(matrices), generator=generator) for _ in range(10)]
    return [matrices[rows].mean(0) for order in orders for rows in order.split(BATCH)]


def counted(product: Product) -> tuple[Product, list[int]]:
    """The product, and the numbers of the samples that it was called with."""
    samples: list[int] = []

    def counting(number: int, x: Direction) -> Direction:
        samples.append(number)
        return product(number, x)

    return counting, samples


def exact(matrix: Tensor, damping: float, gradient: Tensor) -> Tensor:
    return torch.linalg.solve(matrix + damping * torch.eye(len(matrix)).double(), gradient)


def distance(ours: Tensor, right: Tensor) -> float:
    return float((ours - right).norm() / right.norm())


def left(matrix: Tensor, damping: float, gradient: Tensor, solution: Tensor) -> float:
    """The true residual."""
    return distance(matrix @ solution + damping * solution, gradient)


def eigenvalues(matrix: Tensor) -> tuple[float, float]:
    """The lowest and the highest."""
    spectrum = torch.linalg.eigvalsh(matrix)
    return float(spectrum[0]), float(spectrum[-1])


def symmetric(values: Sequence[float], seed: int = 0) -> Tensor:
    """A matrix of these eigenvalues along random axes."""
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    axes, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return axes @ torch.tensor(values, dtype=torch.float64).diag() @ axes.T
