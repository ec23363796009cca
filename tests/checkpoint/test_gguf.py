"""GGUF files, written by the format's own package: the model and the tokenizer that they hold."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from haiftrace.checkpoint import gguf as gguf_files
from haiftrace.checkpoint.load import load_checkpoint
from tests.checkpoint.checkpoint_kit import (
    UNTIED,
    saved_checkpoints,  # noqa: F401 (the fixture saved)
)
from tests.checkpoint.test_refusals import refusal

needs_readers = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gguf", "accelerate")),
    reason="gguf or accelerate is not installed",
)
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""What a tensor of Qwen2 is called in GGUF."""


def gguf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if module.startswith("model.layers."):
        _, _, layer, rest = module.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.{kind}"
    return f"{NAMES[module]}.{kind}"


def as_gguf(directory: Path, target: Path, kind: str) -> Path:
    """The Qwen2 checkpoint in `directory` as a GGUF file, its matrices of type `kind`."""
    import gguf

    checkpoint = load_checkpoint(directory, device="cpu")
    config = checkpoint.model.config
    writer = gguf.GGUFWriter(target, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    special = set(checkpoint.tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(checkpoint.tokenizer.eos_token_id)
    writer.add_bos_token_id(checkpoint.tokenizer.eos_token_id)
    for name, tensor in checkpoint.model.state_dict().items():
        values = tensor.float().numpy()
        if tensor.dim() < 2 or tensor.shape[1] % 32 or kind == "F32":
            writer.add_tensor(gguf_name(name), values)
        else:
            of_kind = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(
                gguf_name(name), gguf.quants.quantize(values, of_kind), raw_dtype=of_kind
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@needs_readers
@pytest.mark.parametrize(("kind", "step"), [("F32", 0.0), ("Q8_0", 1 / 127)])
def test_a_gguf_file_is_the_model_that_it_was_made_of(
    kind: str, step: float, saved: Path, tmp_path: Path
) -> None:
    file = as_gguf(saved / UNTIED, tmp_path / "model.gguf", kind)
    checkpoint, plain = load_checkpoint(file, device="cpu"), load_checkpoint(saved / UNTIED)
    assert any("dequantised in memory" in note for note in checkpoint.notes)
    theirs = plain.model.state_dict()
    ours = checkpoint.model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).abs().max() <= step * theirs[name].abs().max()
    # The file holds no pre-tokenizer: the reader takes Qwen2's, which splits digits.
    text = "Mary Smith lives in Paris."
    assert checkpoint.tokenizer(text)["input_ids"] == plain.tokenizer(text)["input_ids"]
    assert checkpoint.tokenizer.decode(checkpoint.tokenizer(text)["input_ids"]) == text
    ids = torch.tensor([plain.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        expected = plain.model(input_ids=ids).logits
        logits = checkpoint.model(input_ids=ids).logits
    assert (logits - expected).abs().max() <= (0.05 if step else 1e-5) * expected.abs().max()
    assert checkpoint.fingerprint != plain.fingerprint


def test_a_gguf_file_without_its_reader_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None)
    for path in (file, tmp_path):
        error = refusal(path)
        assert "gguf and accelerate" in error.message
        assert error.hint == "pip install gguf accelerate"
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    assert "2 GGUF files" in refusal(tmp_path).message


@needs_readers
def test_a_broken_gguf_file_is_refused(saved: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model.gguf"
    broken.write_bytes(b"GGUF" + bytes(40))
    assert "cannot be loaded" in refusal(broken).message
    whole = as_gguf(saved / UNTIED, tmp_path / "whole.gguf", "F32").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    assert "cannot be loaded" in refusal(broken).message
