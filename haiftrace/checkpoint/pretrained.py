"""What transformers reads from a checkpoint's directory: configuration, tokenizer and model.

From local files alone, silently, and with a CheckpointError for whatever it raises.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.checkpoint.files import (
    ADAPTER,
    leftover_adapter,
    readable_config,
    sentencepiece_files,
    weight_files,
)
from haiftrace.checkpoint.quantised import (
    dequantised,
    described,
    quantisation,
    require_known,
)
from haiftrace.checkpoint.safetensors_file import (
    COMPILED_PREFIX,
    plain_name,
    require_whole,
    stored_names,
)
from haiftrace.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


_LOADING: dict[str, Any] = {
    # Forward mode needs eager attention; float64 and forward mode need eager experts.
    "attn_implementation": "eager",
    "experts_implementation": "eager",
    "output_loading_info": True,
    "ignore_mismatched_sizes": True,  # refused afterwards, with the tensor's name
}


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer in a directory; CheckpointError where it is broken or is not fast."""
    from transformers import AutoTokenizer

    try:
        with silence():
            tokenizer = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # whatever a tokenizer class raises on a broken file
        _require_sentencepiece(directory)
        raise CheckpointError(
            f"The tokenizer in {directory} cannot be loaded: {_first_line(error)}",
            "Copy the tokenizer files that the model was trained with into that directory.",
        ) from error
    if not tokenizer.is_fast:
        _require_sentencepiece(directory)
        raise CheckpointError(
            f"The tokenizer in {directory} ({type(tokenizer).__name__}) has no tokenizer.json, so "
            "it cannot say which characters a token covers.",
            "Convert it to a fast tokenizer and save that beside the model.",
        )
    if not isinstance(tokenizer.model_max_length, int | float):
        raise CheckpointError(
            f"tokenizer_config.json of {directory} is damaged: model_max_length is not a number.",
            "Copy the tokenizer files that the model was trained with into that directory.",
        )
    return tokenizer


def _require_sentencepiece(directory: Path) -> None:
    """CheckpointError where the tokenizer is a SentencePiece model and what reads it is missing."""
    needed = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
    models = sentencepiece_files(directory)
    missing = [package for module, package in needed.items() if not _installed(module)]
    if models and missing:
        raise CheckpointError(
            f"The tokenizer in {directory} is a SentencePiece model alone ({models[0].name}, no "
            f"tokenizer.json), and to read it takes {' and '.join(missing)}, not installed here.",
            f"pip install {' '.join(missing)}",
        )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def load_settings(directory: Path) -> dict[str, Any]:
    """The configuration in a directory, completed with the defaults of its architecture."""
    from transformers import AutoConfig

    try:
        with silence():
            config = AutoConfig.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # settings that contradict each other, and whatever else
        raise CheckpointError(
            f"The configuration in {directory} cannot be used: {_first_line(error)}",
            "Copy the checkpoint again from its source.",
        ) from error
    return config.to_dict()


def load_model(directory: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The complete model in a directory, on the CPU, ready to be traced; and notes to the user.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or cannot be read.
    """
    from transformers import AutoModelForCausalLM

    files = weight_files(directory)
    require_whole(files)
    compiled = sum(plain_name(name) != name for file in files for name in stored_names(file))
    packed = quantisation(readable_config(directory))
    if packed is not None:
        require_known(directory, packed)
    try:
        with silence(), _without_adapter(directory) as place:
            if packed is not None:
                model, info = _unpacked_model(place, files, packed, dtype)
            else:
                model, info = AutoModelForCausalLM.from_pretrained(
                    place,
                    key_mapping={COMPILED_PREFIX: ""} if compiled else None,
                    dtype=dtype,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    **_LOADING,
                )
    except CheckpointError:
        raise
    except Exception as error:  # truncated files, settings out of range, and whatever else
        raise CheckpointError(
            f"The model in {directory} cannot be loaded: {_first_line(error)}",
            "Copy the checkpoint again from its source, or save it again with save_pretrained.",
        ) from error
    for name, stored, expected in sorted(info["mismatched_keys"]):
        raise CheckpointError(
            f"Configuration and weights in {directory} do not belong together: {name} is stored as "
            f"{tuple(stored)} and should be {tuple(expected)}.",
            "Copy the checkpoint again from its source.",
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"The weights in {directory} are incomplete: {_names(missing)} of the architecture "
            "are in no file, and would be filled with random numbers.",
            "Copy the checkpoint again from its source; a checkpoint of the base model without "
            "its head cannot be traced.",
        )
    unexpected = sorted(info["unexpected_keys"])
    notes: list[str] = []
    if compiled:
        notes.append(
            f"{compiled} tensors have '_orig_mod.' before their names, as torch.compile saves them;"
            " they are read without it"
        )
    if leftover_adapter(directory):
        notes.append(
            f"{ADAPTER} lies beside a whole model in {directory} and is ignored: the model's own"
            " weights are what is traced"
        )
    if packed is not None:
        notes.append(
            f"the weights in {directory} are quantised ({described(packed)}) and dequantised in"
            " memory: what is traced is the model that they stand for"
        )
    if unexpected:
        notes.append(
            f"The weight files hold {_names(unexpected)} that the architecture does not use; they "
            "are ignored"
        )
    model.eval()
    model.requires_grad_(False)
    model.config.use_cache = False
    return model, tuple(notes)


def _unpacked_model(
    place: Path, files: list[Path], packed: dict[str, Any], dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of a quantised checkpoint with its weights unpacked, and what loading it tells."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    del config.quantization_config
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    kind = kind[0] if isinstance(kind, tuple) else kind
    with torch.device("meta"):
        skeleton = kind(config)
    state = dequantised(files, packed, skeleton, dtype)
    model, info = kind.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, **_LOADING
    )
    if (place / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(place, local_files_only=True)
    return model, info


@contextmanager
def _without_adapter(directory: Path) -> Iterator[Path]:
    """The directory, as links in a temporary one where an adapter's configuration was left in it.

    With peft installed, transformers would load the base model that such a file names instead.
    """
    if not leftover_adapter(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="haiftrace-") as place:
        for file in directory.iterdir():
            if file.name != ADAPTER:
                (Path(place) / file.name).symlink_to(file)
        yield Path(place)


@contextmanager
def silence() -> Iterator[None]:
    """Keep transformers' bars and warnings off the terminal: what matters becomes an error."""
    from transformers.utils import logging as console

    verbosity, bars = console.get_verbosity(), console.is_progress_bar_enabled()
    disabled = logging.root.manager.disable  # of other libraries that a model brings in
    console.set_verbosity(logging.CRITICAL)
    console.disable_progress_bar()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        console.set_verbosity(verbosity)
        if bars:
            console.enable_progress_bar()


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:300]}"


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} tensor(s) ({shown}{', …' if len(names) > 3 else ''})"
