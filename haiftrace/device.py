"""The device and the number format to compute in, from the names that a user gives."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.errors import UsageError

if TYPE_CHECKING:
    import torch

SMALL_MODEL = 5_000_000
"""Parameters below which a model is small: its matrix products take microseconds."""

DTYPES = ("auto", "float32", "bfloat16", "float64")


def choose_device(name: str) -> torch.device:
    """The torch device of "auto" (the GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        UsageError: for another name, or a GPU that is not there.
    """
    import torch

    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if available else "cpu")
    matched = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if matched is None:
        raise UsageError(f"No such device: {name!r}.", "Choose auto, cpu, cuda or cuda:N.")
    if name == "cpu":
        return torch.device("cpu")
    number = int(matched[1] or 0)
    if number >= available:
        raise UsageError(
            f"The device {name} was asked for, but torch sees "
            f"{'no GPU' if not available else f'{available} GPU(s), counted from 0'}.",
            "Use --device cpu, or install a torch build with CUDA for your driver.",
        )
    return torch.device(f"cuda:{number}")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype of one of `DTYPES`.

    "auto" is float32 on the CPU and, to save memory, bfloat16 on a GPU that knows it.

    Raises:
        UsageError: for another name.
    """
    if name not in DTYPES:
        raise UsageError(f"No such dtype: {name!r}.", f"Choose one of {', '.join(DTYPES)}.")
    import torch

    if name == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if half else torch.float32
    return getattr(torch, name)


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` -> "float32"."""
    return str(dtype).removeprefix("torch.")


def choose_threads(parameters: int, device: torch.device) -> None:
    """Compute a small model on one CPU thread: handing its tiny products to several costs more."""
    import torch

    if device.type == "cpu" and parameters < SMALL_MODEL:
        torch.set_num_threads(1)


def total_memory(device: torch.device) -> int:
    """Bytes that a device has: the GPU, or the machine or what this process may take of it (1 GiB
    where unknown). The same at each call, so that a run can be repeated to the last bit.
    """
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 30
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            machine = min(machine, int(Path(limit).read_text(encoding="ascii")))
    return machine


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device: of the GPU, or of the machine (1 GiB where unknown)."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(line for line in lines if line.startswith("MemAvailable:")).split()[1]
        return int(kilobytes) << 10
    except (OSError, StopIteration):
        return 1 << 30
