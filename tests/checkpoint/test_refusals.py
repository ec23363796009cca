"""Loading a checkpoint: how each bad directory, dtype or device is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.errors import CheckpointError, HaiftraceError, UsageError
from tests.checkpoint.checkpoint_kit import (
    UNTIED,
    own_gpt2,  # noqa: F401 (the fixture gpt2)
    save_untrained,
    saved_checkpoints,  # noqa: F401 (the fixture saved)
)
from tests.checkpoint.run_samples import edit_json, edit_weights


@pytest.fixture
def untied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved / UNTIED, tmp_path / "broken"))


def refusal(path: str | Path, **options: str) -> HaiftraceError:
    """The error that loading `path` ends in: one paragraph, a hint, exit code 2."""
    with pytest.raises(HaiftraceError) as caught:
        load_checkpoint(path, **{"device": "cpu", **options})
    error = caught.value
    assert error.exit_code == 2
    assert error.message
    assert "\n" not in error.message
    return error


# ---- paths


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen2-0.5B"])
def test_a_hub_name_is_not_downloaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal(name)
    assert "no network" in error.message
    assert error.hint.endswith(f"hf download {name} --local-dir {name.split('/')[-1]}")
    assert list(tmp_path.iterdir()) == []


def test_no_such_directory(tmp_path: Path) -> None:
    missing = tmp_path / "no such model"
    assert str(missing) in refusal(missing).message


def test_a_file_is_not_a_checkpoint(gpt2: Path) -> None:
    error = refusal(gpt2 / "model.safetensors")
    assert "is a file" in error.message
    assert str(gpt2) in error.hint


def test_directory_without_configuration(tmp_path: Path) -> None:
    assert "no config.json" in refusal(tmp_path).message


def test_a_trainer_output_points_to_the_checkpoint_inside(gpt2: Path) -> None:
    inner = gpt2.parent / "output" / "checkpoint-20"
    shutil.copytree(gpt2, inner)
    assert str(inner) in refusal(inner.parent).hint


@pytest.mark.parametrize("content", ["{", '["not", "an", "object"]'])
def test_broken_configuration(gpt2: Path, content: str) -> None:
    (gpt2 / "config.json").write_text(content)
    assert "config.json" in refusal(gpt2).message


# ---- what is refused before anything is loaded


def test_pickle_weights_only(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").rename(gpt2 / "pytorch_model.bin")
    error = refusal(gpt2)
    assert "pytorch_model.bin" in error.message
    assert "save_pretrained" in error.hint


def test_no_weights_at_all(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").unlink()
    assert "no weights" in refusal(gpt2).message


def test_missing_shard(gpt2: Path) -> None:
    load_checkpoint(gpt2, device="cpu").model.save_pretrained(gpt2, max_shard_size="60KB")
    (gpt2 / "model.safetensors").unlink(missing_ok=True)
    lost = sorted(gpt2.glob("model-*.safetensors"))[1]
    lost.unlink()
    assert lost.name in refusal(gpt2).message


@pytest.mark.parametrize("name", ["../gpt2/model.safetensors", "pytorch_model.bin"])
def test_an_index_may_only_name_safetensors_files_beside_it(gpt2: Path, name: str) -> None:
    (gpt2 / "model.safetensors").unlink()
    index = {"weight_map": {"transformer.wte.weight": name}}
    (gpt2 / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "no safetensors file" in refusal(gpt2).message


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused_and_never_run(gpt2: Path, file: str) -> None:
    (gpt2 / "modeling_own.py").write_text("raise SystemExit('the code was run')")
    edit_json(gpt2 / file, auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    error = refusal(gpt2)
    assert file in error.message
    assert "never runs code" in error.message


def test_quantised(gpt2: Path) -> None:
    edit_json(gpt2 / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantised" in refusal(gpt2).message


def test_configuration_that_names_its_own_weight_file(gpt2: Path) -> None:
    edit_json(gpt2 / "config.json", transformers_weights="other.safetensors")
    assert "transformers_weights" in refusal(gpt2).message


# ---- architectures


def test_unknown_model_type(gpt2: Path) -> None:
    edit_json(gpt2 / "config.json", model_type="not-yet-invented")
    assert "not-yet-invented" in refusal(gpt2).message


@pytest.mark.parametrize(
    "settings",
    [
        {"architectures": ["GPT2Model"]},
        {"architectures": ["GPT2ForSequenceClassification"]},
        {"model_type": "vit", "architectures": None},
    ],
)
def test_not_a_causal_language_model(gpt2: Path, settings: dict[str, Any]) -> None:
    edit_json(gpt2 / "config.json", **settings)
    assert "not a causal language model" in refusal(gpt2).message


def test_a_masked_language_model_is_refused_whatever_it_claims(gpt2: Path) -> None:
    config = BertConfig(
        vocab_size=360,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        tie_word_embeddings=True,
        is_decoder=False,
    )
    torch.manual_seed(0)
    model = BertForMaskedLM(config)
    for value in model.parameters():
        value.data *= 20  # so that attention matters, as in a trained model
    model.save_pretrained(gpt2)
    assert "not a causal language model" in refusal(gpt2).message
    edit_json(gpt2 / "config.json", architectures=["BertLMHeadModel"])
    assert "tokens that come later" in refusal(gpt2).message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_decoder_made_bidirectional_is_refused(tmp_path: Path, saved: Path, dtype: str) -> None:
    save_untrained(tmp_path, "gemma3", saved)
    load_checkpoint(tmp_path, device="cpu", dtype=dtype)
    edit_json(tmp_path / "config.json", use_bidirectional_attention=True)
    assert "tokens that come later" in refusal(tmp_path, dtype=dtype).message


# ---- weights


def test_a_missing_layer_is_never_random(gpt2: Path) -> None:
    edit_weights(gpt2, lambda tensors: tensors.pop("transformer.h.1.mlp.c_fc.weight"))
    error = refusal(gpt2)
    assert "transformer.h.1.mlp.c_fc.weight" in error.message
    assert "random" in error.message


def test_more_layers_than_weights(gpt2: Path) -> None:
    edit_json(gpt2 / "config.json", n_layer=3)
    assert "transformer.h.2." in refusal(gpt2).message


def test_missing_head_of_an_untied_model(untied: Path) -> None:
    edit_weights(untied, lambda tensors: tensors.pop("lm_head.weight"))
    assert "lm_head.weight" in refusal(untied).message


def test_weights_of_another_shape(gpt2: Path) -> None:
    edit_json(gpt2 / "config.json", n_positions=32)
    error = refusal(gpt2)
    assert "transformer.wpe.weight is stored as (64, 32) and should be (32, 32)" in error.message
    edit_json(gpt2 / "config.json", n_embd=33)
    assert "cannot be loaded" in refusal(gpt2).message


def test_truncated_weights(gpt2: Path) -> None:
    file = gpt2 / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "half written" in refusal(gpt2).message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_broken_numbers_name_their_parameter(gpt2: Path, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.h.1.attn.c_attn.weight"][2, 5] = value

    edit_weights(gpt2, spoil)
    error = refusal(gpt2)
    assert "transformer.h.1.attn.c_attn.weight" in error.message
    assert re.search(r"\b1 of \d+ entries", error.message)


def test_finite_weights_that_overflow_in_the_forward_pass(gpt2: Path) -> None:
    def enlarge(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.ln_f.weight"] *= 1e30
        tensors["transformer.wte.weight"] *= 1e12

    edit_weights(gpt2, enlarge)
    assert "predicts NaN or infinity" in refusal(gpt2).message


# ---- tokenizers


def test_no_tokenizer(gpt2: Path) -> None:
    (gpt2 / "tokenizer.json").unlink()
    assert "no tokenizer" in refusal(gpt2).message


def test_broken_tokenizer(gpt2: Path) -> None:
    (gpt2 / "tokenizer.json").write_text("{}")
    assert "tokenizer" in refusal(gpt2).message


def test_tokenizer_with_more_ids_than_the_embedding_has_rows(gpt2: Path) -> None:
    tokenizer = load_checkpoint(gpt2, device="cpu").tokenizer
    tokenizer.add_tokens(["<new>", "<newer>"])
    tokenizer.save_pretrained(gpt2)
    message = refusal(gpt2).message
    assert "361" in message
    assert "360 rows" in message


def test_a_marker_beyond_the_embedding_that_text_never_brings(gpt2: Path) -> None:
    """As in Gemma 3's text models: harmless, unless chat template or padding insert it."""
    tokenizer = load_checkpoint(gpt2, device="cpu").tokenizer
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(gpt2)
    checkpoint = load_checkpoint(gpt2, device="cpu")
    assert max(checkpoint.tokenizer.get_vocab().values()) == checkpoint.vocabulary == 360

    (gpt2 / "chat_template.jinja").write_text("<image>{{ messages[0].content }}")
    assert "360 rows" in refusal(gpt2).message
    (gpt2 / "chat_template.jinja").unlink()
    tokenizer.pad_token = "<image>"
    tokenizer.save_pretrained(gpt2)
    assert "360 rows" in refusal(gpt2).message


def test_fewer_ids_than_rows_are_fine(saved: Path, untied: Path) -> None:
    model = load_checkpoint(untied, device="cpu").model
    model.resize_token_embeddings(384)
    model.save_pretrained(untied)
    assert load_checkpoint(untied, device="cpu").vocabulary == 384


# ---- dtype and device


def test_unknown_dtype_and_device(saved: Path) -> None:
    assert isinstance(refusal(saved / "gpt2", dtype="float16"), UsageError)
    for device in ("gpu", "cuda:", "cuda:-1", "cuda:x", "mps", ""):
        assert isinstance(refusal(saved / "gpt2", device=device), UsageError)


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_no_gpu(saved: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = refusal(saved / "gpt2", device=device)
    assert "no GPU" in error.message
    assert "--device cpu" in error.hint


def test_checkpoint_errors_keep_their_kind(tmp_path: Path) -> None:
    assert isinstance(refusal(tmp_path), CheckpointError)
