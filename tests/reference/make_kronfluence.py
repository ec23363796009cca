"""Write `kronfluence.json` and the weights beside it: EK-FAC scores by kronfluence.

Run by hand, from the repository's root, in an environment that has kronfluence:

    pip install -c constraints.txt torch transformers safetensors
    pip install --no-deps kronfluence==1.0.1 accelerate
    pip install einops opt_einsum einconv psutil
    python -m tests.reference.make_kronfluence

It trains the tiny models anew, so weights and numbers change together; a test that has kronfluence
runs `kronfluence_numbers` on the committed weights instead.

What kronfluence 1.0.1 does, as its source has it:
- a module's bias is folded into its input (a column of ones) wherever the module has one;
- covariances are means over positions: all of them, or those in the attention mask if one is given;
- eigenvectors are those of the symmetrised covariance, in `eigendecomposition_dtype`;
- the corrected eigenvalues are means over records of the squared gradient in that eigenbasis;
- the preconditioned gradient is divided by eigenvalue plus damping; without a damping factor that
  is 0.1 times the mean of the matrix's corrected eigenvalues;
- a score is the preconditioned gradient of the measurement times the gradient of the training loss.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import platform
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from haiftrace.parameters.scopes import select_parameters
from tests.oracle import TrueFloat64
from tests.reference import NAMES, NUMBERS, Query, affine_maps, save_model
from tests.tiny_models import PAD, records, trained

DAMPINGS = (None, 1e-4)
ANSWER = 3
IGNORED = -100
Numbers = tuple[dict[float | None, Tensor], dict[str, dict[str, float]]]


def queries(name: str) -> tuple[Query, ...]:
    """A learnt record, a learnt context with another record's answer, and an altered context."""
    learnt = records(name)
    altered = list(learnt[7])
    altered[5] = learnt[8][5]
    assert altered != learnt[7]
    swapped = [*learnt[4][:-ANSWER], *learnt[5][-ANSWER:]]
    return tuple(Query(ids, ANSWER) for ids in (learnt[0], swapped, altered))


class _Shift(nn.Module):
    """Adds a bias that kronfluence is not to see."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias)

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.bias


def with_linear(
    model: PreTrainedModel, matrices: Sequence[str], *, biases: bool
) -> tuple[PreTrainedModel, dict[str, str]]:
    """A copy that computes the same with an `nn.Linear`, which kronfluence knows, for each matrix.

    Args:
        matrices: names of the weights of `nn.Linear` and `Conv1D` modules.
        biases: leave a bias in the `nn.Linear`, or add it in a module of its own, so that it is
            not traced.

    Returns:
        The copy, and by matrix the name of its `nn.Linear`.
    """
    model = copy.deepcopy(model).eval()
    tracked = {}
    for matrix in matrices:
        name = matrix.removesuffix(".weight")
        module = model.get_submodule(name)
        weight_RC = module.weight.detach()
        if isinstance(module, Conv1D):
            weight_RC = weight_RC.T.contiguous()
        bias_R = None if module.bias is None else module.bias.detach()
        outputs, inputs = weight_RC.shape
        inside = biases and bias_R is not None
        linear = nn.Linear(inputs, outputs, bias=inside, dtype=weight_RC.dtype)
        linear.weight = nn.Parameter(weight_RC)
        if bias_R is None or inside:
            linear.bias = None if bias_R is None else nn.Parameter(bias_R)
            model.set_submodule(name, linear)
            tracked[matrix] = name
        else:
            model.set_submodule(name, nn.Sequential(linear, _Shift(bias_R)))
            tracked[matrix] = f"{name}.0"
    return model, tracked


class Dataset(torch.utils.data.Dataset):
    """Records, padded on the right to one length, of which the last labels count.

    Args:
        answers: how many labels of each record; None: all of them.
        length: to which to pad; None: not at all, so that a batch holds one record.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        answers: Sequence[int] | None = None,
        length: int | None = None,
    ) -> None:
        self._sequences = sequences
        self._answers = answers
        self._length = length

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = list(self._sequences[index])
        answer = len(ids) - 1 if self._answers is None else self._answers[index]
        labels = [IGNORED] * (len(ids) - answer) + ids[len(ids) - answer :]
        padding = max(0, (self._length or 0) - len(ids))
        return {
            "ids": torch.tensor(ids + [PAD] * padding),
            "labels": torch.tensor(labels + [IGNORED] * padding),
            "mask": torch.tensor([1] * len(ids) + [0] * padding),
        }


def _task(modules: Sequence[str]) -> Any:
    from kronfluence.task import Task

    class TokenLosses(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            assert not sample, "the empirical Fisher draws no labels"
            return self._losses(batch, model).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            counted = (batch["labels"][:, 1:] != IGNORED).sum(1)
            return (self._losses(batch, model).sum(1) / counted).sum()

        def get_influence_tracked_modules(self) -> list[str]:
            return list(modules)

        def get_attention_mask(self, batch: Any) -> Tensor:
            return batch["mask"]

        def _losses(self, batch: Any, model: nn.Module) -> Tensor:
            # The model reads all tokens; right padding needs no mask under causal attention.
            logits = model(input_ids=batch["ids"]).logits[:, :-1]
            labels = batch["labels"][:, 1:]
            return F.cross_entropy(
                logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
            )

    return TokenLosses()


def analyzer(model: PreTrainedModel, modules: Sequence[str], directory: Path) -> Any:
    """kronfluence's `Analyzer` over some `nn.Linear` modules of a model, which it changes."""
    from kronfluence.analyzer import Analyzer, prepare_model

    task = _task(modules)
    return Analyzer(
        analysis_name="reference",
        model=prepare_model(model, task),
        task=task,
        cpu=True,
        log_level=logging.ERROR,
        disable_tqdm=True,
        output_dir=str(directory),
    )


def factor_arguments(dtype: torch.dtype = torch.float64) -> Any:
    from kronfluence.arguments import FactorArguments

    return FactorArguments(
        strategy="ekfac",
        use_empirical_fisher=True,
        activation_covariance_dtype=dtype,
        gradient_covariance_dtype=dtype,
        eigendecomposition_dtype=torch.float64,
        per_sample_gradient_dtype=dtype,
        lambda_dtype=dtype,
    )


def score_arguments(damping: float | None, dtype: torch.dtype = torch.float64) -> Any:
    from kronfluence.arguments import ScoreArguments

    return ScoreArguments(
        damping_factor=damping,
        per_sample_gradient_dtype=dtype,
        precondition_dtype=dtype,
        score_dtype=dtype,
    )


def kronfluence_numbers(
    model: PreTrainedModel,
    matrices: Sequence[str],
    sequences: Sequence[Sequence[int]],
    asked: Sequence[Query],
    directory: Path,
    *,
    biases: bool,
    batch: int = 1,
) -> Numbers:
    """Scores [Q, K] by damping, and by matrix what `Reference.factors` holds.

    Args:
        model: in float64.
        matrices: names of the matrices whose modules are tracked.
        directory: where kronfluence may write.
        biases: trace the modules' biases too.
        batch: records in a batch; with more than one they are padded.
    """
    length = None if batch == 1 else max(map(len, sequences))
    train = Dataset(sequences, length=length)
    measured = Dataset([query.ids for query in asked], [query.answer for query in asked])
    # kronfluence's own use of a deprecated gradient scaler.
    with TrueFloat64(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        copied, tracked = with_linear(model, matrices, biases=biases)
        found = analyzer(copied, list(tracked.values()), directory)
        found.fit_all_factors(
            "factors", train, per_device_batch_size=batch, factor_args=factor_arguments()
        )
        scores = {}
        for damping in DAMPINGS:
            name = f"damping-{damping}"
            found.compute_pairwise_scores(
                name,
                "factors",
                measured,
                train,
                per_device_query_batch_size=1,
                per_device_train_batch_size=batch,
                score_args=score_arguments(damping),
            )
            scores[damping] = found.load_pairwise_scores(name)["all_modules"]
        factors = {
            **found.load_covariance_matrices("factors"),
            **found.load_lambda_matrices("factors"),
        }
    return scores, {m: _summary(factors, module) for m, module in tracked.items()}


def _summary(factors: dict[str, dict[str, Tensor]], module: str) -> dict[str, float]:
    def mean(sum_name: str, count_name: str) -> Tensor:
        return factors[sum_name][module].double() / factors[count_name][module]

    inputs = mean("activation_covariance", "num_activation_covariance_processed")
    outputs = mean("gradient_covariance", "num_gradient_covariance_processed")
    eigenvalues = mean("lambda_matrix", "num_lambda_processed")
    return {
        "input_trace": float(inputs.trace()),
        "output_trace": float(outputs.trace()),
        "mean_eigenvalue": float(eigenvalues.mean()),
        "largest_eigenvalue": float(eigenvalues.max()),
    }


def _entry(name: str) -> dict[str, Any]:
    model = trained(name)
    matrices = select_parameters(model, "linear")
    config = save_model(name, model)
    sequences, asked = records(name), queries(name)
    found = []
    for biases in (True, False):
        with tempfile.TemporaryDirectory() as directory:
            scores, factors = kronfluence_numbers(
                model.double(), matrices, sequences, asked, Path(directory), biases=biases
            )
        rows = [{"damping": d, "scores": scores_QK.tolist()} for d, scores_QK in scores.items()]
        found.append({"biases": biases, "scores": rows, "factors": factors})
    return {
        "config": config,
        "affine": affine_maps(model, matrices),
        "records": sequences,
        "queries": [asdict(query) for query in asked],
        "found": found,
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    packages = ("kronfluence", "torch", "transformers", "accelerate")
    numbers = {
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "settings": {
            "factors": factor_arguments().to_str_dict(),
            "scores": score_arguments(None).to_str_dict(),
            "model_dtype": "float64, nothing cast to float32 (tests.oracle.TrueFloat64)",
            "training_loss": "sum of the cross-entropies of a record's labels",
            "measurement": "mean cross-entropy of the last labels",
            "batch": 1,
        },
        "models": {name: _entry(name) for name in NAMES},
    }
    NUMBERS.write_text(_compact(numbers) + "\n", encoding="utf-8")


def _compact(numbers: Any, depth: int = 0) -> str:
    """JSON with a line for every list or deep object of plain values."""
    space, end = "  " * (depth + 1), "  " * depth
    values = numbers.values() if isinstance(numbers, dict) else numbers
    nested = isinstance(numbers, dict | list | tuple) and any(
        isinstance(value, dict | list | tuple) for value in values
    )
    if isinstance(numbers, dict) and (nested or depth < 4):
        rows = [f"{space}{json.dumps(k)}: {_compact(v, depth + 1)}" for k, v in numbers.items()]
        return "{\n" + ",\n".join(rows) + f"\n{end}}}"
    if nested:
        rows = [space + _compact(value, depth + 1) for value in numbers]
        return "[\n" + ",\n".join(rows) + f"\n{end}]"
    return json.dumps(numbers)


if __name__ == "__main__":
    main()
