"""Tiny causal language models with random weights, and tokenizers trained on a data set's texts.

What is saved is what a user of the directory loads: transformers puts Qwen's own way of splitting
(single digits) in the place of any tokenizer beside a Qwen2 configuration, so a tokenizer is
trained with the splitting that its architecture will have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haiftrace.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

END = "<|endoftext|>"
"""Ends a text, and pads."""


@dataclass(frozen=True)
class Shape:
    """A model's size: `layers` of `width`, MLPs of `inner`, `heads`, `context` tokens at most."""

    layers: int
    width: int
    inner: int
    heads: int
    context: int


def train_tokenizer(texts: Iterable[str], vocabulary: int, arch: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocabulary` tokens, split as `arch` splits.

    Args:
        texts: what it learns from.
        vocabulary: tokens in all, 256 bytes and END included.
        arch: one of `ARCHITECTURES`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Tokenizer, Qwen2Tokenizer

    kind = Qwen2Tokenizer if arch == "qwen2" else GPT2Tokenizer
    blank = kind().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = blank.normalizer
    tokenizer.pre_tokenizer = blank.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    return kind(
        vocab=trained["vocab"],
        merges=[tuple(pair) for pair in trained["merges"]],
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=END,
    )


def new_model(
    arch: str, shape: Shape, tokenizer: PreTrainedTokenizerFast, seed: int
) -> PreTrainedModel:
    """A model with random weights from `seed`, float32, eager attention, tied embeddings.

    The global random state stays as it was.

    Raises:
        UsageError: no such architecture.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if arch not in ARCHITECTURES:
        raise UsageError(
            f"There is no architecture '{arch}' for bench models.",
            f"Choose --arch {' or '.join(ARCHITECTURES)}.",
        )
    config = ARCHITECTURES[arch](
        shape,
        {
            "vocab_size": len(tokenizer),
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "use_cache": False,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )


def _gpt2(shape: Shape, common: dict[str, Any]) -> PreTrainedConfig:
    from transformers import GPT2Config

    return GPT2Config(
        n_embd=shape.width,
        n_inner=shape.inner,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_positions=shape.context,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        **common,
    )


def _rotary(shape: Shape) -> dict[str, Any]:
    return {
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": shape.context,
        "attention_dropout": 0.0,
    }


def _qwen2(shape: Shape, common: dict[str, Any]) -> PreTrainedConfig:
    from transformers import Qwen2Config

    return Qwen2Config(**_rotary(shape), **common)


def _llama(shape: Shape, common: dict[str, Any]) -> PreTrainedConfig:
    from transformers import LlamaConfig

    return LlamaConfig(attention_bias=True, **_rotary(shape), **common)


ARCHITECTURES: dict[str, Callable[[Shape, dict[str, Any]], PreTrainedConfig]] = {
    "qwen2": _qwen2,
    "llama": _llama,
    "gpt2": _gpt2,
}
