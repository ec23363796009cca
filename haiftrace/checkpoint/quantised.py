"""Quantised checkpoints: dequantised on loading, as the model that their weights stand for.

Gradients of packed weights are not defined. What is traced is the model with the unpacked ones,
which differs from the served one by the rounding of its kernels alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.checkpoint.safetensors_file import plain_name, stored_names
from haiftrace.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_BITS = {"gptq": (2, 4, 8), "awq": (4,)}
_BNB_STATE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state")
_PACKED = ("qweight", "qzeros", "scales", "g_idx")


def quantisation(config: dict[str, Any]) -> dict[str, Any] | None:
    """How a checkpoint is quantised, by its config.json; None where it is not."""
    settings = config.get("quantization_config")
    return settings if isinstance(settings, dict) and settings else None


def require_known(directory: Path, settings: dict[str, Any]) -> None:
    """CheckpointError for a quantisation that is not undone here, with the way that there is."""
    method = str(settings.get("quant_method", ""))
    bits = settings.get("bits", settings.get("w_bit", 4))
    layout = str(settings.get("version", "gemm")).lower()
    problem = ""
    if method not in ("bitsandbytes", "gptq", "awq"):
        problem = f"its quantisation {method!r} cannot be undone here"
    elif method in _BITS and bits not in _BITS[method]:
        problem = f"{method} with {bits} bits cannot be undone here"
    elif method == "awq" and layout != "gemm":
        problem = f"AWQ's layout {layout!r} cannot be undone here"
    if problem:
        raise CheckpointError(
            f"{directory} is quantised, and {problem}: gradients of quantised weights are not"
            " defined.",
            "Dequantise it where the library is installed: in Python M.from_pretrained(DIR)"
            ".dequantize().save_pretrained(OUT), M transformers' AutoModelForCausalLM; or trace the"
            " checkpoint that it was quantised from.",
        )


def described(settings: dict[str, Any]) -> str:
    """The quantisation in a few words: `bitsandbytes, 4 bits`."""
    method = settings["quant_method"]
    bits = settings.get("bits", settings.get("w_bit", 4))
    if method == "bitsandbytes":
        bits = 8 if settings.get("load_in_8bit") else 4
    return f"{method}, {bits} bits"


def dequantised(
    files: Iterable[Path], settings: dict[str, Any], skeleton: nn.Module, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of a quantised checkpoint by their names, packed matrices unpacked.

    Args:
        files: its safetensors files.
        settings: as `quantisation` gives them.
        skeleton: the model without weights, which says whose matrices stand [inputs, outputs].
        dtype: of the unpacked ones.

    Raises:
        CheckpointError: a file cannot be read, or parts of a matrix are missing.
    """
    reader = _Parts(files)
    state: dict[str, Tensor] = {}
    for name in reader.names:
        base, part = _split(name)
        if part in ("", "qweight"):
            matrix = _matrix(reader, base, part, settings)
            if matrix is None:
                state[name] = reader.tensor(name)
                continue
            weight = f"{base}.weight" if part == "qweight" else name
            turned = _is_conv1d(skeleton, weight.removesuffix(".weight"))
            state[weight] = (matrix.T if turned else matrix).to(dtype).contiguous()
    if len(state) == len(reader.names):
        raise CheckpointError(
            "config.json says that the weights are quantised (quantization_config), and none of"
            " them is packed.",
            "Where they were dequantised, remove quantization_config from config.json.",
        )
    return state


def _split(name: str) -> tuple[str, str]:
    """A tensor's name as that of a matrix, and which part of it: "" for the weight or no part."""
    for part in _BNB_STATE:
        if match := re.fullmatch(rf"(.+\.weight)\.({part}.*)", name):
            return match[1], match[2]
    module, _, leaf = name.rpartition(".")
    if leaf in (*_PACKED, "SCB", "weight_format"):
        return module, leaf
    return name, ""


def _matrix(reader: _Parts, base: str, part: str, settings: dict[str, Any]) -> Tensor | None:
    """The matrix [outputs, inputs] that a tensor is packed in; None for a plain tensor."""
    from haiftrace.checkpoint.packed import awq, bnb_4bit, bnb_8bit, gptq

    method = settings["quant_method"]
    if part == "qweight":
        parts = reader.of(base, _PACKED)
        if method == "awq":
            return awq(parts, int(settings.get("group_size", settings.get("q_group_size", 128))))
        if "g_idx" not in parts:
            parts["g_idx"] = _groups_in_order(parts, int(settings["bits"]))
        first_layout = settings.get("checkpoint_format", "gptq") != "gptq_v2"
        return gptq(parts, int(settings["bits"]), zeros_are_less_one=first_layout)
    module = base.removesuffix(".weight")
    if f"{module}.SCB" in reader.names:
        return bnb_8bit(reader.of(module, ("weight", "SCB")))
    if f"{base}.absmax" in reader.names:
        return bnb_4bit({"": reader.tensor(base), **reader.beginning(f"{base}.")})
    return None


def _groups_in_order(parts: dict[str, Tensor], bits: int) -> Tensor:
    """[I] the group of each input, of a file that leaves it out: they follow each other."""
    import torch

    inputs = len(parts["qweight"]) * 32 // bits
    return torch.arange(inputs) // -(-inputs // len(parts["scales"]))


def _is_conv1d(skeleton: nn.Module, module: str) -> bool:
    from transformers.pytorch_utils import Conv1D

    try:
        return isinstance(skeleton.get_submodule(module), Conv1D)
    except AttributeError:  # what the architecture does not have is told when it is loaded
        return False


class _Parts:
    """The tensors of some files, read when they are asked for; names without a compiler's prefix.

    Attributes:
        names: of all, each once, in order.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._places = {
            plain_name(name): (file, name) for file in files for name in stored_names(file)
        }
        self.names = self._places.keys()

    def tensor(self, name: str) -> Tensor:
        from safetensors import SafetensorError, safe_open

        file, stored = self._places[name]
        try:
            with safe_open(file, framework="pt") as opened:
                tensor: Tensor = opened.get_tensor(stored)
                return tensor
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"The weights in {file} cannot be read: {str(error).strip()[:200]}.",
                "Copy the checkpoint again from its source.",
            ) from None

    def of(self, module: str, leaves: Iterable[str]) -> dict[str, Tensor]:
        """Those tensors of a module that there are, by their leaves; g_idx alone may be missing."""
        kept = {leaf: f"{module}.{leaf}" for leaf in leaves}
        missing = [name for leaf, name in kept.items() if name not in self.names]
        if any(not name.endswith(".g_idx") for name in missing):
            raise CheckpointError(
                f"The quantised weights are incomplete: {missing[0]} is in no file.",
                "Copy the checkpoint again from its source.",
            )
        return {leaf: self.tensor(name) for leaf, name in kept.items() if name in self.names}

    def beginning(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, by what follows."""
        return {n.removeprefix(prefix): self.tensor(n) for n in self._matching(prefix)}

    def _matching(self, prefix: str) -> Iterator[str]:
        return (name for name in self.names if name.startswith(prefix))
