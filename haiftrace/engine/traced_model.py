"""A model and the parameters whose gradients are taken."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from haiftrace.engine.activations import elementwise_modules
from haiftrace.engine.losses import widened
from haiftrace.engine.slicing import OutputSlice


@dataclass(frozen=True)
class TracedModel:
    """A model and the parameters whose gradients are taken.

    Attributes:
        model: a causal language model in evaluation mode with eager attention.
        parameters: traced parameters by name.
        shared: see `Capture`.
        slices: of matrices that are not traced in full, by the key in `parameters`: that key's
            gradients, directions and projections are those of the slice.
        plain_head: a forward-mode pass of several directions may end before the head (see the
            module `plain_head`).
    """

    model: Any
    parameters: Mapping[str, Tensor]
    shared: frozenset[str] = frozenset()
    slices: Mapping[str, OutputSlice] = field(default_factory=dict)
    plain_head: bool = False

    @property
    def head(self) -> Any:
        """The output head, a module."""
        return self.model.get_output_embeddings()

    @cached_property
    def activations(self) -> list[Any]:
        """Modules whose derivative need not be computed for every cotangent."""
        return elementwise_modules(self.model)

    def name_of(self, parameter: Any) -> str | None:
        """The name of a traced parameter, else None."""
        return next((n for n, p in self.parameters.items() if p is parameter), None)

    def narrowed(self, name: str, gradient: Tensor) -> Tensor:
        """The traced entries of a parameter's gradient."""
        outputs = self.slices.get(name)
        return gradient if outputs is None else outputs.of(gradient)

    def widened(self, name: str, direction: Tensor) -> Tensor:
        """A direction in the parameter's full shape, zero in entries that are not traced."""
        outputs = self.slices.get(name)
        return direction if outputs is None else outputs.within(direction, self.parameters[name])

    def size(self, name: str) -> int:
        """Number of a parameter's traced entries."""
        parameter, outputs = self.parameters[name], self.slices.get(name)
        return parameter.numel() if outputs is None else outputs.size(parameter)

    def zeros(self, name: str) -> Tensor:
        """A gradient of zeros, in at least float32."""
        return torch.zeros_like(self.narrowed(name, widened(self.parameters[name].detach())))

    def logits(self, ids_BT: Tensor, keep: int) -> Tensor:
        """Logits [B, keep, V] of the last `keep` positions."""
        accepts = inspect.signature(self.model.forward).parameters
        if "logits_to_keep" in accepts:
            return self.model(input_ids=ids_BT, logits_to_keep=keep, use_cache=False).logits
        return self.model(input_ids=ids_BT, use_cache=False).logits[:, -keep:]
