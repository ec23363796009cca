"""Memory of the activations that autograd saves, and activation checkpointing.

Most of them are inside feed-forward modules. In a long window these are recomputed in the backward
pass, layer by layer, for about half a forward pass more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from haiftrace.engine.replaced_forward import replaced_forward


class SavedTensorBytes:
    """Context in which the bytes that autograd saves are counted, without the parameters.

    Attributes:
        count: bytes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._known = {value.untyped_storage().data_ptr() for value in model.parameters()}
        self.count = 0

    def __enter__(self) -> SavedTensorBytes:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__()

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            # Held until the pass is over, so that no other storage has its address.
            self._known.add(storage.data_ptr())
            self.count += storage.nbytes()
        return tensor


@contextmanager
def recomputed(modules: Sequence[nn.Module]) -> Iterator[None]:
    """While it lasts, the modules save nothing but their inputs (activation checkpointing)."""
    run = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    with replaced_forward({module: partial(run, module.forward) for module in modules}):
        yield
