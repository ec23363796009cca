"""Notes where what is loaded differs from what the files say, or from what is served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from haiftrace.checkpoint.comparisons import attention_note, tokenizer_note
from haiftrace.checkpoint.load import load_checkpoint
from tests import kit


def test_a_tokenizer_class_that_has_its_own_rules_is_warned_of(tmp_path: Path) -> None:
    path = kit.copied_checkpoint(tmp_path / "model")
    assert not load_checkpoint(path, device="cpu").notes
    about = json.loads((path / "tokenizer_config.json").read_text())
    about["tokenizer_class"] = "Qwen2Tokenizer"
    (path / "tokenizer_config.json").write_text(json.dumps(about))
    notes = load_checkpoint(path, device="cpu").notes
    assert any("reads text otherwise than tokenizer.json" in note for note in notes)


def test_a_directory_without_tokenizer_json_is_not_compared(tmp_path: Path) -> None:
    path = kit.copied_checkpoint(tmp_path / "model")
    tokenizer = kit.checkpoint().tokenizer
    assert tokenizer_note(path, tokenizer) is None
    (path / "tokenizer.json").write_text("{}")
    assert tokenizer_note(path, tokenizer) is None
    shutil.rmtree(path)
    assert tokenizer_note(path, tokenizer) is None


class Model(torch.nn.Module):
    """Logits that depend on the attention that is set."""

    _supports_sdpa = True
    device = torch.device("cpu")

    def __init__(self, apart: float) -> None:
        super().__init__()
        self.apart, self.set = apart, "eager"

    def set_attn_implementation(self, name: str) -> None:
        self.set = name

    def forward(self, input_ids: Any, use_cache: bool) -> Any:
        logits = torch.nn.functional.one_hot(input_ids, 11).float()
        return type("O", (), {"logits": logits + self.apart * (self.set == "sdpa")})()


def test_attention_that_differs_from_the_default_is_warned_of() -> None:
    model: Any = Model(1.5)
    note = attention_note(model, 11)
    assert note is not None
    assert "differ by up to 1.5" in note
    assert model.set == "eager"
    same: Any = Model(1e-4)
    assert attention_note(same, 11) is None
    loaded = kit.checkpoint("gpt2", "float32").model
    assert attention_note(loaded, 40) is None
    assert loaded.config._attn_implementation == "eager"
