"""For the tests of checkpoints: trained directories to load or break, and untrained ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from tests import kit, tiny_models

UNTIED = "qwen2-untied"


@pytest.fixture(name="saved")
def saved_checkpoints() -> Path:
    """A directory of checkpoints that no test changes."""
    for name in ("gpt2", UNTIED):
        kit.checkpoint_path(name)
    return kit.checkpoint_path().parent


@pytest.fixture(name="gpt2")
def own_gpt2(saved: Path, tmp_path: Path) -> Path:
    """A copy of the tiny GPT-2 that a test may break."""
    return Path(shutil.copytree(saved / "gpt2", tmp_path / "broken"))


def save_untrained(path: Path, name: str, saved: Path) -> PreTrainedModel:
    """Save an untrained model of architecture `name` with the tiny GPT-2's tokenizer."""
    model = tiny_models._build(name, vocabulary=360)
    model.save_pretrained(path)
    for file in (saved / "gpt2").glob("tokenizer*"):
        shutil.copy(file, path)
    return model
