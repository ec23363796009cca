"""A loaded tokenizer: what identifies it, and whether the model has an embedding for its ids."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of the tokenizer's rules, special tokens and chat template."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # set by the last call, not by the tokenizer
        backend.pop(state, None)
    determining = {
        "backend": backend,
        "special_tokens": tokenizer.special_tokens_map,
        "chat_template": tokenizer.chat_template,
    }
    text = json.dumps(determining, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def common_vocabulary(
    directory: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> int:
    """Rows of the embedding.

    Raises:
        CheckpointError: a token that text can bring has none.
    """
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
