"""Configurations of tiny language models, each of an architecture with traits of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import (
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
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
    Zamba2Config,
)

CONTEXT = 64
WIDTH = 32
PAD = 0  # no record holds it, so that tests decide where a padding row is looked up

# Llama-like models share the names of their settings; `num_key_value_heads` makes them grouped.
_LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
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

OTHER_ATTENTION: dict[str, Callable[..., PreTrainedConfig]] = {
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

HYBRID: dict[str, Callable[..., PreTrainedConfig]] = {
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

NOT_DIRECT: dict[str, Callable[..., PreTrainedConfig]] = {
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
