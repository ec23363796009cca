"""Matrix products that stay one product under batched cotangents.

Inside `torch.autograd.grad(..., is_grads_batched=True)` the general `matmul` falls back to a loop
over the cotangents; `mm` and `bmm` have batching rules and become a single large product.
"""

from __future__ import annotations

import torch
from torch import Tensor


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` for [..., I, K] by [K, C], or by [..., K, C] with the same leading sizes."""
    if left.ndim == 3 and right.ndim == 2:
        rows = torch.mm(left.reshape(-1, left.shape[-1]), right)
        return rows.reshape(*left.shape[:-1], right.shape[-1])
    if left.ndim == 2 and right.ndim == 2:
        return torch.mm(left, right)
    if left.ndim == 3 and right.ndim == 3:
        return torch.bmm(left, right)
    return left @ right


def merge_last(tensor: Tensor, dims: int) -> Tensor:
    """The last `dims` dimensions as one (`flatten` has no batching rule)."""
    return tensor.reshape(*tensor.shape[: tensor.ndim - dims], -1)


def square_sum(tensor: Tensor, dims: int) -> Tensor:
    """Sum of squares over the last `dims` dimensions; across rows it is taken in float64."""
    squares = tensor * tensor
    if dims == 0:
        return squares.double()
    if dims == 1:
        return squares.sum(-1, dtype=torch.float64)
    return squares.sum(-1).sum(tuple(range(1 - dims, 0)), dtype=torch.float64)
