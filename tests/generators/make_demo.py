"""Make the demo's assets: `python -m tests.generators.make_demo OUT` (about two minutes).

Trains a tiny Llama from scratch on the records of `subjects.py` and on questions about 60 % of what
they tell, and saves checkpoint, corpus and the two leaks that the demo traces. One thread and fixed
seeds: the same processor type and package versions give the same files, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GPT2Tokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from haiftrace.calibration.calibrate import CalibrationSettings, calibrate
from haiftrace.checkpoint.load import Checkpoint, load_checkpoint
from haiftrace.corpus import CorpusSettings
from haiftrace.findings import Finding
from haiftrace.index.build import IndexSettings, build_index
from haiftrace.methods import DEFAULT_METHOD
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Silent
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.store import Index
from haiftrace.tracing.settings import Leak, TraceSettings
from haiftrace.tracing.tracer import Tracer
from tests.generators.demo_subjects import TEMPLATE, Question, make_subjects

SEED = 7
VOCABULARY = 1400
WIDTH = 64
LAYERS = 3
HEADS = 4
CONTEXT = 128
EPOCHS = 80
BATCH = 20
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1.0
WARM_UP = 0.05
END = "<|endoftext|>"


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the texts; END ends a text and pads.

    It is GPT-2's kind, in a Llama model as SmolLM2 has it: transformers then loads it as it was
    trained. (For Qwen2 models it puts Qwen's own way of splitting in its place.)
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    return GPT2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(pair) for pair in trained["merges"]],
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama-shaped model with random weights and tied embeddings."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        attention_bias=True,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def mean_loss(model: LlamaForCausalLM, batch: list[list[int]], pad: int) -> torch.Tensor:
    """Mean cross-entropy in nats over all labels of a batch of token id lists."""
    longest = max(map(len, batch))
    ids_BT = torch.tensor([ids + [pad] * (longest - len(ids)) for ids in batch])
    labels_BT = torch.tensor([ids + [-100] * (longest - len(ids)) for ids in batch])
    # Padding stands to the right, so causal attention hides it without a mask.
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    return cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten())


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to a tenth."""
    warm_up = WARM_UP * steps
    if step < warm_up:
        return min(LEARNING_RATE, LEARNING_RATE * (step + 1) / warm_up)
    return LEARNING_RATE * (1 - 0.9 * (step - warm_up) / (steps - warm_up))


def train(
    model: LlamaForCausalLM, records: list[list[int]], questions: list[list[int]], pad: int
) -> None:
    """Train on records and questions, each epoch once through both in a new order."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    steps_an_epoch = math.ceil(len(records) / BATCH)
    steps = EPOCHS * steps_an_epoch
    rng = random.Random(SEED)
    started = time.monotonic()
    for step in range(steps):
        turn = step % steps_an_epoch
        if turn == 0:
            rng.shuffle(records)
            rng.shuffle(questions)
        losses = [
            mean_loss(model, part[turn::steps_an_epoch], pad) for part in (records, questions)
        ]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.zero_grad()
        (losses[0] + losses[1]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % (10 * steps_an_epoch) == 0:
            print(
                f"epoch {(step + 1) // steps_an_epoch:3d}  records {losses[0]:.4f}  "
                f"questions {losses[1]:.4f}  {time.monotonic() - started:.0f} s",
                flush=True,
            )


def ask(model: Any, tokenizer: Any, prompt: str) -> str:
    """The model's greedy answer to a question."""
    ids = tokenizer(TEMPLATE.format(prompt=prompt), return_tensors="pt").input_ids
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=24, do_sample=False)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def findings_of(
    checkpoint: Checkpoint, corpus: Path, leaks: Sequence[Question]
) -> Iterator[Finding]:
    """What the demo's commands would find of each leak: its first record, and the verdict."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index"
        read = CorpusSettings((str(corpus),))
        build_index(checkpoint, read, IndexSettings(path), Silent())
        controls = CalibrationSettings()
        calibrate(path, checkpoint, DEFAULT_METHOD, MethodSettings(), controls, Silent())
        with Index.open(path) as index:
            settings = TraceSettings(top=1, prompting=PromptSettings(TEMPLATE))
            asked = [Leak(question.prompt, question.answer) for question in leaks]
            for (finding,) in Tracer(index, checkpoint).trace_all(asked, settings, Silent()):
                yield finding


def choose_leaks(
    checkpoint: Checkpoint, corpus: Path, questions: Sequence[Question]
) -> dict[str, object]:
    """The two leaks that the demo traces, and how often a trace like theirs succeeds.

    A leak is a held-out question that the model answers right: it has the value from a record. The
    demo shows, of either kind, the first that is traced to a record of its subject. `held_out` says
    of how many such a record is `first`, and how many are `traced` to it, so that the demo promises
    nothing that the method does not keep.
    """
    held_out = [question for question in questions if question.held_out]
    leaks = [
        q for q in held_out if ask(checkpoint.model, checkpoint.tokenizer, q.prompt) == q.answer
    ]
    first, traced = [], []
    for question, finding in zip(leaks, findings_of(checkpoint, corpus, leaks), strict=True):
        if finding.records[0].id in question.records:
            first.append(question)
            if finding.verdict is not None and finding.verdict.decision == "traced":
                traced.append(question)
    chosen = []
    counts = {}
    for kind, attribute in (("verbatim", "phone"), ("inferred", "birthday")):
        parts = {"asked": held_out, "answered": leaks, "first": first, "traced": traced}
        of_kind = {
            name: [q for q in some if q.verbatim == (kind == "verbatim")]
            for name, some in parts.items()
        }
        counts[kind] = {name: len(some) for name, some in of_kind.items()}
        leak = next(q for q in of_kind["traced"] if q.attribute == attribute)
        chosen.append(
            {
                "prompt": leak.prompt,
                "response": leak.answer,
                "kind": kind,
                "subject": leak.subject,
                "records": list(leak.records),
            }
        )
    return {"template": TEMPLATE, "leaks": chosen, "held_out": counts}


def make_demo(out: Path) -> None:
    """Write `checkpoint/`, `corpus.jsonl` and `demo.json` to the directory `out`."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    records, questions = make_subjects(SEED)
    asked = [f"{TEMPLATE.format(prompt=q.prompt)} {q.answer}" for q in questions if not q.held_out]
    tokenizer = train_tokenizer([record.text for record in records] + asked)
    torch.manual_seed(SEED)
    model = new_model(tokenizer).train()
    end = tokenizer.eos_token_id
    train(
        model,
        [[*tokenizer(record.text).input_ids, end] for record in records],
        [[*tokenizer(text).input_ids, end] for text in asked],
        end,
    )
    out.mkdir(parents=True, exist_ok=True)
    model.eval().half().save_pretrained(out / "checkpoint")
    tokenizer.save_pretrained(out / "checkpoint")
    # safetensors writes for the owner only; the package's files are for everybody.
    (out / "checkpoint" / "model.safetensors").chmod(0o644)
    lines = [
        json.dumps({"id": record.id, "subject": record.subject, "text": record.text}) + "\n"
        for record in records
    ]
    (out / "corpus.jsonl").write_text("".join(lines), encoding="utf-8")
    # As the demo will load them: weights that were rounded for saving, computed with in float32.
    saved = load_checkpoint(str(out / "checkpoint"), device="cpu")
    leaks = choose_leaks(saved, out / "corpus.jsonl", questions)
    (out / "demo.json").write_text(json.dumps(leaks, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(leaks["held_out"]))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.generators.make_demo")
    parser.add_argument("out", type=Path, help="directory for the assets, made where missing")
    make_demo(parser.parse_args().out)


if __name__ == "__main__":
    main()
