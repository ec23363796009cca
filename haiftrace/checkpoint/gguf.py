"""GGUF files, through transformers' own reader: dequantised, with the tokenizer that they hold."""

from __future__ import annotations

import hashlib
import io
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.checkpoint.pretrained import silence
from haiftrace.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_SUFFIX = ".gguf"
_NEEDED = ("gguf", "accelerate")
_HINT = (
    "Trace the checkpoint that it was converted from, as a Hugging Face directory with safetensors"
    " weights."
)


def find_gguf(path: str | Path) -> Path | None:
    """The GGUF file that `path` is, or the only weights of the directory that it is; None without.

    Raises:
        CheckpointError: the directory holds several, and nothing says which.
    """
    place = Path(path).expanduser()
    if place.is_file() and place.suffix.lower() == _SUFFIX:
        return place.resolve()
    if not place.is_dir() or (place / "config.json").is_file():
        return None
    files = sorted(file for file in place.iterdir() if file.suffix.lower() == _SUFFIX)
    if len(files) > 1:
        raise CheckpointError(
            f"{place} holds {len(files)} GGUF files.", f"Name one of them, like {files[0]}"
        )
    return files[0].resolve() if files else None


def gguf_fingerprint(file: Path) -> str:
    """SHA-256 of the file."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"Cannot read {file}: {error.strerror}.") from None


def load_gguf(
    file: Path, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, tuple[str, ...]]:
    """The model and tokenizer in a GGUF file, on the CPU, ready to be traced; and notes.

    Raises:
        CheckpointError: a package is missing, transformers' reader does not know the architecture,
            or the file is broken.
    """
    missing = [package for package in _NEEDED if find_spec(package) is None]
    if missing:
        raise CheckpointError(
            f"{file} is a GGUF file, and to read it takes {' and '.join(missing)}, not installed"
            " here.",
            f"pip install {' '.join(missing)}",
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        # The reader has a bar of its own, which no setting of transformers hides.
        with silence(), redirect_stderr(io.StringIO()):
            model, info = AutoModelForCausalLM.from_pretrained(
                file.parent,
                dtype=dtype,
                attn_implementation="eager",
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                **where,
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    except Exception as error:  # whatever the readers raise on a file
        line = next(iter(str(error).strip().splitlines()), "")[:300]
        raise CheckpointError(
            f"The GGUF file {file} cannot be loaded: {type(error).__name__}: {line}", _HINT
        ) from error
    missing_keys = sorted(info["missing_keys"])
    if missing_keys:
        raise CheckpointError(
            f"The GGUF file {file} is incomplete: {len(missing_keys)} tensors of the architecture"
            f" are not in it ({missing_keys[0]}).",
            _HINT,
        )
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"The tokenizer in {file} cannot say which characters a token covers.", _HINT
        )
    model.eval()
    model.requires_grad_(False)
    model.config.use_cache = False
    note = f"the weights in {file} are quantised (GGUF) and dequantised in memory"
    return model, tokenizer, (note,)
