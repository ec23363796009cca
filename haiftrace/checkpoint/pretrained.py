"""What transformers reads from a checkpoint's directory: configuration, tokenizer and model.

From local files alone, silently, and with a CheckpointError for whatever it raises.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer in a directory; CheckpointError where it is broken or is not fast."""
    from transformers import AutoTokenizer

    try:
        with silence():
            tokenizer = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # whatever a tokenizer class raises on a broken file
        raise CheckpointError(
            f"The tokenizer in {directory} cannot be loaded: {_first_line(error)}",
            "Copy the tokenizer files that the model was trained with into that directory.",
        ) from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"The tokenizer in {directory} ({type(tokenizer).__name__}) has no tokenizer.json, so "
            "it cannot say which characters a token covers.",
            "Convert it to a fast tokenizer and save that beside the model.",
        )
    return tokenizer


def load_settings(directory: Path) -> dict[str, Any]:
    """The configuration in a directory, completed with the defaults of its architecture."""
    from transformers import AutoConfig

    try:
        with silence():
            config = AutoConfig.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # settings that contradict each other, and whatever else
        raise CheckpointError(
            f"The configuration in {directory} cannot be used: {_first_line(error)}",
            "Copy the checkpoint again from its source.",
        ) from error
    return config.to_dict()


def load_model(directory: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The complete model in a directory, on the CPU, ready to be traced; and notes to the user.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or cannot be read.
    """
    from transformers import AutoModelForCausalLM

    try:
        # Forward mode needs eager attention; float64 and forward mode need eager experts.
        with silence():
            model, info = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=dtype,
                attn_implementation="eager",
                experts_implementation="eager",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, with the tensor's name
            )
    except Exception as error:  # truncated files, settings out of range, and whatever else
        raise CheckpointError(
            f"The model in {directory} cannot be loaded: {_first_line(error)}",
            "Copy the checkpoint again from its source, or save it again with save_pretrained.",
        ) from error
    for name, stored, expected in sorted(info["mismatched_keys"]):
        raise CheckpointError(
            f"Configuration and weights in {directory} do not belong together: {name} is stored as "
            f"{tuple(stored)} and should be {tuple(expected)}.",
            "Copy the checkpoint again from its source.",
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"The weights in {directory} are incomplete: {_names(missing)} of the architecture "
            "are in no file, and would be filled with random numbers.",
            "Copy the checkpoint again from its source; a checkpoint of the base model without "
            "its head cannot be traced.",
        )
    unexpected = sorted(info["unexpected_keys"])
    notes: tuple[str, ...] = ()
    if unexpected:
        notes = (
            f"The weight files hold {_names(unexpected)} that the architecture does not use; they "
            "are ignored.",
        )
    model.eval()
    model.requires_grad_(False)
    model.config.use_cache = False
    return model, notes


@contextmanager
def silence() -> Iterator[None]:
    """Keep transformers' bars and warnings off the terminal: what matters becomes an error."""
    from transformers.utils import logging as console

    verbosity, bars = console.get_verbosity(), console.is_progress_bar_enabled()
    console.set_verbosity(logging.CRITICAL)
    console.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        console.set_verbosity(verbosity)
        if bars:
            console.enable_progress_bar()


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:300]}"


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} tensor(s) ({shown}{', …' if len(names) > 3 else ''})"
