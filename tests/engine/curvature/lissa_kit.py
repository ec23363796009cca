"""What the tests of LiSSA share: dense curvatures and gradients, draws of them, exact inverses."""

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
from tests.engine.curvature.dense_curvature import few
from tests.oracle import TrueFloat64, flatten
from tests.tiny_models import records

BATCH = 4
"""Records of a draw, of the twelve that a tiny model has learnt."""

FORWARD = Support(batched=False, forward_mode=True)


@cache
def per_record(name: str, curvature: CurvatureKind) -> Tensor:
    """[12, P, P] dense curvature of each learnt record's mean loss."""
    chosen = few(name)
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
    chosen, row = few(name), records(name)[0]
    batch = make_batch([row])
    weights_BT = batch.labels_BT.double() / 4
    weights_BT[:, :-4] = 0
    with TrueFloat64():
        engine = GradientEngine(chosen.model, chosen.names, support=FORWARD)
        return flatten(engine.gradient(batch, weights_BT), chosen.names)


def split(flat: Tensor) -> dict[str, Tensor]:
    """A vector in two parts of different shapes."""
    head, tail = flat.split([len(flat) // 3, len(flat) - len(flat) // 3])
    return {"head": head.unsqueeze(0), "tail": tail}


def join(parts: Direction) -> Tensor:
    return torch.cat([parts["head"].squeeze(0), parts["tail"]])


def of_matrices(matrices: Sequence[Tensor], seed: str = "") -> Product:
    """Draws of some matrices, in a random but given order."""

    def product(draw: int, x: Direction) -> Direction:
        chosen = random.Random(f"draw {draw} {seed}").randrange(len(matrices))
        return split(matrices[chosen] @ join(x))

    return product


def mini_batches(matrices: Tensor) -> list[Tensor]:
    """Means over `BATCH` of the records; their own mean is that of all records."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(matrices), generator=generator) for _ in range(10)]
    return [matrices[part].mean(0) for order in orders for part in order.split(BATCH)]


def counted(product: Product) -> tuple[Product, list[int]]:
    """The product, and the draws that it has been asked for."""
    draws: list[int] = []

    def counting(draw: int, x: Direction) -> Direction:
        draws.append(draw)
        return product(draw, x)

    return counting, draws


def exact(matrix: Tensor, damping: float, gradient: Tensor) -> Tensor:
    return torch.linalg.solve(matrix + damping * torch.eye(len(matrix)).double(), gradient)


def distance(ours: Tensor, right: Tensor) -> float:
    return float((ours - right).norm() / right.norm())


def left(matrix: Tensor, damping: float, gradient: Tensor, solution: Tensor) -> float:
    """The true residual."""
    return distance(matrix @ solution + damping * solution, gradient)


def eigenvalues(matrix: Tensor) -> tuple[float, float]:
    """The lowest and the highest."""
    found = torch.linalg.eigvalsh(matrix)
    return float(found[0]), float(found[-1])


def symmetric(values: Sequence[float], seed: int = 0) -> Tensor:
    """A matrix of these eigenvalues along random axes."""
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    axes, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return axes @ torch.tensor(values, dtype=torch.float64).diag() @ axes.T
