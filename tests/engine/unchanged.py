"""That a model, and the process, are left as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that a gradient engine might leave behind on a model or in the process."""
    return {
        "parameters": {
            name: (id(value), type(value), value.requires_grad, value.grad, value._version)
            for name, value in model.named_parameters(remove_duplicate=False)
        },
        "buffers": {name: id(value) for name, value in model.named_buffers()},
        "values": {name: value.detach().clone() for name, value in model.state_dict().items()},
        "modules": {
            name: (
                module.training,
                *(len(getattr(module, kind)) for kind in vars(module) if kind.endswith("hooks")),
                sorted(key for key in vars(module)),
            )
            for name, module in model.named_modules()
        },
        "modes": (
            len(_get_current_function_mode_stack()),
            forward_ad._current_level,
            torch.is_grad_enabled(),
        ),
    }


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Context that fails where it leaves a trace: flags, values, hooks, modes, stray tensors."""
    before = snapshot(model)
    yield
    after = snapshot(model)
    values_before, values_after = before.pop("values"), after.pop("values")
    assert before == after
    assert values_before.keys() == values_after.keys()
    for name, value in values_before.items():
        assert torch.equal(value, values_after[name]), name
