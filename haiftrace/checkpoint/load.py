"""A model directory on disk -> a model and tokenizer that can be traced, or a clear refusal.

Weights come from safetensors files only: no pickle, no remote code, no network. The heavy imports
(torch, transformers) happen inside the functions, so that importing this module costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.checkpoint.adapters import find_adapter, merged, model_fingerprint, require_peft
from haiftrace.checkpoint.comparisons import attention_note, tokenizer_note
from haiftrace.checkpoint.files import (
    existing_directory,
    has_tokenizer_files,
    readable_config,
    require_causal_lm,
    require_tokenizer_files,
)
from haiftrace.checkpoint.gguf import find_gguf, gguf_fingerprint, load_gguf
from haiftrace.checkpoint.pretrained import load_model, load_tokenizer, silence
from haiftrace.checkpoint.tokenizer import common_vocabulary, tokenizer_fingerprint
from haiftrace.device import choose_device, choose_dtype, choose_threads, dtype_name
from haiftrace.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded model: evaluation mode, eager attention, no cache, no gradients required.

    Attributes:
        model: the causal language model, on `device` in `dtype`.
        tokenizer: a fast tokenizer (it knows the character offsets of its tokens).
        path: the absolute directory it came from.
        fingerprint: SHA-256 of configuration and weight files, of an adapter and its base
            together, whatever `dtype` it is in.
        tokenizer_fingerprint: SHA-256 of everything that decides how text becomes token ids.
        context: the longest sequence in tokens, or None where the architecture sets no limit.
        vocabulary: rows of the embedding; only token ids below it can be looked up.
        architecture: the model's class name.
        parameters: number of weights, tied ones counted once.
        dtype, device: as torch names them, "float32" and "cuda:0" say.
        notes: what to report to the user about this checkpoint, in plain words.
        base: of an adapter, the absolute directory of its base.
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
    base: Path | None = None


def load_checkpoint(
    path: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    base_model: str | Path | None = None,
    unmerged: bool = False,
) -> Checkpoint:
    """Load a Hugging Face model directory for tracing.

    Args:
        path: a local directory with config.json, safetensors weights and a tokenizer; or of a PEFT
            adapter, whose base it names, and whose tokenizer counts where it has one; or a GGUF
            file. Quantised weights are dequantised.
        dtype, device: as `haiftrace.device` reads them.
        base_model: of an adapter, the directory of its base, where it is not as the adapter says.
        unmerged: of an adapter, keep its matrices beside the base's, as training had them.

    Raises:
        UsageError: for an unknown `dtype` or `device`, or a GPU that is not there; for a whole
            model that should be an adapter.
        CheckpointError: for anything that cannot be loaded completely, or should not be loaded.
    """
    gguf = find_gguf(path)
    if gguf is not None:
        return _load_gguf(gguf, dtype, device)
    directory = existing_directory(path)
    adapter = find_adapter(directory, base_model)
    if adapter is None and base_model is not None:
        raise UsageError(
            f"{directory} is a whole model and no adapter, so it has no base model.",
            "Leave --base-model out.",
        )
    if adapter is None and unmerged:
        raise UsageError(
            f"{directory} is a whole model and no adapter, so it has no matrices of an adapter's"
            " own.",
            "Give the adapter's directory as --model, or leave --parameters adapter out.",
        )
    base, words = directory, directory
    if adapter is not None:
        require_peft()
        base = adapter.base
        words = directory if has_tokenizer_files(directory) else base
    config = readable_config(base)
    require_tokenizer_files(words)
    require_causal_lm(base, config)
    fingerprint = model_fingerprint(directory, base_model)

    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)
    tokenizer = load_tokenizer(words)
    model, notes = load_model(base, torch_dtype)
    if adapter is not None:
        model, note = merged(model, adapter, keep_apart=unmerged)
        model = model.eval().requires_grad_(False)
        notes = (note, *notes)
    whole = _Whole(directory, words, fingerprint, None if adapter is None else adapter.base, notes)
    return _checked(whole, model, tokenizer, torch_device)


def _load_gguf(file: Path, dtype: str, device: str) -> Checkpoint:
    torch_device = choose_device(device)
    fingerprint = gguf_fingerprint(file)
    model, tokenizer, notes = load_gguf(file, choose_dtype(dtype, torch_device))
    return _checked(
        _Whole(file, file.parent, fingerprint, None, notes), model, tokenizer, torch_device
    )


@dataclass(frozen=True)
class _Whole:
    """What is known of a checkpoint before its model is looked at; see `Checkpoint`.

    Attributes:
        words: where its tokenizer's files are.
    """

    path: Path
    words: Path
    fingerprint: str
    base: Path | None
    notes: tuple[str, ...]


def _checked(
    whole: _Whole,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    torch_device: torch.device,
) -> Checkpoint:
    """The checkpoint on its device, once its model is found fit to be traced."""
    import torch

    directory, torch_dtype = whole.path, model.dtype
    parameters = sum(parameter.numel() for parameter in model.parameters())
    choose_threads(parameters, torch_device)
    vocabulary = common_vocabulary(directory, model, tokenizer)
    _require_finite(directory, model)
    try:
        model.to(torch_device)
    except torch.cuda.OutOfMemoryError:
        raise CheckpointError(
            f"The weights of {directory} do not fit on {torch_device} as {torch_dtype}.",
            "Use --dtype bfloat16, another --device, or --device cpu.",
        ) from None
    _require_causal_attention(directory, model, vocabulary)
    compared = (tokenizer_note(whole.words, tokenizer), attention_note(model, vocabulary))
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        path=directory,
        fingerprint=whole.fingerprint,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        context=_context(model.config),
        vocabulary=vocabulary,
        architecture=type(model).__name__,
        parameters=parameters,
        dtype=dtype_name(torch_dtype),
        device=str(torch_device),
        notes=(*whole.notes, *filter(None, compared)),
        base=whole.base,
    )


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
    token's gradient is computed on the prefix before it, so the model itself is tested.
    """
    import torch

    ids = torch.arange(8, device=model.device).remainder(vocabulary)[None]
    changed = ids.clone()
    changed[0, -1] = vocabulary // 2
    with torch.no_grad(), silence():
        logits, logits_changed = (
            model(input_ids=tokens).logits[0, :-1].float() for tokens in (ids, changed)
        )
    if not bool(torch.isfinite(logits).all()):
        raise CheckpointError(
            f"The model in {directory} predicts NaN or infinity in "
            f"{dtype_name(model.dtype)}, though all its weights are finite.",
            "Try a wider --dtype, or trace an earlier checkpoint of the training run.",
        )
    tolerance = 0.03 if model.dtype == torch.bfloat16 else 1e-3
    scale = float((logits - logits.mean()).abs().max())
    if float((logits - logits_changed).abs().max()) > tolerance * scale:
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
