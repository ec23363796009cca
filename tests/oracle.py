"""The slow, obvious oracle: a loop of single backward passes through the whole model.

`Oracle` holds every token's whole gradient as a row of a matrix, from which everything else follows
by plain linear algebra; `Numbers` are the quantities that the engine promises, taken from either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from haiftrace.engine import GradientEngine, Projector, inverse_norms, make_batch
from haiftrace.parameters.matrix_slice import MatrixSlice

DIMENSION = 64
SEED = 7


class TrueFloat64(TorchFunctionMode):
    """Context in which nothing is computed in float32 that was to be computed in float64.

    Many architectures cast norms, rotary tables and the softmax of attention to float32 whatever
    the weights are. Without those casts an engine and an oracle have to agree to the last digits.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        args = tuple(_wide(value) for value in args)
        return func(*args, **{key: _wide(value) for key, value in (kwargs or {}).items()})


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def token_gradient_matrix(
    model: torch.nn.Module, names: Sequence[str], ids: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Losses [T-1] and flattened gradients [T-1, parameters] of every token but the first."""
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in names]
    tokens = torch.tensor([list(ids)])
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    losses, rows = [], []
    for position in range(1, len(ids)):
        loss = F.cross_entropy(logits[0, position - 1].double(), tokens[0, position])
        grads = torch.autograd.grad(loss, chosen, retain_graph=True, allow_unused=True)
        flat = [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for p, g in zip(chosen, grads, strict=True)
        ]
        losses.append(loss.detach())
        rows.append(torch.cat(flat).double())
    return torch.stack(losses), torch.stack(rows)


def flatten(gradient: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """A gradient by name as one vector, in the oracle's order."""
    return torch.cat([gradient[name].flatten() for name in names]).double()


@dataclass(frozen=True)
class Oracle:
    """Every token's gradient of some records.

    Attributes:
        shapes: of the parameters by name, in the order of the columns of `gradients`.
        losses: [T-1] of each record.
        gradients: [T-1, P] of each record, float64.
    """

    shapes: dict[str, torch.Size]
    losses: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: torch.nn.Module, records: Sequence[Sequence[int]]) -> Oracle:
        """Over all parameters of the model, which is given back as it was."""
        shapes = {name: value.shape for name, value in model.named_parameters()}
        pairs = [token_gradient_matrix(model, list(shapes), record) for record in records]
        return cls(shapes, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))

    def over(self, names: Sequence[str]) -> Oracle:
        """The same over some of the parameters, or of their parts."""
        whole = [self.split(rows) for rows in self.gradients]
        parts = [{name: _narrowed(record, name) for name in names} for record in whole]
        return Oracle(
            {name: parts[0][name].shape[1:] for name in names},
            self.losses,
            tuple(
                torch.cat([part.reshape(len(part), -1) for part in record.values()], 1)
                for record in parts
            ),
        )

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Vectors [N, P] as [N, *shape] by name."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = flat.split(sizes, dim=1)
        return {
            name: part.reshape(-1, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def project(self, flat: Tensor, projector: Projector) -> Tensor:
        """[N, D] of vectors [N, P], from each parameter's gradient as a whole."""
        parts = self.split(flat)
        return torch.stack([projector.project(n, g, g.ndim - 1) for n, g in parts.items()]).sum(0)

    def directions(self, count: int) -> Tensor:
        """Dense vectors [count, P]: no entry is zero by the structure of a gradient.

        Each parameter's part is as long as its share of the gradients, so that none is drowned.
        """
        generator = torch.Generator().manual_seed(1)
        size = sum(shape.numel() for shape in self.shapes.values())
        parts = self.split(torch.randn(count, size, generator=generator, dtype=torch.float64))
        shares = self.split(torch.cat(self.gradients))
        scaled = [
            (parts[name] * (shares[name].norm() / shape.numel() ** 0.5 + 1e-3)).reshape(count, -1)
            for name, shape in self.shapes.items()
        ]
        return torch.cat(scaled, 1)


def _narrowed(gradients: Mapping[str, Tensor], name: str) -> Tensor:
    """Gradients [N, *shape] of a parameter, or of a part of a matrix."""
    part = MatrixSlice.parse(name)
    if part is None:
        return gradients[name]
    whole = gradients[part.name]
    outputs = part.outputs(tuple(whole.shape[1:]))
    return whole[:, :, outputs] if part.dim else whole[:, outputs]


def weightings(lengths: Sequence[int]) -> list[Tensor]:
    """Weights [3, T-1] of each record's labels: all ones, the mean, and some of either sign."""
    generator = torch.Generator().manual_seed(2)
    rows = []
    for length in lengths:
        ones = torch.ones(length - 1, dtype=torch.float64)
        signed = torch.randn(length - 1, generator=generator, dtype=torch.float64)
        rows.append(torch.stack([ones, ones / (length - 1), signed]))
    return rows


Numbers = dict[str, Tensor]
"""What the engine promises of a few records, by quantity. A record's tokens or the records are the
first dimension of each; what is compared relative to its own value has no other."""

EACH = ("norms", "record norms")
"""Compared value by value; the others relative to the largest of their kind."""


def numbers_of_oracle(oracle: Oracle, directions: Tensor) -> Numbers:
    """The promised quantities by linear algebra on the oracle's matrices.

    Args:
        directions: [Q, P] query gradients.
    """
    projector = Projector(DIMENSION, SEED, dtype=torch.float64)
    lengths = [len(losses) + 1 for losses in oracle.losses]
    norms = [rows.norm(dim=1) for rows in oracle.gradients]
    units = [
        rows * inverse_norms(norm).unsqueeze(1)
        for rows, norm in zip(oracle.gradients, norms, strict=True)
    ]
    vectors = [
        torch.cat([weights @ rows, unit.sum(0, keepdim=True)])
        for weights, rows, unit in zip(weightings(lengths), oracle.gradients, units, strict=True)
    ]
    sums = torch.stack([unit.sum(0) for unit in units])
    token_sums = sums @ directions.T
    return {
        "losses": torch.cat(oracle.losses).double(),
        "norms": torch.cat(norms),
        "token vectors": torch.cat([oracle.project(unit, projector) for unit in units]),
        "record norms": torch.cat([vector.norm(dim=1) for vector in vectors]),
        "record dots": torch.cat([vector @ directions.T for vector in vectors]),
        "record projections": torch.cat([oracle.project(v, projector) for v in vectors]),
        "directional": torch.cat([rows @ directions.T for rows in oracle.gradients]),
        "gradient": torch.stack([vector[2] for vector in vectors]),
        "HAIF-T": token_sums,
        "HAIF": token_sums * inverse_norms(sums.norm(dim=1)).unsqueeze(1),
    }


def numbers_of_engine(
    engine: GradientEngine, records: Sequence[Sequence[int]], oracle: Oracle, directions: Tensor
) -> Numbers:
    """The same quantities by the engine, all records in one batch; the oracle gives shapes only."""
    batch = make_batch(records)
    names = list(oracle.shapes)
    projector = engine.projector(DIMENSION, SEED)
    dtype = next(iter(engine.parameters.values())).dtype
    queries = {n: q.to(dtype) for n, q in oracle.split(directions).items()}
    tokens = engine.token_gradients(batch, projector)
    assert tokens.vectors_BTK is not None

    given_NBT = torch.zeros(3, *batch.ids_BT.shape, dtype=torch.float64)
    for row, weights in enumerate(weightings(batch.lengths)):
        given_NBT[:, row, 1 : batch.lengths[row]] = weights
    haif_BT = inverse_norms(tokens.norms_BT)
    weights_NBT = torch.cat([given_NBT, haif_BT.unsqueeze(0)])
    reduced = engine.record_gradients(batch, weights_NBT, projector, queries)
    assert reduced.projected_NBK is not None
    assert reduced.dots_NBQ is not None
    losses_BT, dots_QBT = engine.directional_derivatives(
        batch, [{n: q[i] for n, q in queries.items()} for i in range(len(directions))]
    )
    gradients = [
        flatten(engine.gradient(row, given_NBT[2, i : i + 1, : row.length]), names)
        for i, row in enumerate(batch.rows())
    ]
    token_sums = (haif_BT.unsqueeze(0) * dots_QBT).sum(-1).T
    assert torch.equal(losses_BT > 0, batch.labels_BT)
    torch.testing.assert_close(losses_BT, tokens.losses_BT, rtol=1e-6, atol=1e-6)

    def labels(tensor_BT: Tensor) -> Tensor:
        return torch.cat([tensor_BT[i, 1:length] for i, length in enumerate(batch.lengths)])

    return {
        "losses": labels(engine.losses(batch)),
        "norms": labels(tokens.norms_BT),
        "token vectors": labels(tokens.vectors_BTK).double(),
        "record norms": reduced.norm_NB.T.flatten(),
        "record dots": reduced.dots_NBQ.transpose(0, 1).flatten(0, 1),
        "record projections": reduced.projected_NBK.transpose(0, 1).flatten(0, 1).double(),
        "directional": labels(dots_QBT.permute(1, 2, 0)),
        "gradient": torch.stack(gradients),
        "HAIF-T": token_sums,
        "HAIF": token_sums * inverse_norms(reduced.norm_NB[3]).unsqueeze(1),
    }


def errors(ours: Numbers, reference: Numbers) -> dict[str, float]:
    """Largest relative error of each quantity; a reference of exactly zero must be met exactly."""
    found = {}
    for quantity, right in reference.items():
        assert ours[quantity].shape == right.shape, quantity
        difference = (ours[quantity] - right).abs()
        if quantity in EACH:
            nothing = right == 0
            assert not ours[quantity][nothing].any(), quantity
            found[quantity] = float((difference / right.where(~nothing, 1.0)).max())
        else:
            # A query's dots are compared with that query's own largest.
            columns = quantity in ("record dots", "directional", "HAIF", "HAIF-T")
            size = right.abs().amax(0) if columns else right.abs().max()
            found[quantity] = float((difference / size).max())
        assert not torch.isnan(ours[quantity]).any(), quantity
    return found


def beyond(found: Mapping[str, float], tolerance: float | Mapping[str, float]) -> dict[str, float]:
    """The errors that exceed the tolerance: to be compared with {}, for a telling failure."""
    allowed = tolerance if isinstance(tolerance, Mapping) else dict.fromkeys(found, tolerance)
    return {name: error for name, error in found.items() if not error <= allowed[name]}
