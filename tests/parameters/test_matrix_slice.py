"""A slice of a matrix: how it is written, and that the engine's numbers are its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from haiftrace.engine import GradientEngine, make_batch
from haiftrace.parameters.matrix_slice import MatrixSlice, parameter_name
from haiftrace.parameters.scopes import select_parameters
from tests import tiny_models
from tests.oracle import TrueFloat64, token_gradient_matrix

FUSED = ("gpt2", "gpt-neox", "bloom")


@pytest.mark.parametrize(
    "matrix_slice",
    [MatrixSlice("h.0.weight", 2, 3, 6), MatrixSlice("c_attn.weight", 64, 96, 96, dim=1)],
)
def test_a_slice_is_read_as_it_is_written(matrix_slice):
    assert MatrixSlice.parse(str(matrix_slice)) == matrix_slice
    assert parameter_name(str(matrix_slice)) == matrix_slice.name
    assert MatrixSlice.parse(matrix_slice.name) is None


def test_outputs_of_a_slice():
    assert MatrixSlice("w", 2, 3, 3).outputs((6, 4)) == [2, 5]
    assert MatrixSlice("w", 1, 3, 4, dim=1).outputs((6, 4)) == [1, 2]
    assert MatrixSlice("w", 2, 3, 3).size((6, 4)) == 8
    for shape in ((5, 4), (6,), (2, 6, 4)):
        with pytest.raises(ValueError, match="slice"):
            MatrixSlice("w", 2, 3, 3).outputs(shape)


@pytest.mark.parametrize("name", FUSED)
def test_the_value_slice_gives_the_values_and_nothing_else(name):
    """Attention's weights depend on query and key: on all of the matrix but this slice."""
    model = tiny_models._build(name)
    ids = torch.tensor([tiny_models.records(name)[0]])

    def attention() -> torch.Tensor:
        return model(input_ids=ids, output_attentions=True, use_cache=False).attentions[0]

    with torch.no_grad():
        before = attention()
        matrix_slice = MatrixSlice.parse(select_parameters(model, "value")[0])
        matrix = model.get_parameter(matrix_slice.name)
        outputs = torch.zeros(matrix.shape[matrix_slice.dim], dtype=torch.bool)
        outputs[matrix_slice.outputs(tuple(matrix.shape))] = True
        assert int(outputs.sum()) * 3 == len(outputs)
        along = outputs.unsqueeze(1 - matrix_slice.dim).expand(matrix.shape)
        noise = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(0))
        matrix.add_(noise * along)
        assert torch.equal(attention(), before)
        matrix.add_(noise * ~along)
        assert not torch.allclose(attention(), before, atol=1e-3)


@pytest.mark.parametrize("forward_mode", [True, False])
@pytest.mark.parametrize("name", [*FUSED, "qwen2-tied"])
def test_the_engines_numbers_are_those_of_the_slice(name, forward_mode):
    model = tiny_models.trained(name).double()
    records = tiny_models.records(name)[:3]
    keys = select_parameters(model, "value")
    names = [parameter_name(key) for key in keys]
    with TrueFloat64():
        rows = [token_gradient_matrix(model, names, ids)[1] for ids in records]
        engine = GradientEngine(model, keys)
        if not forward_mode:
            engine.support = replace(engine.support, forward_mode=False)
        batch = make_batch(records)
        right = [_narrowed(model, keys, gradients) for gradients in rows]
        width = right[0].shape[1]
        given = torch.randn(12, width, generator=torch.Generator().manual_seed(1)).double()
        queries = _by_key(model, keys, given)
        weights = batch.labels_BT.double() / batch.labels_BT.sum(1, keepdim=True)
        tokens = engine.token_gradients(batch, engine.projector(64, 0))
        first_dots = engine.token_dots(batch, {key: query[:2] for key, query in queries.items()})
        dots = engine.token_dots(batch, queries)
        reduced = engine.record_gradients(batch, weights.unsqueeze(0), queries=queries)
        for k, gradients in enumerate(right):
            labels = slice(1, len(gradients) + 1)
            _close(tokens.norms_BT[k, labels], gradients.norm(dim=1))
            _close(first_dots[:, k, labels], given[:2] @ gradients.T)
            _close(dots[:, k, labels], given @ gradients.T)
            _close(reduced.norm_NB[0, k], gradients.mean(0).norm())
            _close(reduced.dots_NBQ[0, k], given @ gradients.mean(0))
            row = batch.row(k)
            mean = engine.gradient(row, weights[k : k + 1, : row.length])
            _close(torch.cat([mean[key].flatten() for key in keys]), gradients.mean(0))
            for j in range(1, row.length):
                one_hot = torch.eye(row.length)[j : j + 1].double()
                unit = _projected(engine.gradient(row, one_hot), engine.projector(64, 0))
                _close(tokens.vectors_BTK[k, j] * tokens.norms_BT[k, j], unit)


def _projected(gradient, projector):
    return sum(projector.project(name, value, value.ndim) for name, value in gradient.items())


def _narrowed(model, keys, gradients):
    """Of gradients [T, P] over whole matrices, what belongs to the slices."""
    narrowed, at = [], 0
    for key in keys:
        matrix = model.get_parameter(parameter_name(key))
        rows = gradients[:, at : at + matrix.numel()].reshape(-1, *matrix.shape)
        at += matrix.numel()
        matrix_slice = MatrixSlice.parse(key)
        if matrix_slice is not None:
            rows = rows.index_select(
                1 + matrix_slice.dim, torch.tensor(matrix_slice.outputs(matrix.shape))
            )
        narrowed.append(rows.flatten(1))
    return torch.cat(narrowed, 1)


def _by_key(model, keys, flat):
    queries, at = {}, 0
    for key in keys:
        shape = list(model.get_parameter(parameter_name(key)).shape)
        matrix_slice = MatrixSlice.parse(key)
        if matrix_slice is not None:
            shape[matrix_slice.dim] = len(matrix_slice.outputs(tuple(shape)))
        size = shape[0] * shape[1]
        queries[key] = flat[:, at : at + size].reshape(-1, *shape)
        at += size
    assert at == flat.shape[1]
    return queries


def _close(ours, right):
    assert ours.shape == right.shape
    assert float((ours - right).abs().max()) <= 1e-9 * float(right.abs().max())
