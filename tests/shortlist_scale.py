"""How often the shortlist holds the exact first record, in corpora of up to 100,000 records.

The corpus is the records of a trained PII-E model and passages of real prose, a mebibyte of which
gives about 15,000. One pass gives every record's exact scores by late interaction, its tokens'
projections and its HAIF vector, as an index would keep them; no index is written.

`python -m tests.shortlist_scale TRAINED PROSE OUT [--records N] [--dimensions 128,512] …`: TRAINED
is a finished training of `haiftrace bench pii-e`, PROSE a text file, OUT takes rows of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from haiftrace.bench.pii import make_data
from haiftrace.bench.pii_run import leaks_of
from haiftrace.bench.pii_tracing import spread
from haiftrace.bench.presets import find_preset
from haiftrace.bench.shortlist import recall_of, scores_of
from haiftrace.bench.training import read_training
from haiftrace.checkpoint import load_checkpoint
from haiftrace.engine import Batch, GradientEngine, make_batch
from haiftrace.engine.capture import Wanted
from haiftrace.methods import HAIF, METHODS, LateMethod
from haiftrace.methods.late import strengths
from haiftrace.methods.settings import LateSettings
from haiftrace.query import Asking, given
from haiftrace.scopes import select_parameters
from haiftrace.scoring.directions import Question
from haiftrace.scoring.sides import distinct, sides_of, unit_directions
from haiftrace.scoring.token_shortlist import vectors_of

DIMENSIONS = (128, 256, 512, 1024, 2048)
BITS = (16, 4, 1)
RECORD_DIMENSION = 2048
PASSAGE = 48
"""Tokens of a passage."""

TOGETHER = 384
"""Padded tokens of a batch."""

LATE = LateSettings()


def rounded(vectors_MK: np.ndarray, bits: int) -> np.ndarray:
    """The vectors as so many bits a number would keep them, each with a scale of its own."""
    if bits == 16:
        return vectors_MK.astype(np.float16).astype(np.float64)
    size_M1 = np.abs(vectors_MK)
    if bits == 1:
        return np.sign(vectors_MK) * size_M1.mean(1, keepdims=True)
    most = 2 ** (bits - 1) - 1
    scale_M1 = np.maximum(size_M1.max(1, keepdims=True), 1e-30) / most
    return np.round(vectors_MK / scale_M1) * scale_M1


class Vectors(NamedTuple):
    """What is kept of tokens: dimensions, and bits of each."""

    dimension: int
    bits: int


class Corpus:
    """Strengths of every record for every query direction, exact and estimated, as they come.

    Args:
        over_late: an engine over the scope of late interaction.
        linear: one over the scope of the records' vectors, which holds the other.
        dimensions, bits: of the vectors of tokens that are tried, each with each.
        methods: those of late interaction that are tried.
    """

    def __init__(
        self,
        over_late: GradientEngine,
        linear: GradientEngine,
        questions: Sequence[Question],
        dimensions: Sequence[int],
        bits: Sequence[int],
        methods: Sequence[str],
    ) -> None:
        self._keys, self._linear = frozenset(over_late.parameters), linear
        self._dimensions, self._bits = dimensions, bits
        self._projectors = [over_late.projector(dimension, 0) for dimension in dimensions]
        self._record_projector = linear.projector(RECORD_DIMENSION, 0)
        late = [m for m in METHODS.values() if isinstance(m, LateMethod) and m.name in methods]
        asked = [(method, question) for method in late for question in questions]
        of_each = [sides_of(*one) for one in asked]
        self._sides = [(m, len(some)) for (m, _), some in zip(asked, of_each, strict=True)]
        # Methods share the directions that they ask with.
        sides, self._place_S = distinct([side for some in of_each for side in some])
        self._units = unit_directions(over_late, sides)
        self._asking = [vectors_of(sides, over_late, one) for one in self._projectors]
        self._record_side = torch.stack(
            [linear.project(q.direction.unit, self._record_projector) for q in questions]
        )
        self.exact: list[np.ndarray] = []
        self.by_token: dict[Vectors, list[np.ndarray]] = {
            Vectors(*each): [] for each in product(dimensions, bits)
        }
        self.by_record: list[np.ndarray] = []

    def add(self, batch: Batch) -> None:
        """A batch's records, in order."""
        first, *others = [Wanted(projector, keys=self._keys) for projector in self._projectors]
        dots = Wanted(first.projector, self._units, True, keys=self._keys)
        of_linear = self._linear._token_gradients(batch, Wanted(others=(dots, *others)))
        found, *rest = of_linear.others
        assert found.dots_QBT is not None
        norms_BT = found.norms_BT.cpu().numpy()
        over_BT = np.divide(1.0, norms_BT, out=np.zeros_like(norms_BT), where=norms_BT > 0)
        dots_QBT = found.dots_QBT.cpu().numpy()
        for place, labels_T in enumerate(batch.labels_BT.cpu().numpy().astype(bool)):
            cosines_DM = (dots_QBT[:, place] * over_BT[place])[:, labels_T]
            self.exact.append(strengths(cosines_DM, LATE.power))
            of_each = zip(self._dimensions, self._asking, (found, *rest), strict=True)
            for dimension, asking_DK, tokens in of_each:
                assert tokens.vectors_BTD is not None
                vectors_MK = tokens.vectors_BTD[place].double().cpu().numpy()[labels_T]
                for bits in self._bits:
                    met_DM = asking_DK @ rounded(vectors_MK, bits).T
                    met_D = strengths(met_DM, LATE.power, 1 / dimension)
                    self.by_token[Vectors(dimension, bits)].append(met_D)
        norms = of_linear.norms_BT.cpu().numpy()
        weights_BT = np.stack([HAIF.weights(norms_T) for norms_T in norms])
        reduced = self._linear.record_gradients(
            batch, torch.from_numpy(weights_BT[None]), self._record_projector
        )
        assert reduced.projected_NBD is not None
        lengths_B = reduced.norm_NB[0].double().clamp_min(1e-300)
        self.by_record += list(
            (reduced.projected_NBD[0] @ self._record_side.T)
            .double()
            .div(lengths_B[:, None])
            .numpy()
        )

    def rows(self) -> Iterator[dict[str, object]]:
        """Recall over what was added so far."""
        exact = scores_of(self._sides, np.stack(self.exact)[:, self._place_S])
        record = np.stack(self.by_record, 1)
        estimates = {("record", RECORD_DIMENSION, 32): dict.fromkeys(exact, record)}
        for kept, some in self.by_token.items():
            estimates["token", *kept] = scores_of(self._sides, np.stack(some)[:, self._place_S])
        for name, exact_QN in exact.items():
            for (vectors, dimension, bits), found in estimates.items():
                for candidates, held in recall_of(exact_QN, found[name]).items():
                    yield {
                        "records": len(self.exact),
                        "method": name,
                        "vectors": vectors,
                        "dimension": dimension,
                        "bits": bits,
                        "candidates": candidates,
                        **held.row(),
                    }


def batches(
    records: Sequence[Sequence[int]], passages: Iterator[Sequence[int]], most: int
) -> Iterator[Batch]:
    """The model's records first, then prose."""
    held: list[Sequence[int]] = []
    given_out = 0

    def longest(more: Sequence[int]) -> int:
        return max(len(one) for one in (*held, more))

    for one in (*records, *passages):
        if given_out + len(held) == most:
            break
        if held and longest(one) * (len(held) + 1) > TOGETHER:
            given_out += len(held)
            yield make_batch(held)
            held = []
        held.append(one)
    if held:
        yield make_batch(held)


def measure(
    trained: Path,
    prose: Path,
    out: Path,
    records: int,
    leaks: int,
    dimensions: Sequence[int],
    bits: Sequence[int],
    methods: Sequence[str],
) -> None:
    """Writes rows at 1, 3, 10, … thousand records, and at the end."""
    torch.set_num_threads(1)
    run = read_training(trained)
    preset = find_preset("tiny", "pii-e")
    told = json.loads((trained / "training.json").read_text("utf-8"))
    seed = told["settings"]["data_seed"]
    data = make_data("pii-e", "en_US", preset.subjects, preset.per_subject, seed, None)
    checkpoint = load_checkpoint(run.path("memorised"), dtype="float32", device="cpu")
    over_late, linear = (
        GradientEngine(checkpoint.model, select_parameters(checkpoint.model, scope))
        for scope in (LATE.scope, "linear")
    )
    questions = []
    for leak in spread(leaks_of(data, run, "memorised"), leaks):
        query = given(checkpoint, leak.prompt, leak.response, Asking(), None)
        batch = make_batch([query.token_ids], [query.labels])
        questions.append(Question(batch, linear))
    corpus = Corpus(over_late, linear, questions, dimensions, bits, methods)
    tokenizer = checkpoint.tokenizer
    learnt = [tokenizer(r.text)["input_ids"] + [tokenizer.eos_token_id] for r in data.records]
    ids = tokenizer(prose.read_text("utf-8", errors="replace"))["input_ids"]
    passages = (ids[at : at + PASSAGE] for at in range(0, len(ids) - PASSAGE, PASSAGE))
    marks = [m for k in (1, 10, 100) for m in (1000 * k, 3000 * k)]
    began, last = time.monotonic(), 0
    with out.open("w", encoding="utf-8") as file:
        for batch in batches(learnt, passages, records):
            corpus.add(batch)
            count = len(corpus.exact)
            if count >= records or any(last < mark <= count for mark in marks):
                for row in corpus.rows():
                    file.write(json.dumps(row) + "\n")
                file.flush()
                print(f"{count:,} records, {time.monotonic() - began:.0f} s")
                last = count


def numbers(text: str) -> list[int]:
    """Numbers with commas between."""
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.shortlist_scale")
    for name in ("trained", "prose", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--records", type=int, default=30_000)
    parser.add_argument("--leaks", type=int, default=24)
    parser.add_argument("--dimensions", type=numbers, default=DIMENSIONS)
    parser.add_argument("--bits", type=numbers, default=BITS)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=METHODS)
    measure(**vars(parser.parse_args()))
