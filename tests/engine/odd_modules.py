"""Modules that use their parameters in ways that no rule of the engine was made for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.tiny_models import WIDTH


def parameter(*shape: int, scale: float = 0.3) -> nn.Parameter:
    return nn.Parameter(scale * torch.randn(shape))


class Beside(nn.Module):
    """Stands in a block for its feed-forward part and adds something of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        return self.changed(hidden, self.inner(hidden))

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        raise NotImplementedError


class ScalarGate(Beside):
    """A parameter of no dimension."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.gate = nn.Parameter(torch.tensor(0.7))

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        return torch.tanh(self.gate) * output


class OneElementGate(Beside):
    """A parameter of one element, which broadcasts."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.gate = parameter(1)

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        return output + output * self.gate


class Scales(Beside):
    """A vector that scales from the left, a bias that is added, both with every use seen."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.left, self.bias = parameter(WIDTH), parameter(WIDTH)

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        return self.left * output + self.bias


class MatMul(Beside):
    """A matrix used by `@`, by `einsum` and by `torch.bmm`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.at, self.ein, self.bmm = (parameter(WIDTH, WIDTH) for _ in range(3))

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        output = output + hidden @ self.at + torch.einsum("bic,cd->bid", hidden, self.ein)
        return output + torch.bmm(hidden, self.bmm.expand(len(hidden), -1, -1))


class Reversed(Beside):
    """`nn.functional` called by keyword, on a transposed matrix and on a slice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.weight, self.bias = parameter(WIDTH, WIDTH), parameter(2 * WIDTH)

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        output = output + F.linear(bias=None, weight=self.weight, input=hidden)
        return output + F.linear(output, self.weight.T[:WIDTH], bias=self.bias[WIDTH:])


class Depthwise(Beside):
    """A causal depthwise convolution over positions."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, groups=WIDTH, padding=2)

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        mixed = self.conv(hidden.transpose(1, 2))[..., : hidden.shape[1]]
        return output + mixed.transpose(1, 2)


class UsedTwice(Beside):
    """A matrix, a scale and a norm that are each used twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.weight, self.scale = parameter(WIDTH, WIDTH), parameter(WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        inside = self.norm(F.linear(torch.tanh(F.linear(hidden, self.weight)), self.weight))
        return self.norm(output + inside * self.scale + hidden * self.scale)


class UsedInTwoWays(Beside):
    """A matrix that a linear map and a product use."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.weight = parameter(WIDTH, WIDTH)

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        return output + F.linear(hidden, self.weight) + hidden @ self.weight


class Normalised(Beside):
    """A weight that is computed from two parameters."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.weight, self.gain = parameter(WIDTH, WIDTH), parameter(WIDTH)

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        return output + F.linear(hidden, self.gain[:, None] * F.normalize(self.weight, dim=1))


class InLists(Beside):
    """Parameters that reach a function inside a list or a tuple, with a small gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.first, self.second = parameter(4), parameter(WIDTH - 4)
        self.left, self.right = parameter(WIDTH, 8), parameter(8, WIDTH)

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        output = output + 1e-3 * torch.cat([self.first, self.second])
        low_rank = torch.linalg.multi_dot((self.left, self.right))
        return output + 1e-3 * hidden @ low_rank


class InPlace(Beside):
    """Parameters that are added or written in place, and one that never is used."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.added, self.written, self.idle = (parameter(WIDTH) for _ in range(3))

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        output = output.clone()
        output.add_(self.added)
        output[:, 0] = self.written
        return output


class Residual(Beside):
    """A linear map whose output is changed in place."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.map = nn.Linear(WIDTH, WIDTH)

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        mapped = self.map(hidden)
        mapped *= 0.5
        return output + mapped


class _Product(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(hidden: Tensor, weight: Tensor) -> Tensor:
        return hidden * weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        hidden, weight = ctx.saved_tensors
        return grads[0] * weight, (grads[0] * hidden).sum((0, 1))


class CustomFunction(Beside):
    """A parameter that goes into a custom function, where nobody sees it go, and hardly counts."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.weight = parameter(WIDTH)

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        return output + 1e-3 * _Product.apply(hidden, self.weight)


class Experts(Beside):
    """Linear maps that see the tokens that the data sends them: perhaps all, perhaps none."""

    threshold = 0.0

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        flat = hidden.reshape(-1, WIDTH)
        chosen = (flat[:, 0] > self.threshold).long()
        mixed = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().flatten()
            mixed = mixed.index_add(0, rows, expert(flat[rows]))
        return output + mixed.view_as(hidden)


class AgainIfLong(Beside):
    """A linear map that is used a second time at later positions than a short trial has."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.map = nn.Linear(WIDTH, WIDTH)

    def changed(self, hidden: Tensor, output: Tensor) -> Tensor:
        mapped = self.map(hidden)
        if hidden.shape[1] > 5:
            mapped = torch.cat([mapped[:, :5], self.map(torch.tanh(mapped[:, 5:]))], 1)
        return output + mapped


UNKNOWN = (
    ScalarGate,
    OneElementGate,
    Scales,
    MatMul,
    Reversed,
    Depthwise,
    UsedTwice,
    UsedInTwoWays,
    Normalised,
    InLists,
    InPlace,
    Residual,
    CustomFunction,
    Experts,
    AgainIfLong,
)


class Lookups(nn.Module):
    """An embedding around another; `weight` is what the rest of a model asks for."""

    def __init__(self, inner: nn.Embedding) -> None:
        super().__init__()
        self.inner = inner

    @property
    def weight(self) -> nn.Parameter:
        return self.inner.weight


class TwoLookups(Lookups):
    def forward(self, ids: Tensor) -> Tensor:
        before = F.pad(self.inner(ids[:, :-1]), (0, 0, 1, 0))
        return self.inner(ids) + 0.5 * before


class Indexed(Lookups):
    def forward(self, ids: Tensor) -> Tensor:
        return self.inner.weight[ids]


class OneHot(Lookups):
    def forward(self, ids: Tensor) -> Tensor:
        weight = self.inner.weight
        return F.one_hot(ids, len(weight)).to(weight.dtype) @ weight


class FlatPositions(Lookups):
    def __init__(self, inner: nn.Embedding) -> None:
        super().__init__(inner)
        self.positions = nn.Embedding(64, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(ids) + self.positions(torch.arange(ids.shape[1]))


ODD_EMBEDDINGS = (TwoLookups, Indexed, OneHot, FlatPositions)
