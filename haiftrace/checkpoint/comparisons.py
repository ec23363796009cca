"""What is loaded beside what the files say: tokenizer.json, and the model's default attention."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.checkpoint.pretrained import silence

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_SAMPLE = (
    "Call Ms O'Neill on 555-0142 (ext. 20357), 2026-11-29.\n\tE-mail: mara.ellison@example.org; "
    "it's £1,234.50  for naïve café № 7.\nfor i in range(10): x += 3.14159e-10\r\n"
    "王芳的电话是13800138000。 Привет, мир! العربية हिन्दी 🙂"
)
"""Digits, contractions, white space, scripts: what tokenizers' rules differ in."""

_RELATIVE = 0.01
"""Of the largest logit; kernels of one attention differ by far less in float32."""


def tokenizer_note(directory: Path, tokenizer: PreTrainedTokenizerFast) -> str | None:
    """Where transformers' tokenizer reads a sample otherwise than the directory's tokenizer.json.

    Some classes bring rules of their own whatever the file says: Qwen2's splits digits.
    """
    from tokenizers import Tokenizer

    file = directory / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        written = Tokenizer.from_file(str(file))
    except Exception:  # transformers has loaded it: what it cannot read is not compared
        return None
    theirs = written.encode(_SAMPLE, add_special_tokens=False).ids
    ours = tokenizer(_SAMPLE, add_special_tokens=False, verbose=False)["input_ids"]
    if theirs == ours:
        return None
    return (
        f"transformers' {type(tokenizer).__name__} reads text otherwise than tokenizer.json in"
        f" {directory} says ({len(ours)} tokens of a sample, not {len(theirs)}): what is traced is"
        " what transformers reads, as its training does"
    )


def attention_note(model: PreTrainedModel, vocabulary: int) -> str | None:
    """Where eager attention, which is traced, gives other logits than the model's default one."""
    if not getattr(model, "_supports_sdpa", False):
        return None
    try:
        with silence():
            eager = _logits(model, vocabulary)
            model.set_attn_implementation("sdpa")
            default = _logits(model, vocabulary)
    except Exception:  # a model that has one implementation only
        return None
    finally:
        model.set_attn_implementation("eager")
    widest = float((eager - default).abs().max())
    if widest <= _RELATIVE * float(eager.abs().max()):
        return None
    return (
        f"this model's default attention (sdpa) gives logits that differ by up to {widest:.2g} from"
        " eager attention's, which is what is traced: its answers may differ from those that you"
        " have seen"
    )


def _logits(model: PreTrainedModel, vocabulary: int) -> Tensor:
    import torch

    ids = torch.arange(16, device=model.device).mul(7).remainder(vocabulary)[None]
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, use_cache=False).logits.float()
    return logits
