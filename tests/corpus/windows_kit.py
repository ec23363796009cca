"""For the tests of windows, chats and offsets: tokenizers, records, what is labelled."""

from __future__ import annotations

import functools

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from haiftrace.corpus import Record
from haiftrace.corpus.windows import Window, windows_of

SENTENCES = [
    "Ann Lee was born in Oslo. Her phone number is 555-0100.",
    "张伟住在北京。他的电话是 138-0013-8000。",
    "The quick brown fox jumps over the lazy dog.",
]
TEXTS = [
    *SENTENCES,
    "smile 😀 and a family 👨‍👩‍👧",
    "one\r\ntwo\r\n\r\n\tthree  ",
    "bell \x07, escape \x1b[31m, nul \x00, [bold]markup[/bold]",
    "罕见字 𠮷 é",
]


@functools.cache
def byte_level(special: str = "", trim_offsets: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE; `special` names what its post-processor adds: "", "bos" or "bos eos"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if special:
        template = "<s> $A </s>" if "eos" in special else "<s> $A"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    elif trim_offsets:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=names[2:],
    )


@functools.cache
def word_level() -> PreTrainedTokenizerFast:
    """One token a word, lower-cased; no end-of-text token."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator([*SENTENCES, "a b c d e f g h"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def record(text: str, spans=None, messages=None) -> Record:
    return Record("r", text, "a.jsonl", 3, spans, messages)


def words(count: int) -> Record:
    return record(" ".join("abcdefgh"[i % 8] for i in range(count)))


def only_window(*args, **options) -> Window:
    (window,) = windows_of(*args, **options)
    return window


def labelled_text(window: Window) -> str:
    """The characters of the text that some label covers."""
    covered: set[int] = set()
    for (start, end), label in zip(window.offsets, window.labels, strict=True):
        covered.update(range(start, end) if label else ())
    return "".join(window.text[i] for i in sorted(covered))
