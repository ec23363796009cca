"""Which parameters of a model count: named scopes, or a regular expression over their names.

A named scope is a predicate over one parameter and its place in the model; a new one is an entry
in `SCOPES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haiftrace.errors import UsageError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

DEFAULT_SCOPE = "linear"


@dataclass(frozen=True)
class Place:
    """One parameter and where it stands.

    Attributes:
        name: as `model.named_parameters()` gives it.
        shape: of the parameter.
        block: index of its transformer block, or None outside the blocks.
        linear_map: it is the matrix (or the stacked matrices) of a linear map inside a block.
    """

    name: str
    shape: tuple[int, ...]
    block: int | None
    linear_map: bool


SCOPES: dict[str, Callable[[Place], bool]] = {
    "linear": lambda place: place.linear_map,
    "matrices": lambda place: len(place.shape) >= 2,
    "all": lambda place: True,
}
"""linear: the matrices of the transformer blocks' linear maps (with the experts' stacked matrices
and the routers of mixture models); matrices: every parameter of two or more dimensions, embeddings
and head included; all: every parameter."""


def select_parameters(model: PreTrainedModel, scope: str = DEFAULT_SCOPE) -> list[str]:
    """Names of the parameters in `scope`, in the order of `model.named_parameters()`.

    Args:
        model: a causal language model; tied parameters are named once, by their first name.
        scope: a key of `SCOPES`, or a regular expression that `re.search` finds in a parameter's
            name (in any of its names, where it is tied).

    Raises:
        UsageError: where the expression is invalid or nothing is in scope.
    """
    places = list(_places(model))
    if scope in SCOPES:
        inside = [place.name for place in places if SCOPES[scope](place)]
        if not inside:
            raise UsageError(
                f"No parameter of this {type(model).__name__} is in the scope {scope!r}: its "
                "transformer blocks or their linear maps are built in a way that is not known.",
                f"Use --parameters all, or a regular expression over names like {_few(places)}.",
            )
        return inside
    if not scope.strip():
        raise UsageError("The parameter scope is empty.", f"Choose one of {', '.join(SCOPES)}.")
    try:
        pattern = re.compile(scope)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"{scope!r} is neither a parameter scope ({', '.join(SCOPES)}) nor a valid regular "
            f"expression: {error}.",
            f"The names it is matched against look like {_few(places)}.",
        ) from None
    by_identity = {id(value): name for name, value in model.named_parameters()}
    matched = {
        by_identity[id(value)]
        for name, value in model.named_parameters(remove_duplicate=False)
        if pattern.search(name)
    }
    if not matched:
        raise UsageError(
            f"{scope!r} is neither a parameter scope ({', '.join(SCOPES)}) nor does it match the "
            "name of any parameter.",
            f"The names look like {_few(places)}.",
        )
    return [place.name for place in places if place.name in matched]


def transformer_blocks(model: PreTrainedModel) -> nn.ModuleList | None:
    """The list of the model's transformer blocks, or None where it has none.

    Found by structure, not by name: of the module lists of the base model that stand in no other
    module list (a mixture's experts may do), the longest; of several, the one with most weights.
    """
    from torch import nn

    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.base_model.named_modules():
        nested = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, nn.ModuleList) and not nested:
            lists[name] = module
    return max(
        lists.values(),
        key=lambda found: (len(found), sum(value.numel() for value in found.parameters())),
        default=None,
    )


def _places(model: PreTrainedModel) -> Iterator[Place]:
    blocks = transformer_blocks(model)
    block_of: dict[int, int] = {}
    maps: set[int] = set()
    for number, block in enumerate(blocks or ()):
        block_of.update({id(value): number for value in block.parameters()})
        maps.update(id(value) for value in _linear_maps(block))
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is not None:
            maps.difference_update(id(value) for value in module.parameters())
    for name, value in model.named_parameters():
        yield Place(name, tuple(value.shape), block_of.get(id(value)), id(value) in maps)


def _linear_maps(block: nn.Module) -> Iterator[nn.Parameter]:
    """Matrices of the linear maps in one block: dense layers, stacked experts and their router."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for module in block.modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield from (value for value in module.parameters(recurse=False) if value.ndim == 2)
        stacks: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for child in module.children():
            own = list(child.parameters(recurse=False))
            stacked = [value for value in own if _is_expert_stack(child, value)]
            stacks += stacked
            others += [] if stacked else own  # beside stacked matrices stand only their biases
        yield from stacks
        # A router is not always an nn.Linear: it may be a module of its own beside the experts,
        # with a matrix of one row an expert.
        for value in others if stacks else ():
            if value.ndim == 2 and len(value) == len(stacks[0]) and value.shape[1] > 1:
                yield value


def _is_expert_stack(module: nn.Module, value: nn.Parameter) -> bool:
    """One matrix an expert; the kernels of convolutions have three dimensions too."""
    from torch import nn

    convolution = isinstance(module, nn.Conv1d | nn.ConvTranspose1d)
    return value.ndim == 3 and min(value.shape[1:]) > 1 and not convolution


def _few(places: list[Place], count: int = 4) -> str:
    step = max(1, len(places) // count)
    return ", ".join(place.name for place in places[::step][:count])
