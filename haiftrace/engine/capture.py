"""Places, at every call of a forward pass that takes a traced parameter, a tap on its gradient.

A tap is the identity in the forward pass. In the backward pass it reduces the gradient that flows
through it (see `reductions`) and returns the result as the "gradient" of an accumulator leaf. So
one `torch.autograd.grad` of the accumulators, with batched cotangents, yields the reductions of
the gradients of several losses, summed over all parameters, and holds one call's gradients at a
time.

It overrides functions that take a parameter, not module classes: a subclassed, shared or unknown
module is handled by what it computes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from haiftrace.engine.accumulators import Reducer
from haiftrace.engine.losses import widened
from haiftrace.engine.reductions import (
    DenseReduction,
    EmbeddingReduction,
    MatrixReduction,
    Reduction,
    VectorReduction,
)
from haiftrace.engine.slicing import OutputSlice


class NeedsSingleRecord(Exception):
    """A parameter's gradient can be told apart by record only in a batch of one record."""


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
class HeadCall:
    """The call of the output head: input h [B, J, C] and raw logits [B, J, V], a leaf."""

    hidden: Tensor
    logits: Tensor


class Capture(TorchFunctionMode):
    """Context in which one forward pass of a causal model is run over a batch of records.

    Args:
        parameters: the traced parameters by name.
        head: weight of the output head; its call is cut out of the graph (see `HeadReduction`).
        batch: B.
        positions: number of tokens of each record.
        reducer: receives the gradients from the taps.
        shared: names of parameters that occur in more than one call of a pass, other than a matrix
            tied between embedding and head.
        slices: of parameters of which only a slice is traced, by the keys of `parameters`.

    Attributes:
        call_counts: calls that each parameter occurs in, by name.
        embeddings: reductions of the embedding look-ups, each with the look-up's output, a leaf.
        head: the call of the output head, once it has been made.

    Raises:
        NeedsSingleRecord: from the forward pass, where the batch must be of one record.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        head: Tensor,
        batch: int,
        positions: int,
        reducer: Reducer,
        shared: frozenset[str] = frozenset(),
        slices: Mapping[str, OutputSlice] | None = None,
    ) -> None:
        super().__init__()
        self._slices = slices or {}
        self._names: dict[int, str] = {}
        self._slice_keys: dict[int, list[str]] = {}
        for name, parameter in parameters.items():
            if name in self._slices:
                self._slice_keys.setdefault(id(parameter), []).append(name)
            else:
                self._names[id(parameter)] = name
        self._head_weight = head
        self._batch = batch
        self._positions = positions
        self._reducer = reducer
        self._shared = shared
        self._tapped_parameters: dict[str, Tensor] = {}
        self.call_counts: Counter[str] = Counter()
        self.embeddings: list[tuple[EmbeddingReduction, Tensor]] = []
        self.head: HeadCall | None = None

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

    # What the handlers of single functions have in common.

    def name_of(self, value: Any) -> str | None:
        """The name of a traced parameter whose gradient may be reduced call by call, else None."""
        return None if self.is_shared(value) else self._names.get(id(value))

    def is_shared(self, *values: Any) -> bool:
        """Whether any of these is a parameter whose gradients of all calls have to be added up."""
        return any(name in self._shared for value in values for name in self._keys(value))

    def slices_of(self, value: Any) -> list[str]:
        """The keys of the traced slices of a matrix."""
        return self._slice_keys.get(id(value), [])

    def _keys(self, value: Any) -> list[str]:
        name = self._names.get(id(value))
        return [*([] if name is None else [name]), *self.slices_of(value)]

    def rows(self, tensor: Tensor) -> Tensor:
        """[B, I, X] of a tensor whose leading dimensions are the records' positions in order."""
        self._check_rows(tensor)
        return tensor.reshape(self._batch, -1, tensor.shape[-1])

    def _check_rows(self, tensor: Tensor) -> None:
        # A flat tensor may hold a subset of the tokens (those of one expert): no telling whose.
        step = self._batch * (self._positions if tensor.ndim <= 2 else 1)
        if self._batch > 1 and tensor.shape[0] % step:
            raise NeedsSingleRecord

    def tap(self, output: Tensor, *reductions: Reduction) -> Tensor:
        """The output, with its gradient reduced in the backward pass."""
        self._check_rows(output)
        for reduction in reductions:
            self.call_counts[reduction.name] += 1

        # Not a method of self, nor may it hold the graph: autograd could never free the cycle.
        reducer, batch = self._reducer, self._batch

        def reduce(delta: Tensor) -> list[Tensor]:
            return reducer.reduce(reductions, widened(delta.reshape(batch, -1, delta.shape[-1])))

        tapped: Tensor = _Tap.apply(output, reduce, *self._reducer.leaves)
        return tapped

    def tap_slice(self, output: Tensor, reduction: Reduction) -> Tensor:
        """The same for a matrix slice: the reduction receives the gradient of its outputs only."""
        self._check_rows(output)
        self.call_counts[reduction.name] += 1
        reducer, batch, outputs = self._reducer, self._batch, self._slices[reduction.name]

        def reduce(delta: Tensor) -> list[Tensor]:
            rows = widened(delta.reshape(batch, -1, delta.shape[-1]))
            return reducer.reduce([reduction], outputs.of_outputs(rows))

        tapped: Tensor = _Tap.apply(output, reduce, *self._reducer.leaves)
        return tapped

    def is_head(self, weight: Any) -> bool:
        """Whether this is the weight of the output head, before its call."""
        return weight is self._head_weight and self.head is None

    def _traced_in(self, value: Any) -> list[str]:
        """Names of the traced parameters in an argument: itself, or in a list as `cat` takes."""
        if type(value) in (list, tuple):
            return [name for item in value for name in self._keys(item)]
        return self._keys(value)

    def _with_tap(self, value: Any) -> Any:
        """A traced parameter with a tap on its own gradient, one tensor for all of its calls."""
        if type(value) in (list, tuple):
            return type(value)(self._with_tap(item) for item in value)
        keys = self._keys(value)
        if not keys:
            return value
        if keys[0] not in self._tapped_parameters:
            tapped = value.detach()
            for key in keys:
                reduce = _dense_reduction(key, value.ndim, self._reducer, self._slices)
                tapped = _Tap.apply(tapped, reduce, *self._reducer.leaves)
            self._tapped_parameters[keys[0]] = tapped
        return self._tapped_parameters[keys[0]]

    def _generic(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        traced = [name for a in (*args, *kwargs.values()) for name in self._traced_in(a)]
        result = func(
            *(self._with_tap(a) for a in args), **{k: self._with_tap(v) for k, v in kwargs.items()}
        )
        # Reading a shape or a dtype does not count; a result with a gradient does.
        if isinstance(result, Tensor) and result.requires_grad:
            self.call_counts.update(traced)
            if self._batch > 1:
                raise NeedsSingleRecord
        return result


def _dense_reduction(
    key: str, ndim: int, reducer: Reducer, slices: Mapping[str, OutputSlice]
) -> Callable[[Tensor], list[Tensor]]:
    reduction, outputs = DenseReduction(key, ndim), slices.get(key)

    def reduce(delta: Tensor) -> list[Tensor]:
        return reducer.reduce([reduction], widened(delta if outputs is None else outputs.of(delta)))

    return reduce


def _bound(names: tuple[str, ...], args: tuple[Any, ...], kwargs: Any) -> list[Any]:
    """The named arguments of a call, None where not given."""
    given = dict(zip(names, args, strict=False)) | kwargs
    return [given.get(name) for name in names]


def _linear(capture: Capture, func: Any, args: tuple[Any, ...], kwargs: Any) -> Tensor | None:
    inputs, weight, bias = _bound(("input", "weight", "bias"), args, kwargs)
    if capture.is_head(weight):
        logits = func(inputs.detach(), weight.detach(), None if bias is None else bias.detach())
        capture.head = HeadCall(inputs, logits.detach().requires_grad_())
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
    slices = capture.slices_of(weight)
    untraced = weight_name is None and bias_name is None and not slices
    if untraced or capture.is_shared(weight, bias):
        return None
    matrix = weight.detach().t() if transposed else weight.detach()
    output = F.linear(inputs, matrix, None if bias is None else bias.detach())
    reductions: list[Reduction] = []
    if weight_name is not None or slices:
        rows = widened(capture.rows(inputs.detach()))
    if weight_name is not None:
        reductions.append(MatrixReduction(weight_name, rows, transposed))
    if bias_name is not None:
        reductions.append(VectorReduction(bias_name))
    if reductions:
        output = capture.tap(output, *reductions)
    for name in slices:
        output = capture.tap_slice(output, MatrixReduction(name, rows, transposed))
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
        ids_BI = ids.reshape(capture._batch, -1)
        reduction = EmbeddingReduction(name, ids_BI, weight.shape[0], padding)
        capture.embeddings.append((reduction, output))
        capture.call_counts[name] += 1
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
    reductions: list[Reduction] = []
    if names[0] is not None:
        reductions.append(VectorReduction(names[0], widened(capture.rows(normal.detach()))))
    if names[1] is not None:
        reductions.append(VectorReduction(names[1]))
    return capture.tap(output, *reductions)


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
    reduction = VectorReduction(name, widened(capture.rows(other.detach())))
    return capture.tap(other * weight.detach(), reduction)


_HANDLERS: dict[str, Callable[..., Tensor | None]] = {
    "linear": _linear,
    "addmm": _addmm,
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "mul": _scale,
    "__mul__": _scale,
    "__rmul__": _scale,
}
