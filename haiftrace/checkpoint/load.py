"""A model directory on disk -> a model and tokenizer that can be traced, or a clear refusal.

Weights come from safetensors files only: no pickle, no remote code, no network. The heavy imports
(torch, transformers) happen inside the functions, so that importing this module costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.checkpoint.files import (
    checkpoint_fingerprint,
    existing_directory,
    readable_config,
    require_causal_lm,
    require_tokenizer_files,
)
from haiftrace.device import choose_device, choose_dtype, choose_threads, dtype_name
from haiftrace.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

__all__ = [
    "Checkpoint",
    "checkpoint_fingerprint",
    "load_checkpoint",
    "load_model",
    "load_settings",
    "load_tokenizer",
    "tokenizer_fingerprint",
]

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded model: evaluation mode, eager attention, no cache, no gradients asked for.

    Attributes:
        model: the causal language model, on `device` in `dtype`.
        tokenizer: a fast tokenizer (it knows the character offsets of its tokens).
        path: the absolute directory it came from.
        fingerprint: SHA-256 of configuration and weight files, whatever `dtype` was asked for.
        tokenizer_fingerprint: SHA-256 of everything that decides how text becomes token ids.
        context: the longest sequence in tokens, or None where the architecture sets no limit.
        vocabulary: rows of the embedding; only token ids below it can be looked up.
        architecture: the model's class name.
        parameters: number of weights, tied ones counted once.
        dtype, device: as torch names them, "float32" and "cuda:0" say.
        notes: what the user should be told about this checkpoint, in plain words.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    path: Path
    fingerprint: str
    tokenizer_fingerprint: str
    context: int | None
    vocabulary: int
    architecture: str
    parameters: int
    dtype: str
    device: str
    notes: tuple[str, ...] = ()


def load_checkpoint(path: str | Path, *, dtype: str = "auto", device: str = "auto") -> Checkpoint:
    """Load a Hugging Face model directory for tracing.

    Args:
        path: a local directory with config.json, safetensors weights and a tokenizer.
        dtype, device: as `haiftrace.device` reads them.

    Raises:
        UsageError: for an unknown `dtype` or `device`, or a GPU that is not there.
        CheckpointError: for anything that cannot be loaded whole, or should not be loaded at all.
    """
    directory = existing_directory(path)
    config = readable_config(directory)
    require_tokenizer_files(directory)
    require_causal_lm(directory, config)
    fingerprint = checkpoint_fingerprint(directory)

    import torch

    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)
    tokenizer = load_tokenizer(directory)
    model, notes = load_model(directory, torch_dtype)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    choose_threads(parameters, torch_device)
    vocabulary = _common_vocabulary(directory, model, tokenizer)
    _require_finite(directory, model)
    try:
        model.to(torch_device)
    except torch.cuda.OutOfMemoryError:
        raise CheckpointError(
            f"The weights of {directory} do not fit on {torch_device} as {torch_dtype}.",
            "Use --dtype bfloat16, another --device, or --device cpu.",
        ) from None
    _require_causal_attention(directory, model, vocabulary)
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        path=directory,
        fingerprint=fingerprint,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        context=_context(model.config),
        vocabulary=vocabulary,
        architecture=type(model).__name__,
        parameters=parameters,
        dtype=dtype_name(torch_dtype),
        device=str(torch_device),
        notes=notes,
    )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of the tokenizer's rules, special tokens and chat template."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # set by the last call, not part of the tokenizer
        backend.pop(state, None)
    determining = {
        "backend": backend,
        "special_tokens": tokenizer.special_tokens_map,
        "chat_template": tokenizer.chat_template,
    }
    text = json.dumps(determining, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer in a directory; CheckpointError where it is broken or is not fast."""
    from transformers import AutoTokenizer

    try:
        with _silence():
            tokenizer = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # whatever the many tokenizer classes raise on a broken file
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
        with _silence():
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
    """The model in a directory, whole, on the CPU, ready to be traced; and what to tell of it.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or cannot be read.
    """
    from transformers import AutoModelForCausalLM

    try:
        # Forward mode needs eager attention; float64 and forward mode need eager experts.
        with _silence():
            model, info = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=dtype,
                attn_implementation="eager",
                experts_implementation="eager",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told apart below, with the tensor's name
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
            f"The weights in {directory} are incomplete: {_some(missing)} of the architecture "
            "are in no file, and would be filled with random numbers.",
            "Copy the checkpoint again from its source; a checkpoint of the base model without "
            "its head cannot be traced.",
        )
    unexpected = sorted(info["unexpected_keys"])
    notes: tuple[str, ...] = ()
    if unexpected:
        notes = (
            f"The weight files hold {_some(unexpected)} that the architecture does not use; they "
            "are ignored.",
        )
    model.eval()
    model.requires_grad_(False)
    model.config.use_cache = False
    return model, notes


def _common_vocabulary(
    directory: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> int:
    """Rows of the embedding, once no token that text can bring lies beyond them."""
    head = model.get_output_embeddings()
    rows = model.get_input_embeddings().weight.shape[0]
    if head is not None:
        rows = min(rows, head.weight.shape[0])
    ids = tokenizer.get_vocab()
    if not ids:
        raise CheckpointError(
            f"The tokenizer in {directory} is empty.",
            "Copy the tokenizer files that the model was trained with into that directory.",
        )
    # Gemma 3's text models ship a tokenizer with an image marker one id beyond the embedding. Such
    # a marker does no harm as long as the tokenizer itself would never insert it.
    added = tokenizer.added_tokens_decoder
    inserted = {getattr(tokenizer, f"{name}_token") for name in ("bos", "eos", "pad", "unk", "sep")}
    template = str(tokenizer.chat_template or "")
    beyond = [
        number
        for token, number in ids.items()
        if number >= rows
        and not (
            number in added
            and added[number].special
            and token not in inserted
            and token not in template
        )
    ]
    if beyond:
        raise CheckpointError(
            f"Model and tokenizer in {directory} do not belong together: the tokenizer has ids up "
            f"to {max(beyond)}, the embedding has {rows} rows (ids 0 to {rows - 1}).",
            "Copy the tokenizer that the model was trained with into that directory.",
        )
    return rows


def _require_finite(directory: Path, model: PreTrainedModel) -> None:
    import torch

    for name, parameter in model.named_parameters():
        finite = torch.isfinite(parameter)
        if not bool(finite.all()):
            bad = parameter.numel() - int(finite.sum())
            raise CheckpointError(
                f"The weights in {directory} are broken: {bad} of {parameter.numel()} entries of "
                f"{name} are NaN or infinite as {dtype_name(parameter.dtype)}.",
                "Trace an earlier checkpoint of the training run, before it diverged.",
            )


def _require_causal_attention(directory: Path, model: PreTrainedModel, vocabulary: int) -> None:
    """Change the last token: where earlier predictions move, the model looks ahead.

    The configurations that make a decoder bidirectional differ between architectures, and every
    token's gradient is computed on the prefix before it, so the model itself is asked.
    """
    import torch

    ids = torch.arange(8, device=model.device).remainder(vocabulary)[None]
    other = ids.clone()
    other[0, -1] = vocabulary // 2
    with torch.no_grad(), _silence():
        one, two = (model(input_ids=tokens).logits[0, :-1].float() for tokens in (ids, other))
    if not bool(torch.isfinite(one).all()):
        raise CheckpointError(
            f"The model in {directory} predicts NaN or infinity in "
            f"{dtype_name(model.dtype)}, though all its weights are finite.",
            "Try a wider --dtype, or trace an earlier checkpoint of the training run.",
        )
    tolerance = 0.03 if model.dtype == torch.bfloat16 else 1e-3
    if float((one - two).abs().max()) > tolerance * float((one - one.mean()).abs().max()):
        raise CheckpointError(
            f"The model in {directory} is not a causal language model: its predictions depend on "
            "tokens that come later.",
            "haiftrace traces models that generate text from left to right (…ForCausalLM).",
        )


def _context(config: PreTrainedConfig) -> int | None:
    for key in _CONTEXT_KEYS:
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


@contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers' bars and warnings off the terminal: what matters becomes an error."""
    from transformers.utils import logging as talk

    verbosity, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity(logging.CRITICAL)
    talk.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talk.set_verbosity(verbosity)
        if bars:
            talk.enable_progress_bar()


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:300]}"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} tensor(s) ({shown}{', …' if len(names) > 3 else ''})"
