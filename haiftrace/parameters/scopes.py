"""Which parameters of a model count: named scopes, or a regular expression over their names.

A named scope is a predicate over one parameter and its place in the model; a new one is an entry
in `SCOPES`. It may also say which slice of a matrix counts, by a name as `matrix_slice` has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haiftrace.errors import UsageError
from haiftrace.parameters.matrix_slice import MatrixSlice

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
        blocks: the number of transformer blocks.
        attention: it is a linear map of its block's attention.
        mlp: it is a linear map of its block's feed-forward layer.
        value: the matrix, or the slice of it, that gives the attention's values; "" without one.
    """

    name: str
    shape: tuple[int, ...]
    block: int | None
    linear_map: bool
    blocks: int = 0
    attention: bool = False
    mlp: bool = False
    value: str = ""


ADAPTER_SCOPE = "adapter"
_ADAPTER = re.compile(r"\.lora_[AB]\.")

SCOPES: dict[str, Callable[[Place], bool | str]] = {
    "linear": lambda place: place.linear_map,
    "attention": lambda place: place.attention,
    "value": lambda place: place.value,
    "mlp": lambda place: place.mlp,
    "last-half": lambda place: place.linear_map and 2 * (place.block or 0) >= place.blocks - 1,
    "adapter": lambda place: len(place.shape) == 2 and bool(_ADAPTER.search(place.name)),
    "matrices": lambda place: len(place.shape) >= 2,
    "all": lambda place: True,
}
"""linear: the matrices of the transformer blocks' linear maps (with the experts' stacked matrices
and the routers of mixture models); attention: those of query, key, value and output; value: that of
the values, or its slice where query, key and value come from one matrix; mlp: those of the
feed-forward layer; last-half: `linear` in the upper half of the blocks, of an odd number with the
middle one; adapter: the two matrices that LoRA adds to a linear map; matrices: every parameter of
two or more dimensions, embeddings and head included; all: every parameter."""

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward|fc_?(\d|in|out)|moe|expert", re.IGNORECASE)
_VALUE = re.compile(r"(v|value|values)(_?proj|_?lin|_layer)?|[wW]_?v")
_MATRICES = {"linear": "their linear maps", "last-half": "their linear maps"}


def select_parameters(model: PreTrainedModel, scope: str = DEFAULT_SCOPE) -> list[str]:
    """Names of the parameters in `scope`, in the order of `model.named_parameters()`.

    A name is that of a slice of its parameter where only that counts (see `matrix_slice`).

    Args:
        model: a causal language model; tied parameters are named once, by their first name.
        scope: a key of `SCOPES`, or a regular expression that `re.search` finds in a parameter's
            name (in any of its names, where it is tied).

    Raises:
        UsageError: where the expression is invalid or nothing is in scope.
    """
    places = list(_places(model))
    if scope in SCOPES:
        names = []
        for place in places:
            selected = SCOPES[scope](place)
            if selected:
                names.append(selected if isinstance(selected, str) else place.name)
        if not names:
            raise UsageError(
                f"No parameter of this {type(model).__name__} is in the scope {scope!r}: its "
                f"transformer blocks or {_MATRICES.get(scope, f'their {scope} matrices')} are "
                "built in a way that is not known.",
                "Use --parameters all, or a regular expression over names like "
                f"{_name_list(places)}.",
            )
        return names
    if not scope.strip():
        raise UsageError("The parameter scope is empty.", f"Choose one of {', '.join(SCOPES)}.")
    try:
        pattern = re.compile(scope)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"{scope!r} is neither a parameter scope ({', '.join(SCOPES)}) nor a valid regular "
            f"expression: {error}.",
            f"The names it is matched against look like {_name_list(places)}.",
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
            f"The names look like {_name_list(places)}.",
        )
    return [place.name for place in places if place.name in matched]


def parameter_count(model: PreTrainedModel, names: Iterable[str]) -> int:
    """How many numbers parameters and slices of them hold together, each counted once."""
    parameters = dict(model.named_parameters())
    distinct = set(names)
    count = 0
    for name in distinct:
        if name in parameters:
            count += parameters[name].numel()
        elif (matrix_slice := MatrixSlice.parse(name)) and matrix_slice.name not in distinct:
            count += matrix_slice.size(tuple(parameters[matrix_slice.name].shape))
    return count


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
        key=lambda blocks: (len(blocks), sum(value.numel() for value in blocks.parameters())),
        default=None,
    )


def _places(model: PreTrainedModel) -> Iterator[Place]:
    blocks = transformer_blocks(model)
    block_of: dict[int, int] = {}
    maps: set[int] = set()
    path_of: dict[int, str] = {}
    values: dict[int, str] = {}
    for number, block in enumerate(blocks or ()):
        block_of.update({id(value): number for value in block.parameters()})
        maps.update(id(value) for value in _linear_maps(block))
        path_of.update({id(value): path for path, value in block.named_parameters()})
        values.update(_values(block, getattr(model, "config", None)))
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is not None:
            maps.difference_update(id(value) for value in module.parameters())
    for name, value in model.named_parameters():
        linear_map, path = id(value) in maps, path_of.get(id(value), "")
        attention = linear_map and _is_attention(path)
        yield Place(
            name,
            tuple(value.shape),
            block_of.get(id(value)),
            linear_map,
            len(blocks or ()),
            attention,
            linear_map and not attention and any(map(_MLP.search, path.split("."))),
            values.get(id(value), "").format(name=name) if attention else "",
        )


def _is_attention(path: str) -> bool:
    """Whether a parameter of a block stands in its attention."""
    return any(map(_ATTENTION.search, path.split(".")[:-2]))


def _values(block: nn.Module, config: Any) -> Iterator[tuple[int, str]]:
    """The matrices that give values, by identity, and what is called so, with {name} in it."""
    from transformers.pytorch_utils import Conv1D

    for path, value in block.named_parameters():
        module, _, leaf = path.removesuffix(".weight").rpartition(".")
        if value.ndim != 2 or not path.endswith(".weight") or not _is_attention(path):
            continue
        if _VALUE.fullmatch(leaf):
            yield id(value), "{name}"
        elif leaf in _FUSED:
            dim = int(isinstance(block.get_submodule(f"{module}.{leaf}"), Conv1D))
            span = _FUSED[leaf](config.get_text_config(), value.shape[dim])
            if span is not None:
                yield id(value), str(MatrixSlice("{name}", *span, dim=dim))


def _contiguous(config: Any, width: int) -> tuple[int, int, int] | None:
    """All queries, then all keys, then all values; keys and values may have fewer heads.

    Found by what is left beside the queries, which are as wide as the attention's heads together.
    """
    heads = config.num_attention_heads
    queries = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    rest = width - queries
    return (width - rest // 2, width, width) if rest > 0 and rest % 2 == 0 else None


def _by_head(config: Any, width: int) -> tuple[int, int, int] | None:
    """Head by head its query, key and value."""
    heads = config.num_attention_heads
    fused = width % (3 * heads) == 0 and width // 3 == config.hidden_size
    return (2 * width // (3 * heads), width // heads, width // heads) if fused else None


_FUSED: dict[str, Callable[[Any, int], tuple[int, int, int] | None]] = {
    "c_attn": _contiguous,  # GPT-2 and its kin
    "qkv_proj": _contiguous,  # Phi-3 and its kin
    "Wqkv": _contiguous,  # MPT
    "query_key_value": _by_head,  # GPT-NeoX, BLOOM
}
"""How outputs stand in a fused matrix, by the name of its map: which of how many are the values."""


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


def _name_list(places: list[Place], count: int = 4) -> str:
    step = max(1, len(places) // count)
    return ", ".join(place.name for place in places[::step][:count])
