"""Directories as training leaves them: compiled names, half-written files, what lies beside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from haiftrace.checkpoint import pretrained
from haiftrace.checkpoint.compatibility import CompatibilityCheck
from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.checkpoint.safetensors_file import require_whole, stored_names
from haiftrace.checkpoint.weights import stored_shapes
from haiftrace.errors import CheckpointError
from tests.checkpoint.checkpoint_kit import (
    own_gpt2,  # noqa: F401 (the fixture gpt2)
    saved_checkpoints,  # noqa: F401 (the fixture saved)
)
from tests.checkpoint.run_samples import edit_weights
from tests.checkpoint.test_refusals import refusal


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod."])
def test_weights_of_a_compiled_model(gpt2: Path, prefix: str) -> None:
    plain = load_checkpoint(gpt2, device="cpu")
    shapes = stored_shapes(gpt2)

    def rename(weights: dict[str, torch.Tensor]) -> None:
        for name in list(weights):
            weights[prefix + name] = weights.pop(name)

    edit_weights(gpt2, rename)
    checkpoint = load_checkpoint(gpt2, device="cpu")
    assert any("_orig_mod." in note and "torch.compile" in note for note in checkpoint.notes)
    weights = checkpoint.model.state_dict()
    assert all(torch.equal(weights[n], t) for n, t in plain.model.state_dict().items())
    assert stored_shapes(gpt2) == shapes
    CompatibilityCheck(plain).check(gpt2)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_half_written_file_is_named(gpt2: Path, kept: float) -> None:
    load_checkpoint(gpt2, device="cpu").model.save_pretrained(gpt2, max_shard_size="60KB")
    (gpt2 / "model.safetensors").unlink(missing_ok=True)
    shard = sorted(gpt2.glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: int(len(content) * kept)])
    error = refusal(gpt2)
    assert f"{shard} are half written" in error.message
    assert "earlier one" in error.hint


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 2000), sizes=st.lists(st.integers(0, 9), max_size=4))
def test_only_whole_files_are_whole(tmp_path_factory, cut: int, sizes: list[int]) -> None:
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file({f"t{i}": torch.zeros(size) for i, size in enumerate(sizes)}, file)
    require_whole([file])
    assert sorted(stored_names(file)) == [f"t{i}" for i in range(len(sizes))]
    content = file.read_bytes()
    file.write_bytes(content[: max(0, len(content) - 1 - cut)])
    with pytest.raises(CheckpointError, match="half written"):
        require_whole([file])


def test_a_file_that_is_no_safetensors_file_is_left_to_who_reads_it(gpt2: Path) -> None:
    for content in (b"\xff" * 200, b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{}"):
        (gpt2 / "model.safetensors").write_bytes(content)
        require_whole([gpt2 / "model.safetensors"])
        refusal(gpt2)


def test_the_newest_checkpoint_of_a_trainer_is_that_of_the_highest_number(
    gpt2: Path, tmp_path: Path
) -> None:
    for name in ("checkpoint-900", "checkpoint-1000", "final", "checkpoint-best"):
        shutil.copytree(gpt2, tmp_path / "out" / name)
    assert refusal(tmp_path / "out").hint.endswith("checkpoint-1000")
    (tmp_path / "out" / "checkpoint-1001").mkdir()
    (tmp_path / "out" / "checkpoint-1001" / "adapter_config.json").write_text("{}")
    assert refusal(tmp_path / "out").hint.endswith("checkpoint-1001")


def test_an_adapters_configuration_left_beside_a_whole_model(gpt2: Path) -> None:
    plain = load_checkpoint(gpt2, device="cpu")
    (gpt2 / "adapter_config.json").write_text('{"base_model_name_or_path": "somewhere/else"}')
    checkpoint = load_checkpoint(gpt2, device="cpu")
    assert checkpoint.fingerprint == plain.fingerprint
    assert any("adapter_config.json" in note for note in checkpoint.notes)
    assert not any(note.endswith(".") for note in checkpoint.notes)


@pytest.mark.parametrize(
    ("installed", "missing"),
    [((), "sentencepiece protobuf"), (("sentencepiece",), "protobuf")],
)
def test_a_sentencepiece_model_alone_names_what_is_missing(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], missing: str
) -> None:
    monkeypatch.setattr(pretrained, "_installed", lambda module: module in installed)
    (gpt2 / "tokenizer.json").unlink()
    (gpt2 / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15")
    (gpt2 / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    error = refusal(gpt2)
    assert "tokenizer.model, no tokenizer.json" in error.message
    assert error.hint == f"pip install {missing}"


def test_a_sentencepiece_model_is_read_where_its_packages_are_installed(
    gpt2: Path, tmp_path: Path
) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    text = tmp_path / "text.txt"
    text.write_text("Mara Ellison was born in Kelmsford on 4 March 1981.\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(gpt2 / "tokenizer"),
        vocab_size=60,
        model_type="bpe",
        hard_vocab_limit=False,
    )
    (gpt2 / "tokenizer.json").unlink()
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    names["tokenizer_class"] = "LlamaTokenizer"
    (gpt2 / "tokenizer_config.json").write_text(json.dumps(names))
    checkpoint = load_checkpoint(gpt2, device="cpu")
    assert checkpoint.tokenizer("Mara", return_offsets_mapping=True)["offset_mapping"]
