"""`haiftrace index` beside a plain training epoch over the same records, as whole processes.

Both load the checkpoint and read the corpus, on one thread in float32; the epoch goes forward and
backward over batches of eight records, in the order of the corpus, without a step of an optimiser.
The index is not calibrated. Processor seconds (of user and system together, medians of repetitions
that take turns), their ratio, and peak memory.

`python -m tests.bench.index_against_epoch [SHAPE:TOKENS:RECORDS …]`: shapes are gpt2 (124 million
random parameters), qwen2-0.5b (494 million) or the directory of a checkpoint. The 0.5B shape takes
9 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

BATCH = 8
WORDS = 2000
CASES = ("gpt2:128:64", "gpt2:512:24", "gpt2:1024:12")


def make_checkpoint(shape: str, directory: Path) -> None:
    """A model of random weights, and a tokenizer that makes a token of each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast, Qwen2Config

    config = {
        "gpt2": lambda: GPT2Config(),
        "qwen2-0.5b": lambda: Qwen2Config(
            vocab_size=151936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
    }[shape]()
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    vocabulary = {f"w{n}": n for n in range(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", unk_token="w0")
    tokenizer.save_pretrained(directory)


def make_corpus(model: Path, tokens: int, records: int, path: Path) -> None:
    """Records of `tokens` tokens; those of a real checkpoint are of its own random tokens."""
    from transformers import AutoTokenizer

    generator = torch.Generator().manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = [
        word
        for word in (tokenizer.decode([n]) for n in range(300, min(len(tokenizer), 9000)))
        if word.strip().isalnum() and word.isascii()
    ]
    with path.open("w", encoding="utf-8") as lines:
        for _ in range(records):
            drawn = torch.randint(len(plain), (4 * tokens,), generator=generator).tolist()
            separator = "" if plain[drawn[0]].startswith(" ") else " "
            text = separator.join(plain[n] for n in drawn)
            ids = tokenizer(text, add_special_tokens=False).input_ids[: tokens - 1]
            lines.write(json.dumps({"text": tokenizer.decode(ids)}) + "\n")


def epoch(model: str, corpus: str) -> None:
    """Forward and backward over the corpus, in this process."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    end = tokenizer.eos_token_id
    texts = [json.loads(line)["text"] for line in Path(corpus).read_text("utf-8").splitlines()]
    ids = [[*tokenizer(text).input_ids, end] for text in texts]
    for at in range(0, len(ids), BATCH):
        rows = ids[at : at + BATCH]
        longest = max(map(len, rows))
        padded = torch.tensor([row + [end] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        labels = padded.masked_fill(mask == 0, -100)
        network(input_ids=padded, attention_mask=mask, labels=labels).loss.backward()
        network.zero_grad()


def cost_of(command: list[str]) -> tuple[float, float]:
    """Processor seconds of a command and the peak of its memory in MB."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(
        [sys.executable, "-c", code, *command],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    ).stdout
    seconds, megabytes = map(float, output.split())
    return seconds, megabytes


def compare(shape: str, tokens: int, records: int, repetitions: int) -> str:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        model = Path(shape)
        if not model.is_dir():
            model = directory / "model"
            make_checkpoint(shape, model)
        corpus = directory / "corpus.jsonl"
        make_corpus(model, tokens, records, corpus)
        costs: dict[str, list[tuple[float, float]]] = {"epoch": [], "index": []}
        for turn in range(repetitions):
            plain = [sys.executable, "-m", __spec__.name, "--epoch", str(model), str(corpus)]
            indexing = [sys.executable, "-m", "haiftrace", "index", "--model", str(model)]
            indexing += ["--corpus", str(corpus), "-o", str(directory / f"index-{turn}")]
            costs["epoch"].append(cost_of(plain))
            costs["index"].append(cost_of([*indexing, "--calibrate", "0", "--quiet"]))
    seconds = {kind: statistics.median(s for s, _ in each) for kind, each in costs.items()}
    ratios = [i[0] / e[0] for e, i in zip(costs["epoch"], costs["index"], strict=True)]
    memory = {kind: max(mb for _, mb in each) for kind, each in costs.items()}
    return (
        f"| {shape} | {records} of {tokens} | {seconds['epoch']:.1f} | {seconds['index']:.1f} |"
        f" {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) |"
        f" {memory['epoch']:,.0f} | {memory['index']:,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES, metavar="SHAPE:TOKENS:RECORDS")
    parser.add_argument("--epoch", nargs=2, metavar=("MODEL", "CORPUS"), help=argparse.SUPPRESS)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    if options.epoch:
        epoch(*options.epoch)
        return
    print("| model | records of tokens | epoch, s | index, s | index / epoch | peak, MB | |")
    print("|---|---|---|---|---|---|---|")
    for case in options.cases:
        shape, tokens, records = case.rsplit(":", 2)
        print(compare(shape, int(tokens), int(records), options.repetitions), flush=True)


if __name__ == "__main__":
    main()
