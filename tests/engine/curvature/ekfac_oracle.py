"""EK-FAC slowly and obviously: one position or one backward pass at a time, dense, in float64.

What it computes is written out in `DenseEkfac`. It shares no code with the engine: an affine map's
inputs and output gradients come from plain hooks, the gradients that give the eigenvalues from
autograd's own gradients of the parameters.

Legend: R outputs and C inputs of an affine map (one more with a bias), T tokens of a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

Gradient = dict[str, Tensor]
Affine = tuple[str, str | None]
"""Names of the matrix and of the bias of one affine map; None: the bias is absent or not traced."""


@dataclass(frozen=True)
class AffineFactors:
    """One affine map y = W x + b and its curvature.

    Attributes:
        weight: name of W.
        bias: name of b, where it is folded in: x is then [x; 1], and W is [W, b].
        transposed: W is stored as [inputs, outputs].
        inputs_CC: A, mean of x xᵀ over all positions of all records.
        outputs_RR: G, mean of δ δᵀ over the same positions; δ is the gradient of a record's loss
            with respect to y at one position.
        right_CC: eigenvectors of A, as columns.
        left_RR: eigenvectors of G, as columns.
        eigenvalues_RC: λ, mean over records of the squared gradient of a record's loss, rotated:
            (leftᵀ [dW, db] right)².
    """

    weight: str
    bias: str | None
    transposed: bool
    inputs_CC: Tensor
    outputs_RR: Tensor
    right_CC: Tensor
    left_RR: Tensor
    eigenvalues_RC: Tensor

    def damping(self, damping: float | None) -> float:
        """The number added to every eigenvalue; None: a tenth of their mean."""
        return 0.1 * float(self.eigenvalues_RC.mean()) if damping is None else damping

    def inverse(self, gradient: Gradient, damping: float | None) -> Gradient:
        """(H + d)⁻¹ of this map's part of a gradient, by parameter name."""
        matrix_RC = joined(gradient, self.weight, self.bias, self.transposed)
        rotated_RC = self.left_RR.T @ matrix_RC @ self.right_CC
        divided_RC = rotated_RC / (self.eigenvalues_RC + self.damping(damping))
        matrix_RC = self.left_RR @ divided_RC @ self.right_CC.T
        if self.bias is None:
            return {self.weight: matrix_RC.T if self.transposed else matrix_RC}
        weight_RC, bias_R = matrix_RC[:, :-1], matrix_RC[:, -1]
        return {self.weight: weight_RC.T if self.transposed else weight_RC, self.bias: bias_R}


@dataclass(frozen=True)
class DenseEkfac:
    """The EK-FAC approximation of a model's Fisher information over some affine maps.

    A record's loss is the sum of the cross-entropies of its labels, and the model reads all its
    tokens, the last one too: that position counts in A and G, though its output gradient is zero.

    Attributes:
        maps: in the order of the argument `affine`.
    """

    maps: tuple[AffineFactors, ...]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        affine: Sequence[Affine],
        records: Sequence[Sequence[int]],
        labels: Sequence[Sequence[int]] | None = None,
    ) -> DenseEkfac:
        """The factors on `records`.

        Args:
            model: a causal language model in float64 whose parameters require a gradient.
            affine: the maps; each is the `nn.Linear` or `Conv1D` that owns the matrix.
            records: token ids.
            labels: T-1 labels of each record; None: its own next tokens (the empirical Fisher).
                Labels drawn from the model's prediction give the true Fisher.
        """
        labels = [record[1:] for record in records] if labels is None else labels
        pairs = list(zip(records, labels, strict=True))
        modules = [_owner(model, weight) for weight, _ in affine]
        names = [name for pair in affine for name in pair if name is not None]
        flows = [_flows(model, modules, ids, own) for ids, own in pairs]
        gradients = [loss_gradient(model, names, ids, own) for ids, own in pairs]
        maps = []
        for number, (weight, bias) in enumerate(affine):
            transposed = isinstance(modules[number], Conv1D)
            inputs = [row for flow in flows for row in flow[number][0]]
            if bias is not None:
                inputs = [torch.cat([row, torch.ones_like(row[:1])]) for row in inputs]
            inputs_CC = _mean_outer(inputs)
            outputs_RR = _mean_outer([row for flow in flows for row in flow[number][1]])
            right_CC = torch.linalg.eigh(inputs_CC).eigenvectors
            left_RR = torch.linalg.eigh(outputs_RR).eigenvectors
            squares_RC = torch.zeros(len(left_RR), len(right_CC), dtype=torch.float64)
            for gradient in gradients:
                matrix_RC = joined(gradient, weight, bias, transposed)
                squares_RC += (left_RR.T @ matrix_RC @ right_CC) ** 2
            eigenvalues_RC = squares_RC / len(records)
            factors = (inputs_CC, outputs_RR, right_CC, left_RR, eigenvalues_RC)
            maps.append(AffineFactors(weight, bias, transposed, *factors))
        return cls(tuple(maps))

    @property
    def names(self) -> list[str]:
        """Of all parameters covered."""
        return [
            name for entry in self.maps for name in (entry.weight, entry.bias) if name is not None
        ]

    def inverse(self, gradient: Gradient, damping: float | None) -> Gradient:
        """(H + d)⁻¹ of a gradient over `names`, shaped as the parameters are.

        Args:
            damping: d, of every matrix; None: 0.1 times the mean of that matrix's eigenvalues.
        """
        entries: Gradient = {}
        for entry in self.maps:
            entries |= entry.inverse(gradient, damping)
        return entries

    def scores(
        self, queries: Sequence[Gradient], records: Sequence[Gradient], damping: float | None
    ) -> Tensor:
        """[Q, K]: v · (H + d)⁻¹ g of every query gradient v and every record gradient g."""
        preconditioned = [self.inverse(query, damping) for query in queries]
        return torch.tensor(
            [[dot(left, right) for right in records] for left in preconditioned],
            dtype=torch.float64,
        )


def loss_gradient(
    model: nn.Module,
    names: Sequence[str],
    ids: Sequence[int],
    labels: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
) -> Gradient:
    """Gradient in float64 of the weighted sum of a record's token losses, by one backward pass.

    Args:
        names: of the parameters.
        labels: [T-1]; None: the record's own next tokens.
        weights: [T-1] of the labels; None: ones.
    """
    parameters = dict(model.named_parameters())
    loss = _loss(model, ids, ids[1:] if labels is None else labels, weights)
    gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
    return {name: value.double() for name, value in zip(names, gradients, strict=True)}


def answer_weights(ids: Sequence[int], answer: int) -> list[float]:
    """[T-1] weights of the mean over the last `answer` labels."""
    return [0.0] * (len(ids) - 1 - answer) + [1.0 / answer] * answer


def joined(gradient: Gradient, weight: str, bias: str | None, transposed: bool) -> Tensor:
    """[R, C]: the gradient of [W, b], or of W alone."""
    matrix = gradient[weight].T if transposed else gradient[weight]
    return matrix if bias is None else torch.cat([matrix, gradient[bias][:, None]], 1)


def dot(left: Gradient, right: Gradient) -> float:
    """Inner product of two gradients over the same parameters."""
    assert left.keys() == right.keys()
    return sum(float((left[name] * right[name]).sum()) for name in left)


def _loss(
    model: nn.Module,
    ids: Sequence[int],
    labels: Sequence[int],
    weights: Sequence[float] | None = None,
) -> Tensor:
    logits = model(input_ids=torch.tensor([list(ids)])).logits[0]
    losses = [F.cross_entropy(logits[i], torch.tensor(label)) for i, label in enumerate(labels)]
    assert len(losses) == len(ids) - 1
    return sum(w * loss for w, loss in zip(weights or [1.0] * len(losses), losses, strict=True))


def _owner(model: nn.Module, weight: str) -> nn.Module:
    module = model.get_submodule(weight.rpartition(".")[0])
    assert isinstance(module, nn.Linear | Conv1D), weight
    return module


def _flows(
    model: nn.Module, modules: Sequence[nn.Module], ids: Sequence[int], labels: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Inputs [T, C] and output gradients [T, R] of every module in one pass over a record."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert module not in seen, "used twice in a pass"
        seen[module] = (inputs[0].detach(), output)

    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        loss = _loss(model, ids, labels)
    finally:
        for hook in hooks:
            hook.remove()
    outputs = [seen[module][1] for module in modules]
    gradients = torch.autograd.grad(loss, outputs)
    return [
        (seen[module][0][0].double(), gradient[0].double())
        for module, gradient in zip(modules, gradients, strict=True)
    ]


def _mean_outer(rows: Sequence[Tensor]) -> Tensor:
    total = torch.zeros(len(rows[0]), len(rows[0]), dtype=torch.float64)
    for row in rows:
        total += torch.outer(row, row)
    return total / len(rows)
