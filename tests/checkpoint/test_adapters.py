"""PEFT adapters: traced together with their base, as the model that is served."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from haiftrace.checkpoint import adapters
from haiftrace.checkpoint.adapters import find_adapter, model_fingerprint
from haiftrace.checkpoint.files import checkpoint_fingerprint
from haiftrace.checkpoint.load import load_checkpoint
from tests.checkpoint.checkpoint_kit import (
    UNTIED,
    saved_checkpoints,  # noqa: F401 (the fixture saved)
)
from tests.checkpoint.run_samples import edit_json
from tests.checkpoint.test_refusals import refusal

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed"
)
TARGETS = {"gpt2": ["c_attn", "c_proj"], UNTIED: ["q_proj", "down_proj"]}
IDS = torch.arange(2, 30)[None]


def blank_adapter(path: Path, base: object) -> Path:
    """What makes a directory look like an adapter."""
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (path / "adapter_model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    return path


def trained_adapter(path: Path, base: Path, rows: int | None = None, **settings: Any) -> Any:
    """An adapter whose matrices are all random, saved as peft saves it; and the model with it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base)
    if rows is not None:
        model.resize_token_embeddings(rows)
    name = base.name
    config = LoraConfig(
        r=4, target_modules=TARGETS[name], task_type="CAUSAL_LM", lora_alpha=16, **settings
    )
    together = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in together.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    together.save_pretrained(path)
    edit_json(path / "adapter_config.json", base_model_name_or_path=str(base))
    return together.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@needs_peft
@pytest.mark.parametrize("name", TARGETS)
def test_base_and_adapter_are_one_model(name: str, saved: Path, tmp_path: Path) -> None:
    together = trained_adapter(tmp_path / "adapter", saved / name)
    checkpoint = load_checkpoint(tmp_path / "adapter", device="cpu")
    plain = load_checkpoint(saved / name, device="cpu")
    assert (logits(checkpoint.model) - logits(together)).abs().max() < 1e-4
    assert (logits(checkpoint.model) - logits(plain.model)).abs().max() > 1e-2
    assert checkpoint.architecture == plain.architecture
    assert checkpoint.parameters == plain.parameters
    assert [n for n, _ in checkpoint.model.named_parameters()] == [
        n for n, _ in plain.model.named_parameters()
    ]
    assert not any(p.requires_grad for p in checkpoint.model.parameters())
    assert any("merged in memory" in note for note in checkpoint.notes)
    assert checkpoint.fingerprint == model_fingerprint(tmp_path / "adapter") != plain.fingerprint
    assert checkpoint.tokenizer_fingerprint == plain.tokenizer_fingerprint


@needs_peft
def test_embeddings_that_were_trained_or_resized_beside_it_count(
    saved: Path, tmp_path: Path
) -> None:
    base = saved / UNTIED
    rows = json.loads((base / "config.json").read_text())["vocab_size"] + 3
    for number, settings in enumerate(
        ({"rows": rows}, {"modules_to_save": ["embed_tokens", "lm_head"]})
    ):
        path = tmp_path / str(number)
        together = trained_adapter(path, base, **settings)
        checkpoint = load_checkpoint(path, device="cpu")
        assert (logits(checkpoint.model) - logits(together)).abs().max() < 1e-4
        assert checkpoint.vocabulary == (rows if number == 0 else rows - 3)


@needs_peft
def test_an_adapter_of_another_model_is_refused(saved: Path, tmp_path: Path) -> None:
    trained_adapter(tmp_path / "adapter", saved / UNTIED)
    edit_json(
        tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(saved / "gpt2")
    )
    assert str(saved / "gpt2") in refusal(tmp_path / "adapter").message


def test_both_directories_make_the_fingerprint(saved: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(saved / "gpt2", tmp_path / "base"))
    path = blank_adapter(tmp_path / "adapter", str(base))
    seen = {model_fingerprint(path)}
    edit_json(path / "adapter_config.json", r=8)
    seen.add(model_fingerprint(path))
    edit_json(base / "config.json", n_inner=7)
    seen.add(model_fingerprint(path))
    assert len(seen) == 3
    assert model_fingerprint(base) == checkpoint_fingerprint(base)


def test_the_base_is_found_beside_the_adapter_or_from_here(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(saved / "gpt2", tmp_path / "base")
    path = blank_adapter(tmp_path / "adapter", "../base")
    monkeypatch.chdir(saved)
    found = find_adapter(path)
    assert found is not None
    assert found.base == tmp_path / "base"
    other = blank_adapter(tmp_path / "other", "gpt2")
    assert getattr(find_adapter(other), "base", None) == (saved / "gpt2").resolve()


def test_the_base_may_be_named(saved: Path, tmp_path: Path) -> None:
    path = blank_adapter(tmp_path / "adapter", "some/base-model")
    found = find_adapter(path, saved / "gpt2")
    assert found is not None
    assert found.base == (saved / "gpt2").resolve()
    with_name = model_fingerprint(path, saved / "gpt2")
    edit_json(path / "adapter_config.json", base_model_name_or_path=str(saved / "gpt2"))
    assert model_fingerprint(path) != with_name
    error = refusal(saved / "gpt2", base_model=str(saved / UNTIED))
    assert "no adapter" in error.message


@needs_peft
def test_an_index_knows_an_adapter_and_its_base(saved: Path, tmp_path: Path) -> None:
    from tests import kit

    base = Path(shutil.copytree(saved / "gpt2", tmp_path / "gpt2"))
    trained_adapter(tmp_path / "adapter", base)
    edit_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path="else/where")
    made = ("index", "--model", tmp_path / "adapter", "--corpus", kit.corpus_path())
    made = (*made, "-o", tmp_path / "index", "--calibrate", 0)
    kit.refused(kit.cli(*made), "'else/where' is not on this machine")
    outcome = kit.cli(*made, "--base-model", base)
    assert outcome.code == 0, outcome.err
    assert "merged in memory" in outcome.err
    asked = ("trace", kit.PROMPT, "--response", kit.ANSWER, "--index", tmp_path / "index")
    outcome = kit.cli(*asked)
    assert outcome.code == 0, outcome.err
    edit_json(base / "config.json", n_inner=None, unknown=1)
    assert kit.cli(*asked).code == 3


def test_adapters_that_cannot_be_loaded(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = blank_adapter(tmp_path / "a", "some/base-model")
    error = refusal(path)
    assert "'some/base-model' is not on this machine" in error.message
    assert "hf download some/base-model" in error.hint
    assert "--base-model" in error.hint
    assert "names no base model" in refusal(blank_adapter(tmp_path / "b", None)).message
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    assert "pickle" in refusal(path).message
    (path / "adapter_model.bin").unlink()
    assert "without adapter_model.safetensors" in refusal(path).message
    twice = blank_adapter(tmp_path / "d", str(blank_adapter(tmp_path / "c", str(saved / "gpt2"))))
    assert "itself an adapter" in refusal(twice).message
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    error = refusal(tmp_path / "c")
    assert "not installed" in error.message
    assert error.hint.startswith("pip install 'haiftrace[peft]'")


@needs_peft
def test_the_adapters_own_matrices_are_traced_as_by_single_backward_passes(
    saved: Path, tmp_path: Path
) -> None:
    from haiftrace.engine import GradientEngine, make_batch
    from haiftrace.parameters.scopes import select_parameters

    together = trained_adapter(tmp_path / "adapter", saved / UNTIED).double()
    checkpoint = load_checkpoint(tmp_path / "adapter", device="cpu", dtype="float64", unmerged=True)
    names = select_parameters(checkpoint.model, "adapter")
    assert len(names) == sum(".lora_" in name for name, _ in together.named_parameters())
    ids = IDS[0, :9].tolist()
    batch = make_batch([ids], [[False, *[True] * 8]])
    norms = GradientEngine(checkpoint.model, names).token_gradients(batch).norms_BT[0, 1:]
    own = [p for n, p in together.named_parameters() if ".lora_" in n]
    losses = torch.nn.functional.cross_entropy(
        together(input_ids=IDS[:, :9]).logits[0, :-1], IDS[0, 1:9], reduction="none"
    )
    expected = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, own, retain_graph=True)]).norm()
        for loss in losses
    ]
    assert torch.allclose(norms, torch.stack(expected), rtol=1e-5)
    assert (logits(checkpoint.model) - logits(together)).abs().max() < 1e-5


@needs_peft
def test_an_index_of_the_adapters_own_matrices(saved: Path, tmp_path: Path) -> None:
    from tests import kit

    trained_adapter(tmp_path / "adapter", saved / UNTIED)
    corpus = kit.corpus_path()
    made = ("index", "--corpus", corpus, "-o", tmp_path / "index", "--calibrate", 0)
    made = (*made, "--parameters", "adapter", *kit.SMALL_OPTIONS)
    kit.refused(kit.cli(*made, "--model", saved / UNTIED), "no matrices of an adapter's own")
    outcome = kit.cli(*made, "--model", tmp_path / "adapter")
    assert outcome.code == 0, outcome.err
    assert "the adapter's own matrices take their place" in outcome.err
    assert "kernels" not in outcome.err  # a library's notice
    asked = ("trace", kit.PROMPT, "--response", kit.ANSWER, "--index", tmp_path / "index")
    outcome = kit.cli(*asked, "--method", "layerwise,haif", "-o", "-", "--exact", "--full")
    assert outcome.code == 0, outcome.err
    assert outcome.report["model"]["scope"] == "adapter"
    by_haif = outcome.report["findings"][1]["records"]
    assert abs(sum(t["evidence"] for t in by_haif[0]["tokens"]) - by_haif[0]["score"]) < 1e-5
