"""What a pass keeps of its way forward for the way back, and how to keep less of it.

Most of it are the insides of feed-forward parts. In a long window these are formed anew on the way
back, layer by layer, for about half a forward pass more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from haiftrace.engine.replaced_forward import replaced_forward


class KeptBytes:
    """Context in which what autograd keeps is counted, the model's own parameters apart."""

    def __init__(self, model: nn.Module) -> None:
        self._known = {value.untyped_storage().data_ptr() for value in model.parameters()}
        self.count = 0

    def __enter__(self) -> KeptBytes:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__()

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            # Held until the pass is over, so that no other takes its place.
            self._known.add(storage.data_ptr())
            self.count += storage.nbytes()
        return tensor


@contextmanager
def formed_anew(modules: Sequence[nn.Module]) -> Iterator[None]:
    """While it lasts, the modules keep nothing but what they are given."""
    anew = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    with replaced_forward({module: partial(anew, module.forward) for module in modules}):
        yield
