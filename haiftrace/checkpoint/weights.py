"""The weights in one directory, tensor by tensor, under the names of a model that is loaded.

Where the files name their tensors as the model does, one tensor at a time is in memory. Where
transformers renames or reshapes them on loading (mixtures of experts, GPT-2's old files), it loads
them as a second model on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.checkpoint.files import weight_files
from haiftrace.checkpoint.pretrained import load_model
from haiftrace.checkpoint.safetensors_file import plain_name
from haiftrace.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from haiftrace.checkpoint.load import Checkpoint

Shapes = dict[str, tuple[int, ...]]


class Naming:
    """What a model calls its parameters and persistent buffers, and which names are tied.

    Args:
        checkpoint: the loaded model.

    Attributes:
        tensors: by name, those in the model themselves; tied names have the same tensor.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._dtype = checkpoint.dtype
        self.tensors: dict[str, Tensor] = checkpoint.model.state_dict(keep_vars=True)
        self._first: dict[str, str] = {}
        names: dict[int, str] = {}
        for name, tensor in self.tensors.items():
            self._first[name] = names.setdefault(id(tensor), name)
        self._shapes = self.untied({n: tuple(t.shape) for n, t in self.tensors.items()})

    def untied(self, shapes: Shapes) -> Shapes:
        """The same with one name for each group of tied ones: a file may hold any of them."""
        return {self._first.get(name, name): shape for name, shape in shapes.items()}

    def fits(self, shapes: Shapes) -> bool:
        """Whether files with these tensors hold the model's, under the model's names."""
        return self.untied(shapes) == self._shapes

    def stored(self, directory: Path, *, directly: bool) -> Iterator[tuple[str, Tensor]]:
        """The weights in a directory as `load_checkpoint` would have them, on the CPU.

        Args:
            directory: of a checkpoint of the same architecture.
            directly: read each tensor as it is needed, where the files `fits`.

        Yields:
            a name in `tensors`, and what that directory has for it, in the model's dtype.

        Raises:
            CheckpointError: the weights are unreadable, or are not the model's.
        """
        if directly and self.fits(stored_shapes(directory)):
            tensors = _each_tensor(directory)
        else:
            tensors = self._loaded(directory)
        for name, tensor in tensors:
            yield name, tensor.to(self.tensors[name].dtype)

    def _loaded(self, directory: Path) -> Iterator[tuple[str, Tensor]]:
        import torch

        dtype: torch.dtype = getattr(torch, self._dtype)
        weights: Mapping[str, Tensor] = load_model(directory, dtype)[0].state_dict()
        if not self.fits({name: tuple(tensor.shape) for name, tensor in weights.items()}):
            raise CheckpointError(
                f"The model in {directory} is another than the one that is traced: its tensors "
                "have other names or shapes.",
                "Give checkpoints of the training run that the traced model comes from.",
            )
        yield from weights.items()


def stored_shapes(directory: Path) -> Shapes:
    """The shape of every tensor in a directory's safetensors files, from their headers.

    The names are without what torch.compile writes before them.
    """
    from safetensors import SafetensorError, safe_open

    shapes: Shapes = {}
    for file in weight_files(directory):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    shapes[plain_name(name)] = tuple(opened.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise _unreadable(file, error) from None
    return shapes


def _each_tensor(directory: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    for file in weight_files(directory):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    yield plain_name(name), opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"The weights in {file} cannot be read: {str(error).strip()[:200]}.",
        "Copy the checkpoint again from its source.",
    )
