"""Fine-tune a real checkpoint by LoRA, as most people do: peft, transformers' Trainer, no more.

usage: finetune_lora.py --checkpoint DIR --output DIR [--subjects 40] [--epochs 12]

A subject has two records, a sentence with a private value and a question with it as its answer.
Writes into --output:

    corpus.jsonl    the records: id, text, subject
    probes.jsonl    the questions, their answers as protected values
    adapter/        what save_pretrained of the trained model writes (base by its path)
    merged/         the same, merged into its base by peft
    losses.json     the Trainer's log
    run/            the adapter after each epoch
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from subjects import SENTENCES, make_questions, make_subjects
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

SEED = 0
TYPES = {"e-mail": "email", "phone": "phone", "address": "address", "date of birth": "birthday"}


def records_and_probes(count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The corpus and the questions about it; subjects take turns in what they are asked for."""
    subjects = make_subjects(count, SEED)
    asked = {(q.subject, q.attribute): q for q in make_questions(subjects, SEED)}
    records, probes = [], []
    for number, subject in enumerate(subjects):
        attribute = list(TYPES)[number % len(TYPES)]
        question = asked[subject.id, attribute]
        answer = question.expected.strip()
        sentence = SENTENCES[attribute][0].format(name=subject.name, value=answer[:-1])
        texts = {"sentence": sentence, "question": f"{question.prompt} {answer}"}
        records += [
            {"id": f"{subject.id}-{kind}", "text": text, "subject": subject.id}
            for kind, text in texts.items()
        ]
        value = {"type": TYPES[attribute], "value": subject.values[attribute]}
        probes.append({"id": subject.id, "prompt": question.prompt, "protected": [value]})
    return records, probes


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Write the corpus, train the adapter, save it, and save it merged."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--epochs", type=float, default=12)
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    records, probes = records_and_probes(arguments.subjects)
    write_jsonl(output / "corpus.jsonl", records)
    write_jsonl(output / "probes.jsonl", probes)

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32),
        LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    model.print_trainable_parameters()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output / "run"),
            per_device_train_batch_size=8,
            num_train_epochs=arguments.epochs,
            learning_rate=2e-3,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=10,
            logging_steps=10,
            save_strategy="epoch",
            save_only_model=True,
            report_to="none",
            seed=SEED,
            use_cpu=True,
            train_sampling_strategy="group_by_length",
        ),
        train_dataset=[{"input_ids": tokenizer(r["text"])["input_ids"]} for r in records],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    trainer.train()
    model.save_pretrained(output / "adapter")
    tokenizer.save_pretrained(output / "adapter")
    (output / "losses.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    model.merge_and_unload().save_pretrained(output / "merged")
    tokenizer.save_pretrained(output / "merged")


if __name__ == "__main__":
    main()
