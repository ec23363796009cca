"""PEFT adapters: the base model that one belongs to, and both together as the model that is served.

Base and adapter are merged in memory by the `peft` library; nothing is written.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.checkpoint.files import (
    ADAPTER,
    checkpoint_fingerprint,
    existing_directory,
    leftover_adapter,
    read_json,
)
from haiftrace.checkpoint.gguf import find_gguf, gguf_fingerprint
from haiftrace.checkpoint.pretrained import silence
from haiftrace.checkpoint.safetensors_file import require_whole, stored_shapes
from haiftrace.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "embeddings")


@dataclass(frozen=True)
class Adapter:
    """An adapter's directory, and that of the model it was trained on."""

    directory: Path
    base: Path

    @property
    def weights(self) -> Path:
        """Its weight file."""
        return self.directory / _WEIGHTS


def find_adapter(directory: Path, base_model: str | Path | None = None) -> Adapter | None:
    """The adapter in a directory; None where it holds none, or a whole model.

    Args:
        base_model: the directory of its base. Without it the base is where adapter_config.json
            says, taken from the working directory or from the adapter's own where that is no
            absolute path.

    Raises:
        CheckpointError: its weights are missing or a pickle, or its base is not on this machine.
    """
    if not (directory / ADAPTER).is_file() or leftover_adapter(directory):
        return None
    named = read_json(directory / ADAPTER).get("base_model_name_or_path")
    if not (directory / _WEIGHTS).is_file():
        pickled = (directory / _PICKLE).is_file()
        raise CheckpointError(
            f"{directory} holds an adapter ({ADAPTER}) without {_WEIGHTS}"
            + (f"; {_PICKLE} is a pickle, which can run any code." if pickled else "."),
            "Save it again with save_pretrained of a present peft, which writes safetensors.",
        )
    if base_model is not None:
        base = existing_directory(base_model)
    elif isinstance(named, str) and named:
        base = _named_base(directory, named)
    else:
        raise CheckpointError(
            f"{directory / ADAPTER} names no base model (base_model_name_or_path).",
            "haiftrace index --base-model DIR, the model that the adapter was trained on",
        )
    if (base / ADAPTER).is_file() and not leftover_adapter(base):
        raise CheckpointError(
            f"The base model of the adapter in {directory} is itself an adapter ({base}).",
            "Merge the two and trace the result: peft's model.merge_and_unload()"
            ".save_pretrained(DIR), with the tokenizer saved beside it.",
        )
    return Adapter(directory, base)


def _named_base(directory: Path, named: str) -> Path:
    for place in (Path(named).expanduser(), directory / named):
        if place.is_dir():
            return existing_directory(place)
    raise CheckpointError(
        f"{directory} holds an adapter, and its base model {named!r} is not on this machine: "
        "what answers is both together, and haiftrace uses no network.",
        f"haiftrace index --base-model DIR; to get it: hf download {named} --local-dir DIR",
    )


def model_fingerprint(path: str | Path, base_model: str | Path | None = None) -> str:
    """SHA-256 over a checkpoint's files; of an adapter over its own and those of its base.

    Args:
        base_model: of an adapter, as `find_adapter` takes it.

    Raises:
        CheckpointError: as `checkpoint_fingerprint` does.
    """
    gguf = find_gguf(path)
    if gguf is not None:
        return gguf_fingerprint(gguf)
    adapter = find_adapter(existing_directory(path), base_model)
    if adapter is None:
        return checkpoint_fingerprint(path)
    digest = hashlib.sha256(checkpoint_fingerprint(adapter.base).encode())
    for file in (adapter.directory / ADAPTER, adapter.weights):
        try:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise CheckpointError(f"Cannot read {file}: {error.strerror}.") from None
    return digest.hexdigest()


def require_peft() -> None:
    """CheckpointError where the library that reads adapters is not installed."""
    if find_spec("peft") is None:
        raise CheckpointError(
            "The model is an adapter, and the library that reads it (peft) is not installed.",
            "pip install 'haiftrace[peft]', or merge adapter and base beforehand: peft's "
            "model.merge_and_unload().save_pretrained(DIR), with the tokenizer saved beside it.",
        )


def merged(
    model: PreTrainedModel, adapter: Adapter, *, keep_apart: bool = False
) -> tuple[PreTrainedModel, str]:
    """Base and adapter as one model, and a note to the user.

    Args:
        model: the base, which becomes part of the result.
        keep_apart: leave the adapter's matrices beside the base's, in the model's linear maps.

    Raises:
        CheckpointError: the adapter does not belong to this base, or cannot be merged.
    """
    require_peft()
    require_whole([adapter.weights])
    with silence():  # what it imports has notices of its own
        from peft import PeftModel, get_peft_model_state_dict

    rows = _embedding_rows(adapter.weights)
    resized = rows is not None and rows != model.get_input_embeddings().weight.shape[0]
    try:
        with silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if resized:
                model.resize_token_embeddings(rows, mean_resizing=False)
            together: Any = PeftModel.from_pretrained(
                model, adapter.directory, is_trainable=False, autocast_adapter_dtype=False
            )
            known = set(get_peft_model_state_dict(together, save_embedding_layers=True))
            lost = sorted(set(stored_shapes(adapter.weights)) - known)
            whole = together.get_base_model() if keep_apart else together.merge_and_unload()
    except Exception as error:  # whatever peft raises on settings and weights
        line = next(iter(str(error).strip().splitlines()), "")[:300]
        raise CheckpointError(
            f"The adapter in {adapter.directory} cannot be merged into {adapter.base}: "
            f"{type(error).__name__}: {line}",
            "Give the base model that it was trained on; kinds without matrices of their own "
            "(prompt and prefix tuning) cannot be merged.",
        ) from error
    if lost:
        raise CheckpointError(
            f"The adapter in {adapter.directory} does not belong to {adapter.base}: {len(lost)} of "
            f"its tensors have no place there ({lost[0]}).",
            f"Give the base model that it was trained on as base_model_name_or_path in {ADAPTER}.",
        )
    how = "stands beside" if keep_apart else "is merged in memory into"
    note = f"the adapter in {adapter.directory} {how} {adapter.base}"
    if resized:
        note += f", whose embedding becomes the adapter's, of {rows} rows"
    return whole, note


def _embedding_rows(weights: Path) -> int | None:
    """The rows of an input embedding that was saved beside the adapter; None without one."""
    for name, shape in stored_shapes(weights).items():
        parts = name.split(".")
        if parts[-1] == "weight" and parts[-2:-1] and parts[-2] in _EMBEDDINGS and len(shape) == 2:
            return shape[0]
    return None
