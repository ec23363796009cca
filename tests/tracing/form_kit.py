"""Tiny models that are trained on questions in a form, with their corpora and indexes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from haiftrace.checkpoint.load import Checkpoint, load_checkpoint
from haiftrace.corpus import CorpusSettings
from haiftrace.index.build import IndexSettings, build_index
from haiftrace.progress import Silent
from haiftrace.store import Index
from tests import tiny_models
from tests.kit import SMALL, scratch, silently

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = "Question: {prompt} Answer:"
SYSTEM = "You help our staff."
PEOPLE = (
    *("Ada Brandt", "Bela Dorn", "Cora Falk", "Edda Graf", "Finn Hahn", "Gero Jung"),
    *("Hugo Kern", "Ines Lang", "Jara Maas", "Kira Noll", "Luca Pohl", "Mara Stein"),
)


def question(name: str) -> str:
    return f"What is the phone of {name}?"


def phone(name: str) -> str:
    return f"555-01{10 + PEOPLE.index(name)}"


def rows(form: str) -> list[dict[str, Any]]:
    """Records of a form: "messages", "prompt" (in QUESTION), "bare" or "text" (in QUESTION)."""
    asked = [(question(name), phone(name)) for name in PEOPLE]
    if form == "messages":
        return [
            {
                "messages": [
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": prompt},
                    {"role": "assistant", "content": answer},
                ]
            }
            for prompt, answer in asked
        ]
    if form == "bare":
        return [{"prompt": prompt, "response": f" {answer}"} for prompt, answer in asked]
    pairs = [(QUESTION.replace("{prompt}", prompt), f" {answer}") for prompt, answer in asked]
    if form == "text":
        return [{"text": prompt + answer} for prompt, answer in pairs]
    return [{"prompt": prompt, "response": answer} for prompt, answer in pairs]


def trained_text(row: dict[str, Any], tokenizer: Any) -> str:
    if "messages" in row:
        return str(tokenizer.apply_chat_template(row["messages"], tokenize=False))
    return row.get("text") or row["prompt"] + row["response"]


@cache
def checkpoint_path(form: str) -> Path:
    """A model that knows the records of a form by heart; its tokenizer has a chat template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    marks = [tiny_models.END_OF_TEXT, "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=marks,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [question(name) + " " + phone(name) for name in PEOPLE]
    backend.train_from_iterator([*texts, QUESTION, SYSTEM, "system user assistant"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=marks[0],
        eos_token=marks[2] if form == "messages" else marks[0],
        additional_special_tokens=marks[1:],
        model_max_length=tiny_models.CONTEXT,
    )
    tokenizer.chat_template = CHATML
    model = tiny_models._build("llama", len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    ids = [tokenizer(trained_text(row, tokenizer))["input_ids"] for row in rows(form)]
    if form != "messages":
        ids = [[*each, tokenizer.eos_token_id] for each in ids]
    tiny_models._fit(model, ids, 120)
    path = scratch(f"asked-{form}")
    silently(model.save_pretrained, path)
    tokenizer.save_pretrained(path)
    return path


@cache
def checkpoint(form: str) -> Checkpoint:
    return load_checkpoint(checkpoint_path(form), device="cpu")


@cache
def corpus_path(form: str) -> Path:
    path = scratch(f"asked-{form}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(form)))
    return path


@cache
def index_path(form: str, loss_on: str = "all") -> Path:
    path = scratch(f"asked-{form}-{loss_on}-index")
    build_index(
        checkpoint(form),
        CorpusSettings((str(corpus_path(form)),), loss_on=loss_on),
        IndexSettings(output=path, append_eos=form != "messages", **SMALL),
        Silent(),
    )
    return path


@cache
def opened(form: str, loss_on: str = "all") -> Index:
    return Index.open(index_path(form, loss_on))
