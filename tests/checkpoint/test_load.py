"""Loading a checkpoint: what comes out of a good directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers.utils import logging as transformers_logging

from haiftrace.checkpoint.files import checkpoint_fingerprint
from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.checkpoint.tokenizer import tokenizer_fingerprint
from haiftrace.errors import UsageError
from tests import tiny_models
from tests.checkpoint.checkpoint_kit import (
    UNTIED,
    own_gpt2,  # noqa: F401 (the fixture gpt2)
    save_untrained,
    saved_checkpoints,  # noqa: F401 (the fixture saved)
)
from tests.checkpoint.run_samples import edit_json, edit_weights


@pytest.mark.parametrize("name", tiny_models.NAMES)
def test_every_architecture_loads_as_it_was_saved(name: str, saved: Path, tmp_path: Path) -> None:
    expected = save_untrained(tmp_path, name, saved)
    checkpoint = load_checkpoint(tmp_path, device="cpu")
    model = checkpoint.model

    weights = expected.state_dict()
    assert set(model.state_dict()) == set(weights)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config._attn_implementation == "eager"
    assert model.config.use_cache is False
    assert model(input_ids=torch.tensor([[1, 2, 3]])).past_key_values is None
    assert checkpoint.architecture == type(expected).__name__
    assert checkpoint.parameters == sum(value.numel() for value in expected.parameters())
    assert checkpoint.context == (None if name == "bloom" else tiny_models.CONTEXT)
    assert checkpoint.vocabulary == 360
    assert (checkpoint.dtype, checkpoint.device) == ("float32", "cpu")
    # transformers' class for Qwen2 splits digits, whatever the file says.
    expected_notes = ["Qwen2Tokenizer reads text otherwise"] if name.startswith("qwen2") else []
    assert len(checkpoint.notes) == len(expected_notes)
    assert all(map(str.__contains__, checkpoint.notes, expected_notes))
    assert checkpoint.path == tmp_path.resolve()


@pytest.mark.parametrize("name", ["gpt2", UNTIED])
def test_a_trained_checkpoint_says_what_it_has_learnt(name: str, saved: Path) -> None:
    checkpoint = load_checkpoint(saved / name, device="cpu")
    prompt, answer = "Mara Ellison's phone number is", " 555-0142."
    ids = checkpoint.tokenizer(prompt, return_tensors="pt")["input_ids"]
    new = len(checkpoint.tokenizer(answer)["input_ids"])
    said = checkpoint.model.generate(ids, max_new_tokens=new, do_sample=False)
    assert checkpoint.tokenizer.decode(said[0]) == prompt + answer


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_dtype(name: str, dtype: str, saved: Path, tmp_path: Path) -> None:
    save_untrained(tmp_path, name, saved)
    checkpoint = load_checkpoint(tmp_path, dtype=dtype, device="cpu")
    assert {str(value.dtype) for value in checkpoint.model.parameters()} == {f"torch.{dtype}"}
    assert checkpoint.dtype == dtype
    assert checkpoint.fingerprint == checkpoint_fingerprint(tmp_path)  # whatever the dtype


def test_sharded_weights_load_and_all_count_in_the_fingerprint(gpt2: Path) -> None:
    model = load_checkpoint(gpt2, device="cpu").model
    (gpt2 / "model.safetensors").unlink()
    model.save_pretrained(gpt2, max_shard_size="60KB")
    shards = sorted(gpt2.glob("model-*.safetensors"))
    assert len(shards) > 1
    sharded = load_checkpoint(gpt2, device="cpu")
    assert all(
        torch.equal(value, model.state_dict()[key])
        for key, value in sharded.model.state_dict().items()
    )
    for shard in shards:
        content = shard.read_bytes()
        shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert checkpoint_fingerprint(gpt2) != sharded.fingerprint
        shard.write_bytes(content)
    assert checkpoint_fingerprint(gpt2) == sharded.fingerprint


def test_relative_path_and_fingerprint_do_not_depend_on_the_place(
    saved: Path, gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved)
    here = load_checkpoint("gpt2", device="cpu")
    there = load_checkpoint(gpt2, device="cpu")
    assert here.path == (saved / "gpt2").resolve()
    assert here.fingerprint == there.fingerprint
    assert here.tokenizer_fingerprint == there.tokenizer_fingerprint


def test_fingerprint_changes_with_one_weight_and_with_the_configuration(gpt2: Path) -> None:
    before = checkpoint_fingerprint(gpt2)

    def nudge(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.wte.weight"][3, 4] += 1e-3

    edit_weights(gpt2, nudge)
    nudged = checkpoint_fingerprint(gpt2)
    edit_json(gpt2 / "config.json", layer_norm_epsilon=1e-3)
    assert len({before, nudged, checkpoint_fingerprint(gpt2)}) == 3


def test_tokenizer_fingerprint_follows_what_decides_tokens(gpt2: Path) -> None:
    tokenizer = load_checkpoint(gpt2, device="cpu").tokenizer
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "a longer text"], padding=False, truncation=True, max_length=3)
    assert tokenizer_fingerprint(tokenizer) == before  # the last call's truncation does not count

    tokenizer.chat_template = "{{ messages[0].content }}"
    with_template = tokenizer_fingerprint(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert len({before, with_template, tokenizer_fingerprint(tokenizer)}) == 3


def test_weights_that_the_architecture_does_not_use_are_noted(gpt2: Path) -> None:
    edit_weights(gpt2, lambda tensors: tensors.update({"transformer.v_head": torch.ones(3)}))
    (note,) = load_checkpoint(gpt2, device="cpu").notes
    assert "transformer.v_head" in note
    assert "1 tensor" in note


def test_loading_says_nothing_and_restores_the_verbosity(
    saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    load_checkpoint(saved / "gpt2", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.get_verbosity() == before
    assert transformers_logging.is_progress_bar_enabled() == bars


def test_importing_the_module_loads_no_torch() -> None:
    code = (
        "import sys, haiftrace.checkpoint.load, haiftrace.parameters.scopes;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_auto_is_float32_on_the_cpu(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    checkpoint = load_checkpoint(saved / "gpt2")
    assert (checkpoint.device, checkpoint.dtype) == ("cpu", "float32")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_is_the_gpu_where_there_is_one(saved: Path) -> None:
    checkpoint = load_checkpoint(saved / "gpt2")
    assert checkpoint.device == "cuda:0"
    assert checkpoint.dtype == ("bfloat16" if torch.cuda.is_bf16_supported() else "float32")
    assert {value.device.type for value in checkpoint.model.parameters()} == {"cuda"}
    with pytest.raises(UsageError):
        load_checkpoint(saved / "gpt2", device=f"cuda:{torch.cuda.device_count()}")
