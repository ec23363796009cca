"""Watches a forward pass and places, at every use of a traced parameter, a tap on its gradient.

A tap is the identity in the forward pass. In the backward pass it reduces the gradient that flows
through it (see `uses`) and returns the reduction as the "gradient" of an accumulator leaf. So one
`torch.autograd.grad` of the accumulators, with many batched cotangents, yields the reductions of
many losses, summed over all parameters, and holds one place's gradients at a time.

The watch is on functions that receive a parameter, not on module classes: a subclassed, shared or
unknown module is handled by what it computes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from haiftrace.engine.losses import widened
from haiftrace.engine.projection import Projector
from haiftrace.engine.reductions import EmbeddingUse, MatrixUse, Use, VectorUse, WholeUse
from haiftrace.engine.slicing import Part


class NeedsSingleRecord(Exception):
    """A parameter's use can be resolved by record only when there is one record in the batch."""


class Metric(Protocol):
    """A linear map M of gradients whose norm ‖M G‖ is wanted in place of ‖G‖ (see `curvature`)."""

    def squared_norm(self, uses: Sequence[Use], delta: Tensor) -> Tensor:
        """‖M G‖², [..., B] in float64, of the gradients of one place's parameters together."""
        ...

    def apply(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """M G of a whole gradient by parameter name."""
        ...


@dataclass(frozen=True)
class Wanted:
    """What to reduce the gradients to: squared norms always; projections and dots where given.

    Attributes:
        metric: to have ‖M G‖ for the norms; projections and dots stay those of G.
        projector: to have projections.
        queries: query gradients [Q, *parameter] by parameter name, to have dots with them.
        few: there are far fewer weightings than tokens, so that forming a gradient once and
            meeting it with every query costs less than meeting every token's input with them.
    """

    projector: Projector | None = None
    queries: Mapping[str, Tensor] | None = None
    few: bool = False
    metric: Metric | None = None


class Reducer(Protocol):
    """What the taps hand the gradients to; the leaves receive what it returns."""

    leaves: list[Tensor]

    def reduce(self, uses: Sequence[Use], delta: Tensor) -> list[Tensor]:
        """The reductions of one place, where `uses` share an output gradient, as leaves stand."""
        ...


class Accumulators:
    """Leaves whose "gradients" are the reductions, one row a record of the batch."""

    def __init__(
        self, batch: int, wanted: Wanted, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.wanted = wanted
        self.leaves = [torch.zeros(batch, dtype=torch.float64, device=device, requires_grad=True)]
        if wanted.projector is not None:
            shape = (batch, wanted.projector.dimension)
            self.leaves.append(torch.zeros(shape, dtype=dtype, device=device, requires_grad=True))
        if wanted.queries is not None:
            count = next(iter(wanted.queries.values())).shape[0]
            zeros = torch.zeros(batch, count, dtype=torch.float64, device=device)
            self.leaves.append(zeros.requires_grad_())

    def reduce(self, uses: Sequence[Use], delta: Tensor) -> list[Tensor]:
        """The reductions of one place, in the order of the leaves."""
        each = [self._reduce(use, delta) for use in uses]
        total = [sum(parts[1:], start=parts[0]) for parts in zip(*each, strict=True)]
        if self.wanted.metric is not None:
            total[0] = self.wanted.metric.squared_norm(uses, delta)
        return total

    def _reduce(self, use: Use, delta: Tensor) -> list[Tensor]:
        measured = self.wanted.metric is not None
        reduced = [self.leaves[0].detach() if measured else use.squared_norm(delta)]
        if self.wanted.projector is not None:
            reduced.append(use.projection(delta, self.wanted.projector).to(self.leaves[1].dtype))
        if self.wanted.queries is not None:
            queries = self.wanted.queries[use.name]
            if self.wanted.few and isinstance(use, MatrixUse):
                reduced.append(use.formed_dots(delta, queries))
            else:
                reduced.append(use.dots(delta, queries))
        return reduced


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, output: Tensor, reduce: Callable[[Tensor], list[Tensor]], *leaves: Tensor
    ) -> Tensor:
        ctx.reduce = reduce
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return grads[0], None, *ctx.reduce(grads[0])


@dataclass
class Head:
    """The output head as it was called: input h [B, J, C] and raw logits [B, J, V], a leaf."""

    hidden: Tensor
    logits: Tensor


class Capture(TorchFunctionMode):
    """Context in which one forward pass of a causal model is run over a batch of records.

    Args:
        parameters: the traced parameters by name.
        head: weight of the output head; its call is cut out of the graph (see `HeadUse`).
        batch: number of records.
        positions: number of tokens of each.
        accumulators: where the taps deliver.
        shared: names of parameters that are used more than once in a pass, other than a matrix tied
            between embedding and head.
        parts: of which parameters a part counts only, by the same keys.

    Raises:
        NeedsSingleRecord: from the forward pass, where the batch must be of one record.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        head: Tensor,
        batch: int,
        positions: int,
        accumulators: Reducer,
        shared: frozenset[str] = frozenset(),
        parts: Mapping[str, Part] | None = None,
    ) -> None:
        super().__init__()
        self._parts = parts or {}
        self._names: dict[int, str] = {}
        self._part_names: dict[int, list[str]] = {}
        for name, parameter in parameters.items():
            if name in self._parts:
                self._part_names.setdefault(id(parameter), []).append(name)
            else:
                self._names[id(parameter)] = name
        self._head_weight = head
        self._batch = batch
        self._positions = positions
        self._accumulators = accumulators
        self._shared = shared
        self._whole: dict[str, Tensor] = {}
        self.uses: Counter[str] = Counter()
        self.embeddings: list[tuple[EmbeddingUse, Tensor]] = []
        self.head: Head | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        handler = _HANDLERS.get(getattr(func, "__name__", ""))
        if handler is not None:
            result = handler(self, func, args, kwargs)
            if result is not None:
                return result
        if any(self._traced_in(a) for a in (*args, *kwargs.values())):
            return self._generic(func, args, kwargs)
        return func(*args, **kwargs)

    # The pieces that the handlers are made of.

    def name_of(self, value: Any) -> str | None:
        """The name of a traced parameter that may be resolved at this use, else None."""
        return None if self.is_shared(value) else self._names.get(id(value))

    def is_shared(self, *values: Any) -> bool:
        """Whether any of these is a parameter whose uses have to be observed together."""
        return any(name in self._shared for value in values for name in self._keys(value))

    def parts_of(self, value: Any) -> list[str]:
        """The keys of the traced parts of a matrix."""
        return self._part_names.get(id(value), [])

    def _keys(self, value: Any) -> list[str]:
        whole = self._names.get(id(value))
        return [*([] if whole is None else [whole]), *self.parts_of(value)]

    def rows(self, tensor: Tensor) -> Tensor:
        """[B, I, X] of a tensor whose leading dimensions are the records' positions in order."""
        self._check_rows(tensor)
        return tensor.reshape(self._batch, -1, tensor.shape[-1])

    def _check_rows(self, tensor: Tensor) -> None:
        # A flat tensor may hold some of the tokens only (those of one expert): no telling whose.
        step = self._batch * (self._positions if tensor.ndim <= 2 else 1)
        if self._batch > 1 and tensor.shape[0] % step:
            raise NeedsSingleRecord

    def tap(self, output: Tensor, *uses: Use) -> Tensor:
        """The output, with the reductions of these uses taken from its gradient."""
        self._check_rows(output)
        for use in uses:
            self.uses[use.name] += 1

        # Not a method of self, nor may it hold the graph: autograd could never free the cycle.
        accumulators, batch = self._accumulators, self._batch

        def reduce(delta: Tensor) -> list[Tensor]:
            return accumulators.reduce(uses, widened(delta.reshape(batch, -1, delta.shape[-1])))

        tapped: Tensor = _Tap.apply(output, reduce, *self._accumulators.leaves)
        return tapped

    def tap_part(self, output: Tensor, use: Use) -> Tensor:
        """The same of a part of a matrix, whose use sees the gradients of its own outputs."""
        self._check_rows(output)
        self.uses[use.name] += 1
        accumulators, batch, part = self._accumulators, self._batch, self._parts[use.name]

        def reduce(delta: Tensor) -> list[Tensor]:
            rows = widened(delta.reshape(batch, -1, delta.shape[-1]))
            return accumulators.reduce([use], part.of_outputs(rows))

        tapped: Tensor = _Tap.apply(output, reduce, *self._accumulators.leaves)
        return tapped

    def is_head(self, weight: Any) -> bool:
        return weight is self._head_weight and self.head is None

    def _traced_in(self, value: Any) -> list[str]:
        """Names of the traced parameters in an argument: itself, or in a list as `cat` takes."""
        if type(value) in (list, tuple):
            return [name for item in value for name in self._keys(item)]
        return self._keys(value)

    def _observed(self, value: Any) -> Any:
        """A traced parameter with a tap on its own gradient, the same at each of its uses."""
        if type(value) in (list, tuple):
            return type(value)(self._observed(item) for item in value)
        keys = self._keys(value)
        if not keys:
            return value
        if keys[0] not in self._whole:
            tapped = value.detach()
            for key in keys:
                reduce = _reduction_of_whole(key, value.ndim, self._accumulators, self._parts)
                tapped = _Tap.apply(tapped, reduce, *self._accumulators.leaves)
            self._whole[keys[0]] = tapped
        return self._whole[keys[0]]

    def _generic(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        traced = [name for a in (*args, *kwargs.values()) for name in self._traced_in(a)]
        result = func(
            *(self._observed(a) for a in args), **{k: self._observed(v) for k, v in kwargs.items()}
        )
        # Reading a shape or a dtype is no use; a result with a gradient is.
        if isinstance(result, Tensor) and result.requires_grad:
            self.uses.update(traced)
            if self._batch > 1:
                raise NeedsSingleRecord
        return result


def _reduction_of_whole(
    key: str, ndim: int, accumulators: Reducer, parts: Mapping[str, Part]
) -> Callable[[Tensor], list[Tensor]]:
    use, part = WholeUse(key, ndim), parts.get(key)

    def reduce(delta: Tensor) -> list[Tensor]:
        return accumulators.reduce([use], widened(delta if part is None else part.of(delta)))

    return reduce


def _bound(names: tuple[str, ...], args: tuple[Any, ...], kwargs: Any) -> list[Any]:
    """The named arguments of a call, None where not given."""
    given = dict(zip(names, args, strict=False)) | kwargs
    return [given.get(name) for name in names]


def _linear(capture: Capture, func: Any, args: tuple[Any, ...], kwargs: Any) -> Tensor | None:
    inputs, weight, bias = _bound(("input", "weight", "bias"), args, kwargs)
    if capture.is_head(weight):
        logits = func(inputs.detach(), weight.detach(), None if bias is None else bias.detach())
        capture.head = Head(inputs, logits.detach().requires_grad_())
        return capture.head.logits
    return _affine(capture, inputs, weight, bias, transposed=False)


def _addmm(capture: Capture, func: Any, args: tuple[Any, ...], kwargs: Any) -> Tensor | None:
    if kwargs or len(args) != 3:
        return None
    bias, inputs, weight = args
    return _affine(capture, inputs, weight, bias, transposed=True)


def _affine(
    capture: Capture, inputs: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool
) -> Tensor | None:
    weight_name, bias_name = capture.name_of(weight), capture.name_of(bias)
    parts = capture.parts_of(weight)
    if (weight_name is None and bias_name is None and not parts) or capture.is_shared(weight, bias):
        return None
    matrix = weight.detach().t() if transposed else weight.detach()
    output = F.linear(inputs, matrix, None if bias is None else bias.detach())
    uses: list[Use] = []
    if weight_name is not None or parts:
        rows = widened(capture.rows(inputs.detach()))
    if weight_name is not None:
        uses.append(MatrixUse(weight_name, rows, transposed))
    if bias_name is not None:
        uses.append(VectorUse(bias_name))
    if uses:
        output = capture.tap(output, *uses)
    for name in parts:
        output = capture.tap_part(output, MatrixUse(name, rows, transposed))
    return output


def _embedding(capture: Capture, func: Any, args: tuple[Any, ...], kwargs: Any) -> Tensor | None:
    ids, weight, padding = _bound(("input", "weight", "padding_idx"), args, kwargs)
    if capture.is_shared(weight):
        return None
    name = capture.name_of(weight)
    if ids.shape[0] != capture._batch:
        ids = ids.expand(capture._batch, *ids.shape[1:])
    # A leaf here makes the whole graph above it differentiable, whatever the parameters require.
    output = func(ids, weight.detach()).requires_grad_()
    if name is not None:
        padding = None if padding is None else padding % weight.shape[0]
        use = EmbeddingUse(name, ids.reshape(capture._batch, -1), weight.shape[0], padding)
        capture.embeddings.append((use, output))
        capture.uses[name] += 1
    return output


def _layer_norm(capture: Capture, func: Any, args: tuple[Any, ...], kwargs: Any) -> Tensor | None:
    signature = ("input", "normalized_shape", "weight", "bias", "eps")
    inputs, shape, weight, bias, eps = _bound(signature, args, kwargs)
    names = capture.name_of(weight), capture.name_of(bias)
    if names == (None, None) or capture.is_shared(weight, bias) or len(shape) != 1:
        return None
    normal = F.layer_norm(inputs, shape, None, None, 1e-5 if eps is None else eps)
    output = normal if weight is None else normal * weight.detach()
    output = output if bias is None else output + bias.detach()
    uses: list[Use] = []
    if names[0] is not None:
        uses.append(VectorUse(names[0], widened(capture.rows(normal.detach()))))
    if names[1] is not None:
        uses.append(VectorUse(names[1]))
    return capture.tap(output, *uses)


def _scale(capture: Capture, func: Any, args: tuple[Any, ...], kwargs: Any) -> Tensor | None:
    if kwargs or len(args) != 2:
        return None
    first, second = args
    weight, other = (first, second) if capture.name_of(first) is not None else (second, first)
    name = capture.name_of(weight)
    if name is None or not isinstance(other, Tensor) or weight.ndim != 1 or other.ndim < 3:
        return None
    if other.shape[0] != capture._batch or other.shape[-1] != weight.shape[0]:
        return None
    use = VectorUse(name, widened(capture.rows(other.detach())))
    return capture.tap(other * weight.detach(), use)


_HANDLERS: dict[str, Callable[..., Tensor | None]] = {
    "linear": _linear,
    "addmm": _addmm,
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "mul": _scale,
    "__mul__": _scale,
    "__rmul__": _scale,
}
