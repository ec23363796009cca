"""Packed weights unpacked: what bitsandbytes, GPTQ and AWQ store of a matrix -> the matrix.

Each function takes the tensors that a file has of one matrix and gives it as [outputs, inputs] in
float32. The formats are those of the libraries that write them: bitsandbytes (Dettmers et al. 2022,
2023), GPTQ (Frantar et al. 2022; AutoGPTQ's and gptqmodel's layout) and AWQ (Lin et al. 2023;
AutoAWQ's GEMM layout).

Shape letters: O outputs, I inputs, G groups of inputs that share a scale, X any other width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_INT8_RANGE = 127
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where the n-th output of eight stands in AWQ's 32 bits, in steps of 4 bits."""


def bnb_4bit(parts: Mapping[str, Tensor]) -> Tensor:
    """A matrix of bitsandbytes' 4 bits: codes in pairs, a scale a block, scales in 8 bits or not.

    Args:
        parts: "" the codes, "absmax", "quant_map" and "quant_state.bitsandbytes__*"; and where the
            scales are quantised too, "nested_absmax" and "nested_quant_map".
    """
    import torch

    about = _quant_state(parts)
    pairs_X = parts[""].flatten().view(torch.uint8)
    codes_X = torch.stack([pairs_X >> 4, pairs_X & 15], dim=1).flatten().long()
    scales_X = parts["absmax"]
    if "nested_absmax" in parts:
        levels_X = parts["nested_quant_map"].float()[scales_X.long()]
        each_X = _of_blocks(parts["nested_absmax"].float(), about["nested_blocksize"], levels_X)
        scales_X = levels_X * each_X + float(about["nested_offset"])
    values_X = parts["quant_map"].float()[codes_X]
    shape = tuple(about["shape"])
    values_X = values_X[: shape[0] * shape[1]]
    return (values_X * _of_blocks(scales_X.float(), about["blocksize"], values_X)).reshape(shape)


def bnb_8bit(parts: Mapping[str, Tensor]) -> Tensor:
    """A matrix of bitsandbytes' 8 bits: [O, I] int8 as "weight", and "SCB", each row's largest."""
    return parts["weight"].float() * (parts["SCB"].float() / _INT8_RANGE)[:, None]


def gptq(parts: Mapping[str, Tensor], bits: int, *, zeros_are_less_one: bool) -> Tensor:
    """A matrix of GPTQ: codes of inputs in 32 bits, a scale and a zero point a group and output.

    Args:
        parts: "qweight" [I·bits/32, O], "qzeros" [G, O·bits/32], "scales" [G, O], and "g_idx" [I],
            the group of each input.
        bits: 2, 4 or 8.
        zeros_are_less_one: whether the stored zero points are one less, as in the first layout.
    """
    codes_IO = _unpacked(parts["qweight"].T, bits).T
    zeros_GO = _unpacked(parts["qzeros"], bits) + int(zeros_are_less_one)
    group_I = parts["g_idx"].long()
    return ((codes_IO - zeros_GO[group_I]) * parts["scales"].float()[group_I]).T


def awq(parts: Mapping[str, Tensor], group: int) -> Tensor:
    """A matrix of AWQ: codes of outputs in 32 bits, four bits each.

    Args:
        parts: "qweight" [I, O/8], "qzeros" [G, O/8], "scales" [G, O].
        group: inputs of a group.
    """
    codes_IO, zeros_GO = (_unpacked(parts[name], 4, _AWQ_ORDER) for name in ("qweight", "qzeros"))
    scales_GO = parts["scales"].float()
    size = group if group > 0 else len(codes_IO)
    spread = [each.repeat_interleave(size, 0)[: len(codes_IO)] for each in (zeros_GO, scales_GO)]
    return ((codes_IO - spread[0]) * spread[1]).T


def _unpacked(words: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """[X, Y·32/bits] the numbers in each row's 32-bit words, those of the lowest bits first.

    Args:
        order: places of the numbers of a word, where they are not in order.
    """
    import torch

    places = torch.tensor(order or range(32 // bits)) * bits
    # The upper bits of a negative word are ones, which the mask takes away.
    numbers = (words.int().unsqueeze(-1) >> places) & (2**bits - 1)
    return numbers.flatten(-2).float()


def _of_blocks(scales: Tensor, block: int, values_X: Tensor) -> Tensor:
    """[X] the scale of each value."""
    return scales.flatten().repeat_interleave(int(block))[: len(values_X)]


def _quant_state(parts: Mapping[str, Tensor]) -> dict[str, Any]:
    name = next(name for name in parts if name.startswith("quant_state."))
    return dict(json.loads(bytes(parts[name].tolist()).decode()))
