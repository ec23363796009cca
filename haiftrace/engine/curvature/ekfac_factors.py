"""Kronecker factors of the Fisher information, estimated by two runs over the records.

The first run sums, for every affine map, the covariances of its inputs and of its output
gradients; their eigenvectors span the Kronecker eigenbasis. The second takes the mean over records
of the squared gradient in that basis: the corrected eigenvalues (George et al. 2018, algorithm 1).

Conventions, which matter for the numbers and are those of Grosse et al. 2023: a record's loss is
the sum over its labels; covariances are means over all positions of all records, the last one of a
record included, which has no label; a bias in scope is folded into the input; eigenvectors are
computed in float64. Labels are the record's own (the empirical Fisher) or sampled from the model's
prediction (the true Fisher), a sample that depends on seed and record only.

Shapes that differ from the engine's legend: as in `ekfac`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch, make_batch
from haiftrace.engine.capture import Capture
from haiftrace.engine.curvature.ekfac import AffineMap, EkfacFactors, NoFactors
from haiftrace.engine.losses import token_losses, widened
from haiftrace.engine.reductions import Reduction
from haiftrace.engine.traced_model import TracedModel

Fisher = Literal["true", "empirical"]
Receive = Callable[[AffineMap, Tensor, Tensor], None]


class _Receiver:
    """A reducer that calls a function with the inputs and output gradients of every affine map.

    Its leaf makes the backward pass reach every tap; its gradient is zero.
    """

    def __init__(self, mask_BI1: Tensor, receive: Receive) -> None:
        self._mask_BI1 = mask_BI1
        self._receive = receive
        device = mask_BI1.device
        self.leaves = [torch.zeros(len(mask_BI1), device=device, requires_grad=True)]

    def reduce(self, reductions: Sequence[Reduction], delta: Tensor) -> list[Tensor]:
        affine = AffineMap.of(reductions)
        self._receive(affine, affine.inputs(reductions) * self._mask_BI1, delta * self._mask_BI1)
        return [torch.zeros_like(self.leaves[0])]


def affine_maps(traced: TracedModel) -> list[AffineMap]:
    """The affine maps that the traced parameters are, each parameter in one of them.

    Raises:
        NoFactors: a traced parameter is something else (an embedding, a norm, stacked experts), or
            occurs in more than one call of a pass.
    """
    maps: list[AffineMap] = []
    device = next(iter(traced.parameters.values())).device
    vocabulary = traced.model.get_input_embeddings().weight.shape[0]
    trial = make_batch([[t % vocabulary for t in (5, 6, 5, 7, 8)]], device=device)
    _pass(traced, trial, lambda affine, inputs, delta: maps.append(affine), None)
    covered = {name for affine in maps for name in (affine.weight, affine.bias)}
    for name in traced.parameters:
        if name not in covered:
            raise NoFactors(name)
    if len({affine.weight for affine in maps}) != len(maps):
        raise NoFactors(maps[0].weight)
    return maps


def _pass(traced: TracedModel, batch: Batch, receive: Receive, seeds: Sequence[str] | None) -> None:
    """One forward and one backward pass of the records' summed losses.

    Args:
        receive: is called with each affine map's inputs [B, I, C] and output gradients [B, I, R],
            zero at padding.
        seeds: one a record to sample its labels by; None for the record's own labels.

    Raises:
        NoFactors: a traced parameter belongs to no plain linear map.
    """
    device = batch.ids_BT.device
    lengths = torch.tensor(batch.lengths, device=device)
    positions = torch.arange(batch.length, device=device)
    mask_BI1 = (positions < lengths.unsqueeze(1)).unsqueeze(-1)
    receiver = _Receiver(mask_BI1, receive)
    head = traced.head.weight
    capture = Capture(
        traced.parameters,
        head,
        batch.size,
        batch.length,
        receiver,
        traced.shared,
        traced.slices,
    )
    with torch.enable_grad(), capture:
        logits_BIV = traced.logits(batch.ids_BT, batch.length)[:, :-1]
    head_call = capture.head
    for name in traced.parameters:
        if capture.call_counts[name] > 1 or name == traced.name_of(head):
            raise NoFactors(name)
    if head_call is None:
        raise NoFactors("the output head")
    targets = batch.ids_BT[:, 1:]
    if seeds is not None:
        targets = _sampled_labels(widened(logits_BIV.detach()), seeds)
    with torch.enable_grad():
        losses = token_losses(logits_BIV, targets) * batch.labels_BT[:, 1:]
        (logits_grad,) = torch.autograd.grad(losses.sum(), head_call.logits)
    hidden_grad = logits_grad @ head.detach().to(logits_grad.dtype)
    torch.autograd.grad(
        head_call.hidden,
        receiver.leaves,
        grad_outputs=hidden_grad.to(head_call.hidden.dtype),
        allow_unused=True,
    )


def _sampled_labels(logits_BIV: Tensor, seeds: Sequence[str]) -> Tensor:
    """Labels [B, I] sampled from the predictions; a record's do not depend on its batch."""
    rows = []
    for logits_IV, seed in zip(logits_BIV, seeds, strict=True):
        number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little") >> 1
        generator = torch.Generator().manual_seed(number)
        # One number a position from the first on, so that padding changes nothing.
        uniform = torch.rand(len(logits_IV), generator=generator, dtype=torch.float64)
        cumulative_IV = torch.softmax(logits_IV.double(), -1).cumsum(-1)
        quantiles = uniform.to(cumulative_IV.device).unsqueeze(-1) * cumulative_IV[:, -1:]
        labels = torch.searchsorted(cumulative_IV, quantiles).squeeze(-1)
        rows.append(labels.clamp_max(cumulative_IV.shape[-1] - 1))
    return torch.stack(rows)


@dataclass
class _Covariance:
    inputs_CC: Tensor
    outputs_RR: Tensor


class FisherEstimator:
    """Streams a corpus twice: `add_covariances` for every batch, then `add_eigenvalues`.

    Memory is that of the factors, whatever the number of records.

    Args:
        traced: the model and the parameters in scope.
        fisher: "true" for sampled labels, "empirical" for the records' own.
        seed: of the sampled labels.

    Raises:
        NoFactors: a parameter in scope belongs to no plain linear map.
    """

    def __init__(self, traced: TracedModel, fisher: Fisher = "true", seed: int = 0) -> None:
        self.maps = affine_maps(traced)
        self._traced = traced
        self._fisher = fisher
        self._seed = seed
        self._covariances: dict[str, _Covariance] = {}
        self._bases: dict[str, tuple[Tensor, Tensor]] = {}
        self._squares: dict[str, Tensor] = {}
        self._positions = self._records = 0

    def add_covariances(self, batch: Batch, keys: Sequence[str]) -> None:
        """First run, over one batch.

        Args:
            keys: what each record's sampled labels depend on beside the seed, the same in both
                runs.
        """

        def receive(affine: AffineMap, inputs_BIC: Tensor, delta_BIR: Tensor) -> None:
            inputs, delta = inputs_BIC.flatten(0, 1), delta_BIR.flatten(0, 1)
            products = inputs.T @ inputs, delta.T @ delta
            covariance = self._covariances.get(affine.weight)
            if covariance is None:
                inputs_CC, outputs_RR = (product.double() for product in products)
                self._covariances[affine.weight] = _Covariance(inputs_CC, outputs_RR)
            else:
                covariance.inputs_CC += products[0]
                covariance.outputs_RR += products[1]

        _pass(self._traced, batch, receive, self._seeds(keys))
        self._positions += sum(batch.lengths)

    def end_covariances(self, done: Callable[[], None] = lambda: None) -> None:
        """Computes the eigenbases, in float64; the second run follows.

        Args:
            done: called after each affine map, as the decompositions of a large model take long.
        """
        for affine in self.maps:
            covariance = self._covariances.pop(affine.weight)
            dtype = widened(self._traced.parameters[affine.weight].new_empty(0)).dtype
            left, right = (
                torch.linalg.eigh(matrix / self._positions).eigenvectors.to(dtype)
                for matrix in (covariance.outputs_RR, covariance.inputs_CC)
            )
            self._bases[affine.weight] = left, right
            shape = (len(left), len(right))
            self._squares[affine.weight] = left.new_zeros(shape, dtype=torch.float64)
            done()

    def add_eigenvalues(self, batch: Batch, keys: Sequence[str]) -> None:
        """Second run, over one batch; see `add_covariances`."""

        def receive(affine: AffineMap, inputs_BIC: Tensor, delta_BIR: Tensor) -> None:
            left, right = self._bases[affine.weight]
            squares = self._squares[affine.weight]
            rotated_BIC, delta_BIR = inputs_BIC @ right, delta_BIR @ left
            for rotated_IC, delta_IR in zip(rotated_BIC, delta_BIR, strict=True):
                squares += (delta_IR.T @ rotated_IC).square()

        _pass(self._traced, batch, receive, self._seeds(keys))
        self._records += batch.size

    def factors(self) -> dict[str, EkfacFactors]:
        """The Kronecker factors by the name of their matrix, once both runs are done."""
        return {
            affine.weight: EkfacFactors(
                affine,
                *self._bases[affine.weight],
                (self._squares[affine.weight] / self._records).to(
                    self._bases[affine.weight][0].dtype
                ),
            )
            for affine in self.maps
        }

    def _seeds(self, keys: Sequence[str]) -> list[str] | None:
        if self._fisher == "empirical":
            return None
        return [f"{self._seed}|{key}" for key in keys]
