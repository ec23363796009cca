"""Directional derivatives v·g_kj of all token losses of a batch, by forward-mode JVPs.

One forward pass with dual parameters gives the tangent of the logits, and with it `v·∇θ l_kj` for
every label j of every record k, at about the cost of three forward passes. Exact; needs eager
attention, whose operations all have a forward-mode rule. Several directions share the pass: values
are computed once, and each direction adds its tangents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call

from haiftrace.engine.batch import Batch
from haiftrace.engine.batched_pass import Pass
from haiftrace.engine.jvp_rules import DualMaps
from haiftrace.engine.losses import loss_tangents, token_losses
from haiftrace.engine.plain_head import HeadInput, hidden_gradients, hidden_loss_tangents
from haiftrace.engine.traced_model import TracedModel

Direction = Mapping[str, Tensor]


def forward_mode(
    traced: TracedModel, batch: Batch, directions: Sequence[Direction]
) -> tuple[Tensor, Tensor]:
    """Losses and directional derivatives of every token of a batch.

    Args:
        directions: Q directions, each a tensor of its parameter's shape by parameter name.

    Returns:
        losses [B, T] in float64 and dots [Q, B, T] in float64, zero where a token is no label.

    Raises:
        RuntimeError: an operation of this architecture has no forward-mode rule.
    """
    inputs, targets = batch.ids_BT[:, :-1], batch.ids_BT[:, 1:]
    dots_QBT = torch.zeros(len(directions), *batch.ids_BT.shape, dtype=torch.float64)
    dots_QBT = dots_QBT.to(inputs.device)
    losses_BT = dots_QBT.new_zeros(batch.ids_BT.shape)
    for row, direction in enumerate(directions):
        logits, tangents = logits_and_tangents(traced, inputs, direction)
        if row == 0:
            losses_BT[:, 1:] = token_losses(logits, targets)
        if tangents is not None:
            dots_QBT[row, :, 1:] = loss_tangents(logits, tangents, targets)
    return losses_BT * batch.labels_BT, dots_QBT * batch.labels_BT


def stacked_forward_mode(
    traced: TracedModel, batch: Batch, directions: Sequence[Direction]
) -> tuple[Tensor, Tensor]:
    """The same losses and dots as by `forward_mode`, of all directions in one pass.

    It ends before a plain head (see `plain_head`): logits are as wide as the vocabulary, and every
    direction would have tangents of them.

    Raises:
        RuntimeError: an operation of this architecture has no forward-mode or no batching rule.
    """
    inputs, targets = batch.ids_BT[:, :-1], batch.ids_BT[:, 1:]
    names = list(directions[0])
    stacked = {name: torch.stack([direction[name] for direction in directions]) for name in names}
    values = {name: parameter.detach() for name, parameter in traced.parameters.items()}
    paths = _parameter_paths(traced)
    head = HeadInput(traced.head) if traced.plain_head else None

    def outputs_of(parameters: Mapping[str, Tensor]) -> Tensor:
        with DualMaps(fused=False), head or nullcontext():
            logits: Tensor = functional_call(
                traced.model,
                {path: parameters[name] for path, name in paths.items()},
                kwargs={"input_ids": inputs, "use_cache": False},
                tie_weights=False,
            ).logits
        return logits if head is None else head.hidden

    def jvp(direction: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        tangents = {
            name: traced.widened(name, value).to(values[name].dtype)
            for name, value in direction.items()
        }
        result = torch.func.jvp(outputs_of, (values,), (tangents,))
        return result[0], result[1]

    with torch.no_grad():
        # PyTorch's annotation forgets that an output may be the same for all directions.
        out_dims: Any = (None, 0)
        outputs, tangents_Q = torch.func.vmap(jvp, out_dims=out_dims)(stacked)
        logits = outputs if head is None else traced.head(outputs)
    if head is None:
        dots = [loss_tangents(logits, tangents, targets) for tangents in tangents_Q]
    else:
        gradients = hidden_gradients(traced, logits, targets)
        dots = [hidden_loss_tangents(gradients, tangents) for tangents in tangents_Q]
    dots_QBT = torch.nn.functional.pad(torch.stack(dots), (1, 0))
    losses_BT = torch.nn.functional.pad(token_losses(logits, targets).double(), (1, 0))
    return losses_BT * batch.labels_BT, dots_QBT * batch.labels_BT


def logits_and_tangents(
    traced: TracedModel, ids_BT: Tensor, direction: Direction
) -> tuple[Tensor, Tensor | None]:
    """Logits z [B, T, V] and their tangents `J v` along a direction, in the model's precision.

    Tangents are None where the logits do not depend on the traced parameters.

    Raises:
        RuntimeError: an operation of this architecture has no forward-mode rule.
    """
    with torch.no_grad(), forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(
                parameter.detach(), traced.widened(name, direction[name]).to(parameter.dtype)
            )
            for name, parameter in traced.parameters.items()
        }
        with DualMaps():
            output = functional_call(
                traced.model,
                {path: duals[name] for path, name in _parameter_paths(traced).items()},
                kwargs={"input_ids": ids_BT, "use_cache": False},
                tie_weights=False,
            )
        logits, tangents = forward_ad.unpack_dual(output.logits)
    return logits, tangents


def _parameter_paths(traced: TracedModel) -> dict[str, str]:
    """Every path of a traced parameter, by one path of its module, with the parameter's name.

    `functional_call` given a module by two paths (a layer used twice) would not restore it.
    """
    names = {id(parameter): name for name, parameter in traced.parameters.items()}
    return {
        f"{path}.{attribute}" if path else attribute: names[id(value)]
        for path, module in traced.model.named_modules()
        for attribute, value in module.named_parameters(recurse=False, remove_duplicate=False)
        if id(value) in names
    }


def reverse_mode(run: Pass, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same losses and dots by backward passes.

    Args:
        run: a pass whose reductions are dots with the directions.
    """
    count = batch.length - 1
    losses_BT = torch.zeros(batch.ids_BT.shape, dtype=torch.float64, device=batch.ids_BT.device)
    losses_BT[:, 1:] = run.losses_BJ
    one_hot = torch.eye(count, dtype=torch.float64, device=batch.ids_BT.device)
    dots_NBQ = run.reduce(one_hot.unsqueeze(1).expand(-1, batch.size, -1)).dots_NBQ
    assert dots_NBQ is not None
    dots_QBT = torch.nn.functional.pad(dots_NBQ.permute(2, 1, 0), (1, 0))
    return losses_BT * batch.labels_BT, dots_QBT * batch.labels_BT
