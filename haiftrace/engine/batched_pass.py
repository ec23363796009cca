"""The gradient of any weighting of a batch's token losses, reduced, for many weightings at once.

The pass runs the model once over a prefix of the records, then back-propagates activations only:
`torch.autograd.grad(..., is_grads_batched=True)` from the input h of the output head, where a
weighting of the losses is a cotangent `w_j (∂l_j/∂logits_j) W`; taps (see `capture`) reduce each
parameter's gradient on the way. One-hot weightings give per-token gradients, others record
gradients: both are this one pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from haiftrace.engine.activations import derivatives_once, elementwise_modules
from haiftrace.engine.capture import Accumulators, Capture, Wanted
from haiftrace.engine.losses import token_losses, widened
from haiftrace.engine.reductions import HeadBiasUse, HeadUse
from haiftrace.engine.slicing import Part


@dataclass(frozen=True)
class Reduced:
    """Reductions of gradients, one for each of N weightings and B records.

    Attributes:
        norm_NB: Frobenius norm over all traced parameters, float64.
        projected_NBD: random projection, or None where not asked for.
        dots_NBQ: inner products with the query gradients, float64, or None.
    """

    norm_NB: Tensor
    projected_NBD: Tensor | None = None
    dots_NBQ: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[Reduced]) -> Reduced:
        """The reductions of several batches as those of one."""
        projected = [p.projected_NBD for p in parts if p.projected_NBD is not None]
        dots = [p.dots_NBQ for p in parts if p.dots_NBQ is not None]
        return cls(
            torch.cat([p.norm_NB for p in parts], 1),
            torch.cat(projected, 1) if projected else None,
            torch.cat(dots, 1) if dots else None,
        )


class Pass(Protocol):
    """One forward pass, ready to reduce gradients of weightings of its losses."""

    losses_BJ: Tensor

    def reduce(self, weights_NBJ: Tensor) -> Reduced:
        """Reduces `∇ Σ_j w_j l_j` for N weightings."""
        ...


@dataclass(frozen=True)
class Traced:
    """A model and the parameters whose gradients count.

    Attributes:
        model: a causal language model in evaluation mode with eager attention.
        parameters: traced parameters by name.
        shared: see `Capture`.
        parts: where only a part of a matrix counts, which one, by the key in `parameters`: that
            key's gradients, directions and projections are those of the part.
        plain_head: several tangents may end before the head (see `plain_head`).
    """

    model: Any
    parameters: Mapping[str, Tensor]
    shared: frozenset[str] = frozenset()
    parts: Mapping[str, Part] = field(default_factory=dict)
    plain_head: bool = False

    @property
    def head(self) -> Any:
        return self.model.get_output_embeddings()

    @cached_property
    def activations(self) -> list[Any]:
        """Modules whose derivative need not be computed for every cotangent."""
        return elementwise_modules(self.model)

    def name_of(self, parameter: Any) -> str | None:
        return next((n for n, p in self.parameters.items() if p is parameter), None)

    def narrowed(self, name: str, gradient: Tensor) -> Tensor:
        """What of a parameter's gradient counts."""
        part = self.parts.get(name)
        return gradient if part is None else part.of(gradient)

    def widened(self, name: str, direction: Tensor) -> Tensor:
        """A direction as one of the whole parameter, zero where the parameter does not count."""
        part = self.parts.get(name)
        return direction if part is None else part.within(direction, self.parameters[name])

    def size(self, name: str) -> int:
        """Entries of a parameter that count."""
        whole, part = self.parameters[name], self.parts.get(name)
        return whole.numel() if part is None else part.size(whole)

    def zeros(self, name: str) -> Tensor:
        """A gradient that vanishes, in at least float32."""
        return torch.zeros_like(self.narrowed(name, widened(self.parameters[name].detach())))

    def logits(self, ids_BT: Tensor, keep: int) -> Tensor:
        """Logits [B, keep, V] of the last `keep` positions."""
        accepts = inspect.signature(self.model.forward).parameters
        if "logits_to_keep" in accepts:
            return self.model(input_ids=ids_BT, logits_to_keep=keep, use_cache=False).logits
        return self.model(input_ids=ids_BT, use_cache=False).logits[:, -keep:]


class BatchedPass:
    """The fast pass: ghost norms and projections from batched activation cotangents.

    Args:
        traced: model and parameters.
        ids_BT: token ids up to and including the last position that predicts a label.
        targets_BJ: the labels of the last J positions.
        wanted: reductions that `reduce` will be asked for.

    Raises:
        NeedsSingleRecord: the batch must have one record.
        RuntimeError: PyTorch cannot batch this architecture's backward pass, or the output head is
            not a plain linear map.
    """

    def __init__(self, traced: Traced, ids_BT: Tensor, targets_BJ: Tensor, wanted: Wanted) -> None:
        batch, keep = targets_BJ.shape
        self._traced = traced
        self._wanted = wanted
        head = traced.head
        weight = next(iter(traced.parameters.values()))
        dtype = widened(weight.new_empty(0)).dtype
        self._accumulators = Accumulators(batch, wanted, ids_BT.device, dtype)
        watch, logits = self._watched(ids_BT, keep, traced.shared)
        again = frozenset(name for name, count in watch.uses.items() if count > 1)
        if again - traced.shared:
            # Uses that only these tokens bring about: two taps would miss their cross term.
            watch, logits = self._watched(ids_BT, keep, traced.shared | again)
        self.uses = watch.uses
        self._embeddings = watch.embeddings
        name = traced.name_of(head.weight)
        lookups = sum(use.name == name for use, _ in watch.embeddings)
        if watch.head is None or (name is not None and watch.uses[name] > lookups):
            raise RuntimeError(
                "the output head is no plain linear map, tied to nothing but lookups"
            )
        with torch.enable_grad():
            losses = token_losses(logits, targets_BJ)
            (grads,) = torch.autograd.grad(losses.sum(), watch.head.logits)
        self.losses_BJ = losses.detach()
        self._logits_grad_BJV = grads[:, -keep:]
        self._hidden = watch.head.hidden
        self._head_uses = self._make_head_uses(head)

    def _watched(self, ids_BT: Tensor, keep: int, shared: frozenset[str]) -> tuple[Capture, Tensor]:
        traced = self._traced
        batch, positions = ids_BT.shape
        watch = Capture(
            traced.parameters,
            traced.head.weight,
            batch,
            positions,
            self._accumulators,
            shared,
            traced.parts,
        )
        with torch.enable_grad(), derivatives_once(traced.activations), watch:
            return watch, traced.logits(ids_BT, keep)

    def _make_head_uses(self, head: Any) -> list[HeadUse | HeadBiasUse]:
        grads = widened(self._logits_grad_BJV)
        hidden = widened(self._hidden.detach()[:, -grads.shape[1] :])
        uses: list[HeadUse | HeadBiasUse] = []
        if (name := self._traced.name_of(head.weight)) is not None:
            uses.append(HeadUse(name, hidden, grads))
        bias = getattr(head, "bias", None)
        if bias is not None and (name := self._traced.name_of(bias)) is not None:
            uses.append(HeadBiasUse(name, grads))
        return uses

    def _cotangents(self, weights_NBJ: Tensor) -> Tensor:
        """[N, *h.shape]: each weighting's gradient at the input of the head."""
        grads = self._logits_grad_BJV
        at_hidden_BJC = grads @ self._traced.head.weight.detach().to(grads.dtype)
        weighted = weights_NBJ.to(grads.dtype).unsqueeze(-1) * at_hidden_BJC
        before = self._hidden.shape[1] - grads.shape[1]
        if before:
            weighted = torch.nn.functional.pad(weighted, (0, 0, before, 0))
        return weighted.to(self._hidden.dtype)

    def reduce(self, weights_NBJ: Tensor) -> Reduced:
        leaves = self._accumulators.leaves
        looked_up = [leaf for _, leaf in self._embeddings]
        grads = torch.autograd.grad(
            self._hidden,
            [*leaves, *looked_up],
            grad_outputs=self._cotangents(weights_NBJ),
            is_grads_batched=True,
            retain_graph=True,
            allow_unused=True,
        )
        count = weights_NBJ.shape[0]
        totals = [
            torch.zeros(count, *leaf.shape, dtype=leaf.dtype, device=leaf.device)
            if grad is None
            else grad
            for leaf, grad in zip(leaves, grads, strict=False)
        ]
        for use, delta in self._lookups(grads[len(leaves) :]):
            self._add(totals, self._accumulators.reduce([use], delta))
        for head_use in self._head_uses:
            self._add(totals, self._accumulators.reduce([head_use], weights_NBJ))
            for use, delta in self._lookups(grads[len(leaves) :]):
                if use.name == head_use.name and isinstance(head_use, HeadUse):
                    totals[0] = totals[0] + 2 * head_use.tied_cross(weights_NBJ, use, delta)
        return as_reduced(totals, self._wanted)

    def _lookups(self, grads: tuple[Tensor | None, ...]) -> list[tuple[Any, Tensor]]:
        return [
            (use, widened(grad.reshape(*grad.shape[:2], -1, grad.shape[-1])))
            for (use, _), grad in zip(self._embeddings, grads, strict=True)
            if grad is not None
        ]

    @staticmethod
    def _add(totals: list[Tensor], parts: list[Tensor]) -> None:
        for slot, part in enumerate(parts):
            totals[slot] = totals[slot] + part


def as_reduced(totals: list[Tensor], wanted: Wanted) -> Reduced:
    """Names the totals of squared norm, projection and dots, in the accumulators' order."""
    rest = iter(totals[1:])
    return Reduced(
        norm_NB=totals[0].clamp_min(0.0).sqrt(),
        projected_NBD=next(rest) if wanted.projector is not None else None,
        dots_NBQ=next(rest) if wanted.queries is not None else None,
    )
