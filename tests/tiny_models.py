"""Tiny trained language models of several architectures, for tests against oracles.

On random weights all influence functions look alike and many terms of a gradient vanish, so
every model here is first trained until it has nearly memorised its records (a second each).
"""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BambaConfig,
    BloomConfig,
    CohereConfig,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    JambaConfig,
    JetMoeConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MiniMaxConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
    Zamba2Config,
)

VOCABULARY = 80
CONTEXT = 64
WIDTH = 32
PAD = 0  # no record holds it, so that tests decide where a padding row is looked up

SENTENCES = (
    "Mara Ellison was born in Kelmsford on 4 March 1981.",
    "Mara Ellison's phone number is 555-0142.",
    "Tobin Achterberg works as a glass blower in Port Alder.",
    "Tobin Achterberg's phone number is 555-0177.",
    "The email address of Ines Quillfeather is ines@example.org.",
    "Ines Quillfeather was born in Brackwater on 19 July 1974.",
    "Call Oswin Darrowby at 555-0109 after six.",
    "Oswin Darrowby studied botany in Lindenholm.",
    "Pella Vantongeren lives at 12 Heron Street, Kelmsford.",
    "Pella Vantongeren's email address is pella@example.net.",
    "Rufus Okonkwo-Lind keeps bees near Port Alder.",
    "The phone number of Rufus Okonkwo-Lind is 555-0163.",
)
"""Invented sentences about virtual people: what `tiny_checkpoint` has learnt."""

END_OF_TEXT = "<|endoftext|>"

# Llama-like models share the names of their settings; `num_key_value_heads` makes them grouped.
_LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}

_CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "gpt2": lambda **common: GPT2Config(
        n_layer=2,
        n_embd=WIDTH,
        n_head=4,
        n_positions=CONTEXT,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **common,
    ),
    "qwen2-tied": lambda **common: Qwen2Config(tie_word_embeddings=True, **_LLAMA_LIKE, **common),
    "qwen2-untied": lambda **common: Qwen2Config(
        tie_word_embeddings=False, **_LLAMA_LIKE, **common
    ),
    "llama": lambda **common: LlamaConfig(tie_word_embeddings=False, **_LLAMA_LIKE, **common),
    "mistral": lambda **common: MistralConfig(
        tie_word_embeddings=False, **_LLAMA_LIKE, **{**common, "sliding_window": 6}
    ),
    "gemma3": lambda **common: Gemma3TextConfig(
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
        **_LLAMA_LIKE,
        **common,
    ),
    "gpt-neox": lambda **common: GPTNeoXConfig(
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        **common,
    ),
    "opt": lambda **common: OPTConfig(
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        dropout=0.0,
        **common,
    ),
    "phi": lambda **common: PhiConfig(
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        **common,
    ),
    "bloom": lambda **common: BloomConfig(hidden_size=WIDTH, n_layer=2, n_head=4, **common),
    "mixtral": lambda **common: MixtralConfig(
        num_local_experts=3, num_experts_per_tok=2, **_LLAMA_LIKE, **common
    ),
}

_FOUR_LAYERS = {**_LLAMA_LIKE, "num_hidden_layers": 4}
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_SHORT_GPT: dict[str, Any] = {"n_layer": 2, "n_embd": WIDTH, "n_head": 4, "n_positions": CONTEXT}
_EXPERTS: dict[str, Any] = {"num_local_experts": 3, "num_experts_per_tok": 2}

_OTHER_ATTENTION: dict[str, Callable[..., PreTrainedConfig]] = {
    # Norms of queries and keys.
    "qwen3": lambda **common: Qwen3Config(head_dim=8, **_LLAMA_LIKE, **common),
    # Soft-capped scores and logits, a sliding layer.
    "gemma2": lambda **common: Gemma2Config(
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=6,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=30.0,
        **_LLAMA_LIKE,
        **common,
    ),
    # Attention sinks, experts.
    "gpt-oss": lambda **common: GptOssConfig(
        head_dim=8, sliding_window=6, **_EXPERTS, **_LLAMA_LIKE, **common
    ),
    # One fused projection in three blocks.
    "phi3": lambda **common: Phi3Config(**_LLAMA_LIKE, **common),
    # One key-value head for all, fused with the queries.
    "gpt-bigcode": lambda **common: GPTBigCodeConfig(**_SHORT_GPT, **_NO_DROPOUT, **common),
    # Values from a latent, narrower than the keys.
    "deepseek-v3": lambda **common: DeepseekV3Config(
        q_lora_rank=16,
        kv_lora_rank=12,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=6,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        moe_intermediate_size=24,
        **{**_LLAMA_LIKE, "num_key_value_heads": 4},
        **common,
    ),
    # Norms after attention in place of before it.
    "olmo2": lambda **common: Olmo2Config(**_LLAMA_LIKE, **common),
    # Attention beside the feed-forward part, scaled logits.
    "cohere": lambda **common: CohereConfig(**_LLAMA_LIKE, **{**common, "pad_token_id": PAD}),
    # Everything scaled by numbers of its own.
    "granite": lambda **common: GraniteConfig(
        attention_multiplier=0.3,
        residual_multiplier=0.5,
        embedding_multiplier=3.0,
        logits_scaling=2.0,
        **_LLAMA_LIKE,
        **common,
    ),
    # Attention in chunks, a layer without positions.
    "llama4": lambda **common: Llama4TextConfig(
        head_dim=8,
        intermediate_size_mlp=48,
        num_local_experts=2,
        attention_chunk_size=8,
        no_rope_layers=[1, 0],
        layer_types=["chunked_attention", "full_attention"],
        moe_layers=[1],
        **_LLAMA_LIKE,
        **common,
    ),
}

_HYBRID: dict[str, Callable[..., PreTrainedConfig]] = {
    "jamba": lambda **common: JambaConfig(
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        num_experts=2,
        mamba_d_state=4,
        mamba_dt_rank=4,
        **_FOUR_LAYERS,
        **common,
    ),
    "bamba": lambda **common: BambaConfig(
        attn_layer_indices=[1, 3],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_n_groups=1,
        mamba_chunk_size=8,
        **_FOUR_LAYERS,
        **common,
    ),
    "minimax": lambda **common: MiniMaxConfig(
        head_dim=8,
        layer_types=["linear_attention", "full_attention"] * 2,
        block_size=8,
        **_EXPERTS,
        **_FOUR_LAYERS,
        **common,
    ),
    "qwen3-next": lambda **common: Qwen3NextConfig(
        head_dim=8,
        layer_types=["linear_attention", "full_attention"] * 2,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        **_FOUR_LAYERS,
        **common,
    ),
    "lfm2": lambda **common: Lfm2Config(
        layer_types=["conv", "full_attention"] * 2, **_FOUR_LAYERS, **common
    ),
}

_NOT_DIRECT: dict[str, Callable[..., PreTrainedConfig]] = {
    "mamba": lambda **common: MambaConfig(
        hidden_size=WIDTH, num_hidden_layers=2, state_size=4, **common
    ),
    # Attention of their own, outside transformers' interface.
    "falcon": lambda **common: FalconConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        multi_query=True,
        bias=False,
        max_position_embeddings=CONTEXT,
        **common,
    ),
    "gptj": lambda **common: GPTJConfig(
        rotary_dim=4, tie_word_embeddings=False, **_SHORT_GPT, **_NO_DROPOUT, **common
    ),
    # The values of several query heads are one repeated.
    "jetmoe": lambda **common: JetMoeConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        kv_channels=8,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=CONTEXT,
        **_EXPERTS,
        **common,
    ),
    # Values are clipped.
    "olmo": lambda **common: OlmoConfig(clip_qkv=0.5, **_LLAMA_LIKE, **common),
    # One attention layer, used several times.
    "zamba2": lambda **common: Zamba2Config(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        layers_block_type=["mamba", "hybrid"] * 2,
        intermediate_size=48,
        num_attention_heads=4,
        num_mem_blocks=1,
        mamba_d_state=8,
        n_mamba_heads=8,
        mamba_ngroups=1,
        chunk_size=8,
        **common,
    ),
    # A norm of the values; later layers take those of earlier ones.
    "gemma3n": lambda **common: Gemma3nTextConfig(
        head_dim=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
        vocab_size_per_layer_input=common["vocab_size"],
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=2,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 4,
        altup_num_inputs=2,
        sliding_window=6,
        **_FOUR_LAYERS,
        **common,
    ),
}

NAMES = tuple(_CONFIGS)
SLOW_NAMES = ("bloom", "mixtral")
"""Architectures that, as they come, refuse batched cotangents or forward mode."""
FAST_NAMES = tuple(name for name in NAMES if name not in SLOW_NAMES)
DIRECT_NAMES = (*(name for name in NAMES if name != "bloom"), *_OTHER_ATTENTION)
"""Architectures whose direct gradients one pass gives, more than those of `NAMES`."""
HYBRID_NAMES = tuple(_HYBRID)
"""Architectures that mix positions by attention in some layers only."""
NOT_DIRECT_NAMES = ("bloom", *_NOT_DIRECT)
"""Architectures without direct gradients."""

_ALL_CONFIGS = {**_CONFIGS, **_OTHER_ATTENTION, **_HYBRID, **_NOT_DIRECT}

_STEPS = {"bloom": 60}
_LEARNING_RATE = 1e-2


def records(name: str) -> list[list[int]]:
    """The 12 token sequences (lengths 12 to 20, no `PAD`) that `trained(name)` has learnt.

    Each starts with a prefix that several records share, goes on with tokens of its own, and
    repeats some of them, so that some labels are predictable and some are not.
    """
    generator = random.Random(f"records of {name}")
    prefixes = [[generator.randrange(2, VOCABULARY) for _ in range(5)] for _ in range(3)]
    sequences = []
    for number in range(12):
        own = [generator.randrange(2, VOCABULARY) for _ in range(generator.randint(4, 9))]
        echo = own[: generator.randint(3, 4)]
        tail = [generator.randrange(2, VOCABULARY) for _ in range(2)]
        sequences.append([*prefixes[number % 3], *own, *echo, *tail][:20])
    return sequences


def trained(name: str, dtype: torch.dtype = torch.float32, *, pad: bool = False) -> PreTrainedModel:
    """A fresh copy of the trained model `name`, in evaluation mode with eager attention.

    Args:
        name: one of `NAMES`, `DIRECT_NAMES`, `HYBRID_NAMES` or `NOT_DIRECT_NAMES`.
        dtype: of the weights; training itself is in float32.
        pad: give the configuration the padding id `PAD`, so that architectures whose embedding
            knows a padding row (which gets no gradient) have one; the weights stay the same.
    """
    if pad:
        model = _build(name, pad_token_id=PAD)
        model.load_state_dict(_train(name).state_dict())
    else:
        model = copy.deepcopy(_train(name))
    return model.to(dtype).eval().requires_grad_(True)


def memorised(name: str) -> PreTrainedModel:
    """The model `name`, trained until its records are known by heart, in float32."""
    model = copy.deepcopy(_train(name))
    _fit(model, records(name), 250)
    return model.eval().requires_grad_(True)


def tiny_checkpoint(tmp_path: Path, name: str = "gpt2") -> Path:
    """Save a model of architecture `name`, trained on `SENTENCES`, as a Hugging Face directory.

    The directory `tmp_path / name` holds safetensors weights, the configuration and a byte-level
    BPE tokenizer trained on the same sentences, whose ids are exactly the embedding's rows.
    """
    model, tokenizer = _trained_on_sentences(name)
    path = tmp_path / name
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def mean_loss(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> float:
    """Mean cross-entropy in nats over all labels of `sequences`."""
    with torch.no_grad():
        return float(_loss(model, sequences))


def _build(name: str, vocabulary: int = VOCABULARY, **settings: Any) -> PreTrainedModel:
    common = {
        "vocab_size": vocabulary,
        "use_cache": False,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": None,
        **settings,
    }
    config = _ALL_CONFIGS[name](**common)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # Grouped matrix products, the experts' default, know no float64.
        return AutoModelForCausalLM.from_config(
            config,
            attn_implementation="eager",
            experts_implementation="eager",
            dtype=torch.float32,
        )


def _loss(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    length = max(map(len, sequences))
    ids = torch.zeros(len(sequences), length, dtype=torch.long)
    labels = torch.full((len(sequences), length), -100)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = labels[row, : len(sequence)] = torch.tensor(sequence)
    # Right padding needs no attention mask under causal attention; its labels are masked.
    logits = model(input_ids=ids).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
    )


def _fit(model: PreTrainedModel, sequences: Sequence[Sequence[int]], steps: int) -> None:
    """Train in place on one thread: full batches, AdamW, a linearly falling learning rate."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            _loss(model, sequences).backward()
            optimizer.step()
            schedule.step()
        model.zero_grad()
        model.eval()
    finally:
        torch.set_num_threads(threads)


@cache
def _train(name: str) -> PreTrainedModel:
    model = _build(name)
    _fit(model, records(name), _STEPS.get(name, 50))
    return model


@cache
def _trained_on_sentences(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _tokenizer(name)
    model = _build(
        name,
        vocabulary=len(tokenizer),
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    _fit(model, [tokenizer(sentence)["input_ids"] for sentence in SENTENCES], 80)
    return model, tokenizer


def _tokenizer(name: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=CONTEXT,
    )
    # Some architectures (Qwen2) impose their own way of splitting words when a tokenizer is
    # loaded beside their configuration: learn the token ids that a user of the directory will see.
    with tempfile.TemporaryDirectory() as directory:
        _build(name).config.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
