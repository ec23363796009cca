"""Whether a checkpoint is of the same model as the traced one: architecture, tensors, tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.checkpoint.files import has_tokenizer_files, readable_config
from haiftrace.checkpoint.pretrained import load_settings, load_tokenizer
from haiftrace.checkpoint.tokenizer import tokenizer_fingerprint
from haiftrace.checkpoint.weights import Naming, stored_shapes
from haiftrace.errors import CheckpointError

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint

SAME_RUN = "Give checkpoints of the training run that the traced model comes from."

# Of a configuration, what does not change the function that the weights compute in evaluation.
_IGNORED_KEYS = frozenset(
    (
        *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"),
        *("use_cache", "gradient_checkpointing", "initializer_range", "init_std"),
        *("id2label", "label2id", "problem_type", "task_specific_params"),
        *("output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward"),
    )
)
_IGNORED_ENDINGS = ("dropout", "pdrop", "dropout_prob", "dropout_rate", "_token_id")


class CompatibilityCheck:
    """Compares checkpoints of a run with the traced one, which is given as it is loaded."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._path = checkpoint.path
        self._tokenizer = checkpoint.tokenizer_fingerprint
        self._config = readable_config(checkpoint.path)
        self._settings = load_settings(checkpoint.path)
        self._naming = Naming(checkpoint)
        self._shapes = stored_shapes(checkpoint.path)

    def check(self, directory: Path) -> None:
        """CheckpointError where the checkpoint in a directory is of another model."""
        config = readable_config(directory)
        self._check_architecture(directory, config)
        self._check_tensors(directory)  # before the settings: a shape says more than its cause
        self._check_settings(directory)
        self._check_tokenizer(directory)

    def _check_architecture(self, directory: Path, config: dict[str, Any]) -> None:
        for key in ("model_type", "architectures"):
            theirs, ours = config.get(key), self._config.get(key)
            if theirs != ours and (key == "model_type" or (theirs and ours)):
                raise CheckpointError(
                    f"{directory} is of another architecture than {self._path}: {key} is "
                    f"{theirs!r}, not {ours!r}.",
                    SAME_RUN,
                )

    def _check_tensors(self, directory: Path) -> None:
        shapes = stored_shapes(directory)
        if self._naming.fits(shapes):
            return
        theirs, ours = self._naming.untied(shapes), self._naming.untied(self._shapes)
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) == ours.get(name):
                continue
            if name in theirs and name in ours:
                difference = f"{name} is {theirs[name]}, not {ours[name]}"
            else:
                difference = f"{name} is {'missing' if name in ours else 'in it alone'}"
            raise CheckpointError(
                f"The weights in {directory} have not the shape of those in {self._path}: "
                f"{difference}.",
                SAME_RUN,
            )

    def _check_settings(self, directory: Path) -> None:
        settings = load_settings(directory)
        for key in sorted(settings.keys() | self._settings.keys()):
            theirs, ours = settings.get(key), self._settings.get(key)
            if key in _IGNORED_KEYS or key.endswith(_IGNORED_ENDINGS) or theirs == ours:
                continue
            raise CheckpointError(
                f"The configurations of {directory} and {self._path} differ: {key} is "
                f"{str(theirs)[:80]}, not {str(ours)[:80]}.",
                SAME_RUN,
            )

    def _check_tokenizer(self, directory: Path) -> None:
        if not has_tokenizer_files(directory):
            return  # the Trainer saves none where it was not given one
        if tokenizer_fingerprint(load_tokenizer(directory)) != self._tokenizer:
            raise CheckpointError(
                f"{directory} has another tokenizer than {self._path}.",
                f"{SAME_RUN} Where only special tokens or the chat template differ, remove the "
                "tokenizer's files from that directory: the traced model's are used.",
            )
