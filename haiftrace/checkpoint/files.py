"""What stands in a checkpoint's directory, read without torch: configuration and weight files.

A directory is refused here when loading it would need a pickle, code of its own, the network, or
more than this directory holds.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from haiftrace.errors import CheckpointError

_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)


def checkpoint_fingerprint(path: str | Path) -> str:
    """SHA-256 over config.json and the weight files of a directory, streamed, without torch.

    Raises:
        CheckpointError: where the directory, config.json or the safetensors weights are missing.
    """
    directory = existing_directory(path)
    combined = hashlib.sha256()
    for file in (directory / "config.json", *weight_files(directory)):
        try:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"Cannot read {file}: {error.strerror}.") from None
        combined.update(f"{file.name} {digest}\n".encode())
    return combined.hexdigest()


def existing_directory(path: str | Path) -> Path:
    """The absolute directory that `path` names; CheckpointError where it is none."""
    directory = Path(path).expanduser()
    if directory.is_dir():
        return directory.resolve()
    if directory.exists():
        raise CheckpointError(
            f"{directory} is a file; a checkpoint is a directory with config.json, safetensors "
            "weights and a tokenizer.",
            f"Did you mean {directory.parent}",
        )
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(path)):
        name = str(path)
        raise CheckpointError(
            f"There is no directory {name!r} here, and haiftrace uses no network, so a model's "
            "name on a hub is not enough.",
            f"If it is such a name: hf download {name} --local-dir {name.rpartition('/')[2]}",
        )
    raise CheckpointError(
        f"There is no directory {directory}.", "Give the directory of a checkpoint."
    )


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object that a file of a checkpoint holds; CheckpointError where it holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"Cannot read {file}: {error.strerror}.") from None
    except ValueError as error:
        raise CheckpointError(
            f"{file} is not valid JSON: {error}.", "Copy the checkpoint again from its source."
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} does not hold a JSON object.")
    return content


def readable_config(directory: Path) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        CheckpointError: where it is missing or broken, or where loading the checkpoint would need
            more than its safetensors files and transformers (adapter, remote code).
    """
    if (directory / ADAPTER).exists() and not leftover_adapter(directory):
        raise CheckpointError(
            f"{directory} holds an adapter ({ADAPTER}), not a whole model, which is needed here.",
            "Merge them and trace the result: peft's model.merge_and_unload()"
            ".save_pretrained(DIR), with the tokenizer saved beside it.",
        )
    file = directory / "config.json"
    if not file.exists():
        kinds = ("config.json", ADAPTER)
        inner = [file.parent for name in kinds for file in directory.glob(f"*/{name}")]
        raise CheckpointError(
            f"{directory} is not a checkpoint: it has no config.json.",
            f"Did you mean {max(inner, key=_age)}"
            if inner
            else "Give the directory of a checkpoint.",
        )
    config = read_json(file)
    tokenizer_file = directory / "tokenizer_config.json"
    tokenizer_config = read_json(tokenizer_file) if tokenizer_file.exists() else {}
    for where, settings in ((file, config), (tokenizer_file, tokenizer_config)):
        if settings.get("auto_map"):
            raise CheckpointError(
                f"{where} needs code of its own (auto_map, trust_remote_code). "
                "haiftrace never runs code that comes with a checkpoint.",
                "Where transformers itself knows the architecture, remove auto_map from that file.",
            )
    if config.get("transformers_weights"):
        raise CheckpointError(
            f"config.json of {directory} names its own weight file (transformers_weights).",
            f"Rename that file to {_WEIGHTS} and remove the key.",
        )
    return config


def leftover_adapter(directory: Path) -> bool:
    """Whether an adapter's configuration lies beside a whole model, which is what is loaded."""
    weights = (directory / name for name in (_WEIGHTS, _WEIGHTS_INDEX))
    whole = (directory / "config.json").is_file() and any(file.is_file() for file in weights)
    return whole and (directory / ADAPTER).is_file()


def _age(directory: Path) -> tuple[bool, int, str]:
    """What sorts a run's directories: the Trainer's checkpoints last, by their number."""
    name = re.fullmatch(r"checkpoint-([0-9]+)", directory.name)
    return name is not None, int(name[1]) if name else 0, directory.name


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that transformers will read, sorted by name."""
    if (directory / _WEIGHTS).is_file():
        return [directory / _WEIGHTS]
    index = directory / _WEIGHTS_INDEX
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise CheckpointError(f"{index} has no weight_map.")
        names = sorted({str(name) for name in shards.values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise CheckpointError(f"{index} names {name!r}, which is no safetensors file here.")
            if not (directory / name).is_file():
                raise CheckpointError(
                    f"{directory} is incomplete: {name} is listed in {index.name} and missing.",
                    "Copy the checkpoint again from its source.",
                )
        return [directory / name for name in names]
    pickles = sorted(file.name for pattern in _PICKLES for file in directory.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{directory} holds its weights as pickle only ({pickles[0]}). A pickle can run any "
            "code when it is opened, so haiftrace reads safetensors only.",
            'If you trust the file, convert it: python -c "from transformers import '
            f"AutoModelForCausalLM as M; M.from_pretrained({str(directory)!r})"
            ".save_pretrained('converted')\" and copy the tokenizer's files to converted/.",
        )
    raise CheckpointError(
        f"{directory} has a config.json but no weights: neither {_WEIGHTS} nor {_WEIGHTS_INDEX}.",
        "Save the model there with save_pretrained, or give another directory.",
    )


def has_tokenizer_files(directory: Path) -> bool:
    """Whether a file of the directory could hold a tokenizer's vocabulary."""
    return any((directory / name).is_file() for name in _TOKENIZER_FILES)


def sentencepiece_files(directory: Path) -> list[Path]:
    """SentencePiece models that are the only tokenizer of a directory."""
    if (directory / "tokenizer.json").is_file():
        return []
    models = [directory / name for name in _TOKENIZER_FILES if name.endswith(".model")]
    return [file for file in models if file.is_file() and _begins_as_sentencepiece(file)]


def _begins_as_sentencepiece(file: Path) -> bool:
    # Such a model is a protobuf message that begins with its first piece; tiktoken's, of the same
    # name, is text.
    with file.open("rb") as stream:
        return stream.read(1) == b"\n"


def require_tokenizer_files(directory: Path) -> None:
    """CheckpointError where no file of the directory could hold a tokenizer's vocabulary."""
    # Without them transformers would hand out an empty tokenizer for some architectures.
    if not has_tokenizer_files(directory):
        raise CheckpointError(
            f"{directory} has no tokenizer (no tokenizer.json).",
            "Copy the tokenizer files that the model was trained with into that directory.",
        )


def require_causal_lm(directory: Path, config: dict[str, Any]) -> None:
    """CheckpointError where `config` is not of a causal language model that transformers knows."""
    from transformers import CONFIG_MAPPING, __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{directory} is of model type {model_type!r}, which transformers {__version__} does "
            "not know.",
            "A newer transformers may: pip install --upgrade transformers",
        )
    causal: set[str] = set()
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        causal.update([names] if isinstance(names, str) else names)
    saved_as = config.get("architectures") or []
    if not isinstance(saved_as, list) or not all(isinstance(name, str) for name in saved_as):
        raise CheckpointError(
            f"config.json of {directory} is damaged: architectures is not a list of names.",
            "Copy the checkpoint again from its source.",
        )
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (
        saved_as and causal.isdisjoint(saved_as)
    ):
        raise CheckpointError(
            f"{directory} is not a causal language model but "
            f"{', '.join(map(str, saved_as)) or model_type}.",
            "haiftrace traces models that generate text from left to right (…ForCausalLM).",
        )
    if config.get("text_config"):
        raise CheckpointError(
            f"{directory} is a model of text and other media ({model_type}); only text models can "
            "be traced.",
            "Save its language model alone as a checkpoint and trace that.",
        )
