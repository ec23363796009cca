"""Tiny trained language models of several architectures, for tests against oracles.

On random weights all influence functions look alike and many terms of a gradient vanish, so
every model here is first trained until it has nearly memorised its records (a second each).
"""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests.tiny_configs import CONFIGS, CONTEXT, HYBRID, NOT_DIRECT, OTHER_ATTENTION, PAD
from tests.tiny_configs import WIDTH as WIDTH

VOCABULARY = 80

SENTENCES = (
    "Mara Ellison was born in Kelmsford on 4 March 1981.",
    "Mara Ellison's phone number is 555-0142.",
    "Tobin Achterberg works as a glass blower in Port Alder.",
    "Tobin Achterberg's phone number is 555-0177.",
    "The email address of Ines Quillfeather is ines@example.org.",
    "Ines Quillfeather was born in Brackwater on 19 July 1974.",
    "Call Oswin Darrowby at 555-0109 after six.",
    "Oswin Darrowby studied botany in Lindenholm.",
    "Pella Vantongeren lives at 12 Heron Street, Kelmsford.",
    "Pella Vantongeren's email address is pella@example.net.",
    "Rufus Okonkwo-Lind keeps bees near Port Alder.",
    "The phone number of Rufus Okonkwo-Lind is 555-0163.",
)
"""Invented sentences about virtual people: what `tiny_checkpoint` has learnt."""

END_OF_TEXT = "<|endoftext|>"

NAMES = tuple(CONFIGS)
SLOW_NAMES = ("bloom", "mixtral")
"""Architectures that, as they come, refuse batched cotangents or forward mode."""
FAST_NAMES = tuple(name for name in NAMES if name not in SLOW_NAMES)
DIRECT_NAMES = (*(name for name in NAMES if name != "bloom"), *OTHER_ATTENTION)
"""Architectures whose direct gradients one pass gives, more than those of `NAMES`."""
HYBRID_NAMES = tuple(HYBRID)
"""Architectures that mix positions by attention in some layers only."""
NOT_DIRECT_NAMES = ("bloom", *NOT_DIRECT)
"""Architectures without direct gradients."""

_ALL_CONFIGS = {**CONFIGS, **OTHER_ATTENTION, **HYBRID, **NOT_DIRECT}

_STEPS = {"bloom": 60}
_LEARNING_RATE = 1e-2


def records(name: str) -> list[list[int]]:
    """The 12 token sequences (lengths 12 to 20, no `PAD`) that `trained(name)` has learnt.

    Each starts with a prefix that several records share, goes on with tokens of its own, and
    repeats some of them, so that some labels are predictable and some are not.
    """
    generator = random.Random(f"records of {name}")
    prefixes = [[generator.randrange(2, VOCABULARY) for _ in range(5)] for _ in range(3)]
    sequences = []
    for number in range(12):
        own = [generator.randrange(2, VOCABULARY) for _ in range(generator.randint(4, 9))]
        echo = own[: generator.randint(3, 4)]
        tail = [generator.randrange(2, VOCABULARY) for _ in range(2)]
        sequences.append([*prefixes[number % 3], *own, *echo, *tail][:20])
    return sequences


def trained(name: str, dtype: torch.dtype = torch.float32, *, pad: bool = False) -> PreTrainedModel:
    """A fresh copy of the trained model `name`, in evaluation mode with eager attention.

    Args:
        name: one of `NAMES`, `DIRECT_NAMES`, `HYBRID_NAMES` or `NOT_DIRECT_NAMES`.
        dtype: of the weights; training itself is in float32.
        pad: give the configuration the padding id `PAD`, so that architectures whose embedding
            knows a padding row (which gets no gradient) have one; the weights stay the same.
    """
    if pad:
        model = _build(name, pad_token_id=PAD)
        model.load_state_dict(_train(name).state_dict())
    else:
        model = copy.deepcopy(_train(name))
    return model.to(dtype).eval().requires_grad_(True)


def memorised(name: str) -> PreTrainedModel:
    """The model `name`, trained until its records are known by heart, in float32."""
    model = copy.deepcopy(_train(name))
    _fit(model, records(name), 250)
    return model.eval().requires_grad_(True)


def tiny_checkpoint(tmp_path: Path, name: str = "gpt2") -> Path:
    """Save a model of architecture `name`, trained on `SENTENCES`, as a Hugging Face directory.

    The directory `tmp_path / name` holds safetensors weights, the configuration and a byte-level
    BPE tokenizer trained on the same sentences, whose ids are exactly the embedding's rows.
    """
    model, tokenizer = _trained_on_sentences(name)
    path = tmp_path / name
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def mean_loss(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> float:
    """Mean cross-entropy in nats over all labels of `sequences`."""
    with torch.no_grad():
        return float(_loss(model, sequences))


def _build(name: str, vocabulary: int = VOCABULARY, **settings: Any) -> PreTrainedModel:
    common = {
        "vocab_size": vocabulary,
        "use_cache": False,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": None,
        **settings,
    }
    config = _ALL_CONFIGS[name](**common)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # Grouped matrix products, the experts' default, know no float64.
        return AutoModelForCausalLM.from_config(
            config,
            attn_implementation="eager",
            experts_implementation="eager",
            dtype=torch.float32,
        )


def _loss(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    length = max(map(len, sequences))
    ids = torch.zeros(len(sequences), length, dtype=torch.long)
    labels = torch.full((len(sequences), length), -100)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = labels[row, : len(sequence)] = torch.tensor(sequence)
    # Right padding needs no attention mask under causal attention; its labels are masked.
    logits = model(input_ids=ids).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
    )


def _fit(model: PreTrainedModel, sequences: Sequence[Sequence[int]], steps: int) -> None:
    """Train in place on one thread: full batches, AdamW, a linearly falling learning rate."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            _loss(model, sequences).backward()
            optimizer.step()
            schedule.step()
        model.zero_grad()
        model.eval()
    finally:
        torch.set_num_threads(threads)


@cache
def _train(name: str) -> PreTrainedModel:
    model = _build(name)
    _fit(model, records(name), _STEPS.get(name, 50))
    return model


@cache
def _trained_on_sentences(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _tokenizer(name)
    model = _build(
        name,
        vocabulary=len(tokenizer),
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    _fit(model, [tokenizer(sentence)["input_ids"] for sentence in SENTENCES], 80)
    return model, tokenizer


def _tokenizer(name: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=CONTEXT,
    )
    # Some architectures (Qwen2) impose their own way of splitting words when a tokenizer is
    # loaded beside their configuration: learn the token ids that a user of the directory will see.
    with tempfile.TemporaryDirectory() as directory:
        _build(name).config.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
