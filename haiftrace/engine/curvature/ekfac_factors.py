"""Kronecker factors of the Fisher information by two passes of ordinary backward passes.

The first pass gathers, for every affine map, the covariances of its inputs and of its output
gradients; their eigenvectors span the Kronecker eigenbasis. The second takes the mean over records
of the squared gradient in that basis: the corrected eigenvalues (George et al. 2018, algorithm 1).

Conventions, which matter for the numbers and are those of Grosse et al. 2023: a record's loss is
the sum over its labels; covariances are means over all positions of all records, the last one of a
record included, which has no label; a bias in scope is folded into the input; eigenvectors are
found in float64. Labels are the record's own (the empirical Fisher) or drawn from the model's
prediction (the true Fisher), a draw that depends on seed and record only.

Legend: B records, I positions, R outputs and C inputs of an affine map, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch, make_batch
from haiftrace.engine.batched_pass import Traced
from haiftrace.engine.capture import Capture
from haiftrace.engine.curvature.ekfac import AffineMap, Factors, NoFactors
from haiftrace.engine.losses import token_losses, widened
from haiftrace.engine.reductions import Use

Fisher = Literal["true", "empirical"]
Receive = Callable[[AffineMap, Tensor, Tensor], None]


class _Receiver:
    """A reducer that hands inputs and output gradients of every affine map to a function.

    Its leaf is there to have the backward pass reach every tap; nothing is returned for it.
    """

    def __init__(self, mask_BI1: Tensor, receive: Receive) -> None:
        self._mask_BI1 = mask_BI1
        self._receive = receive
        device = mask_BI1.device
        self.leaves = [torch.zeros(len(mask_BI1), device=device, requires_grad=True)]

    def reduce(self, uses: Sequence[Use], delta: Tensor) -> list[Tensor]:
        affine = AffineMap.of(uses)
        self._receive(affine, affine.inputs(uses) * self._mask_BI1, delta * self._mask_BI1)
        return [torch.zeros_like(self.leaves[0])]


def affine_maps(traced: Traced) -> list[AffineMap]:
    """The affine maps that the traced parameters are, each parameter in one of them.

    Raises:
        NoFactors: a traced parameter is something else (an embedding, a norm, stacked experts), or
            is used more than once in a pass.
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


def _pass(traced: Traced, batch: Batch, receive: Receive, seeds: Sequence[str] | None) -> None:
    """One forward and one backward pass of the records' summed losses.

    Args:
        receive: is given each affine map's inputs [B, I, C] and output gradients [B, I, R], zero
            at padding.
        seeds: one a record to draw its labels by; None for the labels that it has.
    """
    device = batch.ids_BT.device
    lengths = torch.tensor(batch.lengths, device=device)
    positions = torch.arange(batch.length, device=device)
    mask_BI1 = (positions < lengths.unsqueeze(1)).unsqueeze(-1)
    receiver = _Receiver(mask_BI1, receive)
    head = traced.head.weight
    watch = Capture(
        traced.parameters,
        head,
        batch.size,
        batch.length,
        receiver,
        traced.shared,
        traced.parts,
    )
    with torch.enable_grad(), watch:
        logits_BIV = traced.logits(batch.ids_BT, batch.length)[:, :-1]
    captured = watch.head
    for name in traced.parameters:
        if watch.uses[name] > 1 or name == traced.name_of(head):
            raise NoFactors(name)
    if captured is None:
        raise NoFactors("the output head")
    targets = batch.ids_BT[:, 1:]
    if seeds is not None:
        targets = _drawn(widened(logits_BIV.detach()), seeds)
    with torch.enable_grad():
        losses = token_losses(logits_BIV, targets) * batch.labels_BT[:, 1:]
        (at_logits,) = torch.autograd.grad(losses.sum(), captured.logits)
    at_hidden = at_logits @ head.detach().to(at_logits.dtype)
    torch.autograd.grad(
        captured.hidden,
        receiver.leaves,
        grad_outputs=at_hidden.to(captured.hidden.dtype),
        allow_unused=True,
    )


def _drawn(logits_BIV: Tensor, seeds: Sequence[str]) -> Tensor:
    """Labels [B, I] drawn from the predictions; a record's draw does not depend on its batch."""
    rows = []
    for logits_IV, seed in zip(logits_BIV, seeds, strict=True):
        number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little") >> 1
        generator = torch.Generator().manual_seed(number)
        # One number a position from the first on, so that padding changes nothing.
        drawn = torch.rand(len(logits_IV), generator=generator, dtype=torch.float64)
        steps_IV = torch.softmax(logits_IV.double(), -1).cumsum(-1)
        at = drawn.to(steps_IV.device).unsqueeze(-1) * steps_IV[:, -1:]
        rows.append(torch.searchsorted(steps_IV, at).squeeze(-1).clamp_max(steps_IV.shape[-1] - 1))
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
        fisher: whose labels the gradients are of.
        seed: of the drawn labels.

    Raises:
        NoFactors: a parameter in scope belongs to no plain linear map.
    """

    def __init__(self, traced: Traced, fisher: Fisher = "true", seed: int = 0) -> None:
        self.maps = affine_maps(traced)
        self._traced = traced
        self._fisher = fisher
        self._seed = seed
        self._covariances: dict[str, _Covariance] = {}
        self._bases: dict[str, tuple[Tensor, Tensor]] = {}
        self._squares: dict[str, Tensor] = {}
        self._positions = self._records = 0

    def add_covariances(self, batch: Batch, keys: Sequence[str]) -> None:
        """First pass over one batch.

        Args:
            keys: what each record's drawn labels depend on beside the seed, the same in both
                passes.
        """

        def receive(affine: AffineMap, inputs_BIC: Tensor, delta_BIR: Tensor) -> None:
            inputs, delta = inputs_BIC.flatten(0, 1), delta_BIR.flatten(0, 1)
            parts = inputs.T @ inputs, delta.T @ delta
            known = self._covariances.get(affine.weight)
            if known is None:
                inputs_CC, outputs_RR = (part.double() for part in parts)
                self._covariances[affine.weight] = _Covariance(inputs_CC, outputs_RR)
            else:
                known.inputs_CC += parts[0]
                known.outputs_RR += parts[1]

        _pass(self._traced, batch, receive, self._seeds(keys))
        self._positions += sum(batch.lengths)

    def end_covariances(self, done: Callable[[], None] = lambda: None) -> None:
        """Finds the eigenbases, in float64; what follows is the second pass.

        Args:
            done: called after each affine map, as the decompositions of a large model take long.
        """
        for affine in self.maps:
            known = self._covariances.pop(affine.weight)
            dtype = widened(self._traced.parameters[affine.weight].new_empty(0)).dtype
            left, right = (
                torch.linalg.eigh(matrix / self._positions).eigenvectors.to(dtype)
                for matrix in (known.outputs_RR, known.inputs_CC)
            )
            self._bases[affine.weight] = left, right
            shape = (len(left), len(right))
            self._squares[affine.weight] = left.new_zeros(shape, dtype=torch.float64)
            done()

    def add_eigenvalues(self, batch: Batch, keys: Sequence[str]) -> None:
        """Second pass over one batch; see `add_covariances`."""

        def receive(affine: AffineMap, inputs_BIC: Tensor, delta_BIR: Tensor) -> None:
            left, right = self._bases[affine.weight]
            squares = self._squares[affine.weight]
            rotated_BIC, delta_BIR = inputs_BIC @ right, delta_BIR @ left
            for one_IC, delta_IR in zip(rotated_BIC, delta_BIR, strict=True):
                squares += (delta_IR.T @ one_IC).square()

        _pass(self._traced, batch, receive, self._seeds(keys))
        self._records += batch.size

    def factors(self) -> dict[str, Factors]:
        """The factors by the name of their matrix, once both passes are done."""
        return {
            affine.weight: Factors(
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
