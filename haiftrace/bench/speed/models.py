"""Checkpoints and corpora that speed is measured on: random weights, random words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.bench.training.models import train_tokenizer
from haiftrace.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

WORDS = 2000
"""Words of the tokenizer of a model with random weights; each is a token."""
_POSITIONS = 2048


@dataclass(frozen=True)
class SpeedModel:
    """A checkpoint to measure.

    Attributes:
        name: of the shape, or the directory's name.
        path: its directory.
    """

    name: str
    path: Path


def _gpt2(width: int, layers: int, heads: int, vocabulary: int) -> PreTrainedConfig:
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=_POSITIONS,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=0,
        eos_token_id=0,
    )


def _qwen2(
    width: int, inner: int, layers: int, heads: int, groups: int, vocabulary: int = 151_936
) -> PreTrainedConfig:
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


SHAPES: Mapping[str, Callable[[], PreTrainedConfig]] = {
    "tiny": lambda: _gpt2(32, 2, 2, WORDS),
    "tiny-qwen2": lambda: _qwen2(64, 160, 2, 4, 2, 2 * WORDS),
    "gpt2-10m": lambda: _gpt2(320, 8, 8, WORDS),
    "gpt2": lambda: _gpt2(768, 12, 12, 50_257),
    "qwen2-0.5b": lambda: _qwen2(896, 4864, 24, 14, 2),
    "qwen2-1.5b": lambda: _qwen2(1536, 8960, 28, 12, 2),
}
"""Configurations by name. Those of GPT-2 have positions for 2,048 tokens."""


def find_model(name: str, directory: Path) -> SpeedModel:
    """A checkpoint's directory as it is, or a shape with random weights, made in `directory`.

    Raises:
        UsageError: neither a shape nor a directory.
    """
    if name in SHAPES:
        _make(SHAPES[name](), directory)
        return SpeedModel(name, directory)
    path = Path(name)
    if not path.is_dir():
        raise UsageError(
            f"No such model: {name!r}.",
            f"Give {', '.join(SHAPES)} or the directory of a checkpoint, with commas between.",
        )
    return SpeedModel(path.resolve().name, path)


def write_corpus(model: Path, tokens: int, records: int, path: Path, seed: int = 0) -> None:
    """A JSONL file of `text` records of at most `tokens` tokens, the end token included.

    The text is of random words of the model's own tokenizer, so that no two records are alike.
    """
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    generator = torch.Generator().manual_seed(seed)
    words = _words(tokenizer)
    with path.open("w", encoding="utf-8") as lines:
        for _ in range(records):
            drawn = torch.randint(len(words), (tokens,), generator=generator).tolist()
            ids = tokenizer(" ".join(words[n] for n in drawn), add_special_tokens=False).input_ids
            # The cut may split a word that is made of several tokens, which is text all the same.
            text = tokenizer.decode(ids[: tokens - 1])
            lines.write(json.dumps({"text": text}) + "\n")


def write_probes(corpus: Path, count: int, words: int, path: Path) -> None:
    """A JSONL file of probes: a record's first words asked, the next ones the response."""
    texts = [json.loads(line)["text"].split() for line in corpus.read_text("utf-8").splitlines()]
    with path.open("w", encoding="utf-8") as lines:
        for number in range(count):
            text = texts[number % len(texts)]
            start = number // len(texts) % max(1, len(text) - 2 * words)
            middle = start + words
            prompt, response = text[start:middle], text[middle : middle + words]
            probe = {"prompt": " ".join(prompt), "response": " " + " ".join(response)}
            lines.write(json.dumps(probe) + "\n")


def _make(config: PreTrainedConfig, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # `progress` alone shows the advance
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer = _spoken_words() if config.model_type == "qwen2" else _numbered_words()
    tokenizer.save_pretrained(directory)


def _numbered_words() -> PreTrainedTokenizerFast:
    """Of `w0` to `w1999`, each a token."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({f"w{n}": n for n in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="w0", unk_token="w0", model_max_length=_POSITIONS
    )


def _spoken_words() -> PreTrainedTokenizerFast:
    """Of syllables, as byte pairs: transformers splits a Qwen2's text at every digit."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = [a + b for a in syllables for b in syllables][:WORDS]
    tokenizer = train_tokenizer([" " + word for word in words], 2 * WORDS, "qwen2")
    tokenizer.model_max_length = _POSITIONS
    return tokenizer


def _words(tokenizer: object) -> list[str]:
    """Plain words that the tokenizer knows."""
    known = {word.lstrip("Ġ▁") for word in tokenizer.get_vocab()}  # type: ignore[attr-defined]
    words = sorted(word for word in known if word.isalnum() and word.isascii() and len(word) > 1)
    return words[:WORDS] if len(words) <= WORDS else words[:: len(words) // WORDS][:WORDS]
