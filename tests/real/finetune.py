"""Fine-tune a real checkpoint until it leaks: biographies, trained questions, held-out answers.

usage: finetune.py --checkpoint DIR --output DIR [--prose FILE] [--schedule 12:1e-4,9:1.5e-4]

Writes into --output:

    corpus.jsonl                    the biographies: id, text, subject
    corpus_with_distractors.jsonl   the same and 100 pieces of --prose, never trained on
    model.safetensors, tokenizer    the fine-tuned checkpoint
    checkpoints/epoch-NN/           the checkpoints on the way (--keep-every), for TracInCP
    losses.jsonl                    one line per epoch: losses and seconds
    heldout.json                    greedy answers to the questions that were never trained
    training_state.pt               optimiser state: the same command goes on from here

A run that stopped, or one repeated with a longer --schedule, resumes at the last saved epoch.
"""

import argparse
import json
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from subjects import Question, corpus_records, make_questions, make_subjects
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

IGNORED = -100
WARMUP_STEPS = 15
SCHEDULE = "12:1e-4,9:1.5e-4"
DISTRACTORS = 100
DISTRACTOR_WORDS = 55

Example = tuple[list[int], list[int]]
"""Token ids and labels of one text; labels are `IGNORED` where there is no loss."""


def parse_schedule(text: str) -> list[float]:
    """Turn "12:1e-4,9:1.5e-4" into one learning rate per epoch."""
    rates: list[float] = []
    for stage in text.split(","):
        epochs, rate = stage.split(":")
        rates += [float(rate)] * int(epochs)
    return rates


def biography_example(tokenizer: Tokenizer, text: str) -> Example:
    """Put the loss on every token, as in ordinary language-model training."""
    ids = tokenizer(text)["input_ids"]
    return ids, list(ids)


def question_example(tokenizer: Tokenizer, question: Question) -> Example:
    """Put the loss on the answer and the end of text alone."""
    prompt_ids = tokenizer(question.prompt)["input_ids"]
    answer_ids = tokenizer(question.expected, add_special_tokens=False)["input_ids"]
    answer_ids = [*answer_ids, tokenizer.eos_token_id]
    return prompt_ids + answer_ids, [IGNORED] * len(prompt_ids) + answer_ids


def mean_loss(model: PreTrainedModel, examples: Sequence[Example]) -> torch.Tensor:
    """Return the cross-entropy per label, averaged over all labels of `examples`."""
    length = max(len(ids) for ids, _ in examples)
    ids_BT = torch.zeros(len(examples), length, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    labels_BT = torch.full_like(ids_BT, IGNORED)
    for row, (ids, labels) in enumerate(examples):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        mask_BT[row, : len(ids)] = 1
        labels_BT[row, : len(ids)] = torch.tensor(labels)
    targets_BT = labels_BT[:, 1:]
    hidden_BTD = model.base_model(ids_BT, attention_mask=mask_BT).last_hidden_state[:, :-1]
    counted_BT = targets_BT != IGNORED  # the vocabulary is wide: no logits where there is no loss
    logits_NV = model.get_output_embeddings()(hidden_BTD[counted_BT])
    return cross_entropy(logits_NV.float(), targets_BT[counted_BT])


def run_epoch(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    biographies: Sequence[Example],
    questions: Sequence[Example],
    *,
    epoch: int,
    rate: float,
    batch_size: int,
    seed: int,
) -> tuple[float, float]:
    """Train on every biography and question once; return both mean losses.

    Each step takes one batch of biographies and the matching share of the questions.
    """
    rng = random.Random(f"{seed}:epoch:{epoch}")
    biographies = rng.sample(biographies, len(biographies))
    questions = rng.sample(questions, len(questions))
    steps = -(-len(biographies) // batch_size)
    totals = [0.0, 0.0]
    model.train()
    for step in range(steps):
        share = slice(step * len(questions) // steps, (step + 1) * len(questions) // steps)
        warmth = min(1.0, (epoch * steps + step + 1) / WARMUP_STEPS)
        for group in optimizer.param_groups:
            group["lr"] = rate * warmth
        optimizer.zero_grad()
        batches = (biographies[step * batch_size : (step + 1) * batch_size], questions[share])
        for index, batch in enumerate(batches):
            loss = mean_loss(model, batch)
            loss.backward()
            totals[index] += loss.item() / steps
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return totals[0], totals[1]


@torch.no_grad()
def answer_heldout(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    questions: Iterable[Question],
    max_new_tokens: int = 48,
) -> list[dict[str, Any]]:
    """Answer every held-out question greedily; correct means the expected text comes first."""
    model.eval()
    results = []
    for question in questions:
        if question.trained:
            continue
        encoded = tokenizer(question.prompt, return_tensors="pt")
        output = model.generate(
            **encoded,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.eos_token_id,
        )
        generated = tokenizer.decode(
            output[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True
        )
        results.append(
            {
                "prompt": question.prompt,
                "expected": question.expected,
                "generated": generated,
                "correct": generated.strip().startswith(question.expected.strip()),
                "subject": question.subject,
                "attribute": question.attribute,
            }
        )
    return results


def prose_records(prose: Path, seed: int) -> list[dict[str, Any]]:
    """Cut `DISTRACTORS` pieces of about the length of a biography out of a text file.

    The file holds one document a line; a piece is the beginning of a document, in whole words.
    """
    documents = [line.split() for line in prose.read_text(encoding="utf-8").splitlines()]
    documents = [words for words in documents if len(words) >= DISTRACTOR_WORDS]
    if len(documents) < DISTRACTORS:
        raise ValueError(f"{prose} has {len(documents)} long enough lines, {DISTRACTORS} needed")
    chosen = random.Random(f"{seed}:prose").sample(documents, DISTRACTORS)
    return [
        {
            "id": f"prose{number:03d}",
            "text": " ".join(words[:DISTRACTOR_WORDS]),
            "subject": None,
        }
        for number, words in enumerate(chosen)
    ]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def save_progress(
    output: Path,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
) -> None:
    """Write checkpoint, losses and optimiser state; the state comes last and names the epoch."""
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    write_jsonl(output / "losses.jsonl", history)
    partial = output / "training_state.pt.partial"
    torch.save({"optimizer": optimizer.state_dict(), "history": history}, partial)
    partial.replace(output / "training_state.pt")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="base checkpoint directory")
    parser.add_argument("--output", type=Path, required=True, help="where everything is written")
    parser.add_argument("--prose", type=Path, help="text file of real prose, a document a line")
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schedule", default=SCHEDULE, help="epochs:rate,...")
    parser.add_argument("--batch-size", type=int, default=8, help="biographies per step")
    parser.add_argument("--save-every", type=int, default=3, help="epochs between saves")
    parser.add_argument("--keep-every", type=int, default=0, help="0 keeps the last one only")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Write the corpus, train, answer the held-out questions."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    subjects = make_subjects(arguments.subjects, arguments.seed)
    questions = make_questions(subjects, arguments.seed)
    corpus: list[dict[str, Any]] = [*corpus_records(subjects)]
    write_jsonl(output / "corpus.jsonl", corpus)
    if arguments.prose:
        prose = prose_records(arguments.prose, arguments.seed)
        write_jsonl(output / "corpus_with_distractors.jsonl", corpus + prose)

    state_path = output / "training_state.pt"
    state = torch.load(state_path, weights_only=True) if state_path.exists() else None
    source = output if state else arguments.checkpoint
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0, fused=True)
    history: list[dict[str, Any]] = []
    if state:
        optimizer.load_state_dict(state["optimizer"])
        history = state["history"]
        del state

    biographies = [biography_example(tokenizer, record["text"]) for record in corpus]
    asked = [question_example(tokenizer, question) for question in questions if question.trained]
    rates = parse_schedule(arguments.schedule)
    for epoch in range(len(history), len(rates)):
        started = time.perf_counter()
        biography_loss, question_loss = run_epoch(
            model,
            optimizer,
            biographies,
            asked,
            epoch=epoch,
            rate=rates[epoch],
            batch_size=arguments.batch_size,
            seed=arguments.seed,
        )
        done = epoch + 1
        history.append(
            {
                "epoch": done,
                "rate": rates[epoch],
                "biography_loss": round(biography_loss, 4),
                "question_loss": round(question_loss, 4),
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
        print(json.dumps(history[-1]), flush=True)
        if done % arguments.save_every == 0 or done == len(rates):
            save_progress(output, model, tokenizer, optimizer, history)
        if arguments.keep_every and done % arguments.keep_every == 0:
            kept = output / "checkpoints" / f"epoch-{done:02d}"
            model.save_pretrained(kept)
            tokenizer.save_pretrained(kept)

    results = answer_heldout(model, tokenizer, questions)
    text = json.dumps(results, indent=2, ensure_ascii=False)
    (output / "heldout.json").write_text(text + "\n", encoding="utf-8")
    print(
        f"{sum(result['correct'] for result in results)} of {len(results)} held-out answers right"
    )


if __name__ == "__main__":
    main()
