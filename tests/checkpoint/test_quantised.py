"""Quantised checkpoints: what is traced is the model that the packed weights stand for."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.checkpoint.packed import awq, bnb_4bit, bnb_8bit, gptq
from tests.checkpoint.checkpoint_kit import (
    UNTIED,
    saved_checkpoints,  # noqa: F401 (the fixture saved)
)
from tests.checkpoint.run_samples import edit_json
from tests.checkpoint.test_refusals import refusal

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""AutoAWQ's: which output stands in the n-th four bits of a word."""


def signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


def packed(rows: list[list[int]], bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Each row's numbers in 32-bit words, one at a time."""
    count = 32 // bits
    words = []
    for row in rows:
        of_row = []
        for start in range(0, len(row), count):
            each = [row[start + n] for n in (order or range(count))]
            of_row.append(signed(sum(number << bits * n for n, number in enumerate(each))))
        words.append(of_row)
    return torch.tensor(words, dtype=torch.int32)


def coded(inputs: int, outputs: int, groups: int, bits: int) -> Any:
    """Random codes [I][O], zero points [G][O] and scales [G, O], and the matrix by the formula."""
    random = torch.Generator().manual_seed(bits)
    codes = torch.randint(2**bits, (inputs, outputs), generator=random).tolist()
    zeros = torch.randint(1, 2**bits, (groups, outputs), generator=random).tolist()
    scales = torch.rand(groups, outputs, generator=random)
    size = inputs // groups

    def matrix(group: Any) -> torch.Tensor:
        rows = [
            [(codes[i][o] - zeros[group(i)][o]) * float(scales[group(i), o]) for i in range(inputs)]
            for o in range(outputs)
        ]
        return torch.tensor(rows)

    return codes, zeros, scales, size, matrix


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("first_layout", [True, False])
def test_gptq_by_its_formula(bits: int, first_layout: bool) -> None:
    codes, zeros, scales, _, matrix = coded(32, 16, 4, bits)
    group = [(i * 7) % 4 for i in range(32)]  # in an order of activations
    parts = {
        "qweight": packed([list(column) for column in zip(*codes, strict=True)], bits).T,
        "qzeros": packed([[zero - int(first_layout) for zero in row] for row in zeros], bits),
        "scales": scales,
        "g_idx": torch.tensor(group, dtype=torch.int32),
    }
    unpacked = gptq(parts, bits, zeros_are_less_one=first_layout)
    assert torch.equal(unpacked, matrix(lambda i: group[i]))


def test_awq_by_its_formula() -> None:
    codes, zeros, scales, size, matrix = coded(32, 16, 4, 4)
    parts = {
        "qweight": packed(codes, 4, AWQ_ORDER),
        "qzeros": packed(zeros, 4, AWQ_ORDER),
        "scales": scales,
    }
    assert torch.equal(awq(parts, size), matrix(lambda i: i // size))


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_4_bits_as_the_library_has_them(kind: str, nested: bool) -> None:
    """Of rows in whole blocks: of others the library's CPU kernel gives something else."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    matrix = torch.randn(7, 192, generator=torch.Generator().manual_seed(0))
    codes, state = quantize_4bit(matrix, quant_type=kind, compress_statistics=nested)
    parts = {"": codes, **state.as_dict(packed=True)}
    assert torch.equal(bnb_4bit(parts), dequantize_4bit(codes, state))
    narrow = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
    codes, state = quantize_4bit(narrow, quant_type=kind, compress_statistics=nested)
    unpacked = bnb_4bit({"": codes, **state.as_dict(packed=True)})
    levels = state.code.sort().values
    widest = float((levels[1:] - levels[:-1]).max() / 2) * float(narrow.abs().max())
    assert (unpacked - narrow).abs().max() <= widest * 1.1


def test_bitsandbytes_8_bits_by_its_formula() -> None:
    codes = torch.tensor([[127, -64], [0, 1]], dtype=torch.int8)
    rows = torch.tensor([2.54, 12.7])
    expected = torch.tensor([[2.54, -1.28], [0.0, 0.1]])
    assert torch.allclose(bnb_8bit({"weight": codes, "SCB": rows}), expected)


def as_gptq(directory: Path, target: Path) -> Path:
    """A checkpoint whose query projections are stored as GPTQ stores them, in 8 bits."""
    shutil.copytree(directory, target)
    state = load_file(target / "model.safetensors")
    for name in [name for name in state if name.endswith("q_proj.weight")]:
        matrix = state.pop(name)
        module = name.removesuffix(".weight")
        scales = matrix.abs().amax(1) / 127
        codes = (matrix / scales[:, None]).round().int() + 128
        state[f"{module}.qweight"] = packed(codes.tolist(), 8).T.contiguous()
        state[f"{module}.qzeros"] = packed([[127] * len(scales)], 8)
        state[f"{module}.scales"] = scales[None]
        state[f"{module}.g_idx"] = torch.zeros(matrix.shape[1], dtype=torch.int32)
    save_file(state, target / "model.safetensors", {"format": "pt"})
    edit_json(target / "config.json", quantization_config={"quant_method": "gptq", "bits": 8})
    return target


def test_a_quantised_checkpoint_is_loaded_and_said_to_be(saved: Path, tmp_path: Path) -> None:
    path = as_gptq(saved / UNTIED, tmp_path / "gptq")
    checkpoint, plain = load_checkpoint(path, device="cpu"), load_checkpoint(saved / UNTIED)
    assert any("dequantised in memory" in note for note in checkpoint.notes)
    theirs = plain.model.state_dict()
    for name, tensor in checkpoint.model.state_dict().items():
        expected = theirs[name]
        step = expected.abs().max() / 127 if name.endswith("q_proj.weight") else 0.0
        assert (tensor - expected).abs().max() <= step
    assert checkpoint.fingerprint != plain.fingerprint
    assert not hasattr(checkpoint.model.config, "quantization_config")
    state = load_file(path / "model.safetensors")
    state.pop(next(name for name in state if name.endswith("scales")))
    save_file(state, path / "model.safetensors", {"format": "pt"})
    assert "incomplete" in refusal(path).message


@needs_bitsandbytes
@pytest.mark.parametrize("name", ["gpt2", UNTIED])
def test_8_bits_as_transformers_dequantises_them(name: str, saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    path = tmp_path / "int8"
    settings = BitsAndBytesConfig(load_in_8bit=True)
    packed_model = AutoModelForCausalLM.from_pretrained(
        saved / name, quantization_config=settings, device_map="cpu"
    )
    packed_model.save_pretrained(path)
    for file in (saved / name).glob("*token*"):
        shutil.copy(file, path)
    ids = torch.arange(2, 30)[None]
    with torch.no_grad():
        expected = packed_model.dequantize(torch.float32)(input_ids=ids).logits
        logits = load_checkpoint(path, device="cpu").model(input_ids=ids).logits
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_what_cannot_be_dequantised_names_the_way(saved: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(saved / UNTIED, tmp_path / "other"))
    for settings in (
        {"quant_method": "hqq"},
        {"quant_method": "gptq", "bits": 3},
        {"quant_method": "awq", "bits": 4, "version": "gemv"},
    ):
        edit_json(path / "config.json", quantization_config=settings)
        error = refusal(path)
        assert "is quantised" in error.message
        assert ".dequantize()" in error.hint
