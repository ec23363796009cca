"""A run's checkpoints, checked against the traced one and put into its model one by one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from haiftrace import stored_weights
from haiftrace.checkpoint import Checkpoint, checkpoint_fingerprint, load_checkpoint
from haiftrace.errors import CheckpointError, UsageError
from haiftrace.trajectory import TrainingStep, Trajectory
from tests import kit
from tests.run_samples import (
    RATES,
    edit_json,
    edit_weights,
    noisy_checkpoint,
    trainer_output,
)
from tests.test_checkpoint import save_untrained

BROKEN = "checkpoint-8"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Trainer's output that no test changes."""
    return trainer_output(tmp_path_factory.mktemp("run") / "out")


@pytest.fixture
def spoilt(run: Path, tmp_path: Path) -> Path:
    """A copy of which a test may break `BROKEN`."""
    return Path(shutil.copytree(run, tmp_path / "out"))


@pytest.fixture
def traced() -> Checkpoint:
    """The tiny GPT-2 in float32, loaded anew: a test may find its weights lost."""
    return load_checkpoint(kit.checkpoint_path(), device="cpu")


def refusal(spec: object, traced: Checkpoint) -> CheckpointError:
    """The error that reading ends in: one paragraph, a hint, exit code 2."""
    with pytest.raises(CheckpointError) as caught:
        Trajectory.read(str(spec), traced)
    error = caught.value
    assert error.exit_code == 2
    assert "\n" not in error.message
    assert error.hint
    return error


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def same(model: PreTrainedModel, expected: dict[str, torch.Tensor]) -> bool:
    """Equal bit for bit."""
    found = model.state_dict()
    return found.keys() == expected.keys() and all(
        bits(value) == bits(expected[name]) for name, value in found.items()
    )


def identities(model: PreTrainedModel) -> list[Any]:
    """Of all parameters and buffers, under every name; and where their numbers are."""
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    return [(name, id(x), x.data_ptr(), x.dtype, x.requires_grad, x.shape) for name, x in named]


def loaded(directory: Path, dtype: str = "float32") -> dict[str, torch.Tensor]:
    """The slow oracle: the directory's weights as loading it gives them."""
    return weights(load_checkpoint(directory, dtype=dtype, device="cpu").model)


def visit_all(trajectory: Trajectory) -> list[TrainingStep]:
    with trajectory.visiting() as steps:
        return list(steps)


# ---- what is read


def test_steps_of_a_trainer(run: Path, traced: Checkpoint) -> None:
    trajectory = Trajectory.read(str(run), traced)
    assert trajectory.steps == tuple(
        TrainingStep(path, rate, step, checkpoint_fingerprint(path))
        for step, rate in RATES.items()
        for path in (run.resolve() / f"checkpoint-{step}",)
    )
    assert trajectory.notes == ()


def test_steps_of_a_list(run: Path, traced: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    steps = Trajectory.read("checkpoint-12:1e-3,checkpoint-4:0.5", traced).steps
    assert [(step.path.name, step.learning_rate, step.step) for step in steps] == [
        ("checkpoint-12", 1e-3, None),
        ("checkpoint-4", 0.5, None),
    ]
    assert all(step.path.is_absolute() for step in steps)


def test_the_run_s_own_notes_come_through(spoilt: Path, traced: Checkpoint) -> None:
    (spoilt / "checkpoint-best").mkdir()
    (note,) = Trajectory.read(str(spoilt), traced).notes
    assert "checkpoint-best" in note


def test_the_same_weights_twice_are_noted(spoilt: Path, traced: Checkpoint) -> None:
    shutil.copytree(spoilt / "checkpoint-4", spoilt / "copy")
    spec = f"{spoilt / 'checkpoint-4'}:1e-3,{spoilt / 'copy'}:1e-3"
    (note,) = Trajectory.read(spec, traced).notes
    assert "same weights" in note


def test_a_usage_error_comes_through(run: Path, traced: Checkpoint) -> None:
    with pytest.raises(UsageError):
        Trajectory.read(f"{run / 'checkpoint-4'}:-1", traced)


def test_a_checkpoint_needs_no_tokenizer_of_its_own(spoilt: Path, traced: Checkpoint) -> None:
    for file in spoilt.glob("checkpoint-*/tokenizer*"):
        file.unlink()
    assert len(Trajectory.read(str(spoilt), traced).steps) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"transformers_version": "4.30.0", "use_cache": True},
        {"attn_pdrop": 0.1, "pad_token_id": 3},
        {"architectures": None, "torch_dtype": "bfloat16"},
    ],
)
def test_settings_that_do_not_matter(
    spoilt: Path, traced: Checkpoint, settings: dict[str, Any]
) -> None:
    edit_json(spoilt / BROKEN / "config.json", **settings)
    assert len(Trajectory.read(str(spoilt), traced).steps) == 3


# ---- what is refused


def test_other_shapes(spoilt: Path, traced: Checkpoint) -> None:
    def shorten(stored: dict[str, torch.Tensor]) -> None:
        stored["transformer.wpe.weight"] = stored["transformer.wpe.weight"][:32].clone()

    edit_weights(spoilt / BROKEN, shorten)
    message = refusal(spoilt, traced).message
    assert BROKEN in message
    assert "transformer.wpe.weight is (32, 32), not (64, 32)" in message


def test_a_missing_and_an_unknown_tensor(spoilt: Path, traced: Checkpoint) -> None:
    name = "transformer.h.1.mlp.c_fc.weight"
    edit_weights(spoilt / BROKEN, lambda stored: stored.pop(name))
    assert f"{name} is missing" in refusal(spoilt, traced).message
    shutil.copytree(spoilt / "checkpoint-4", spoilt / BROKEN, dirs_exist_ok=True)
    (spoilt / BROKEN / "trainer_state.json").write_text(
        '{"log_history": [{"learning_rate": 1, "step": 8}]}'
    )
    edit_weights(spoilt / BROKEN, lambda stored: stored.update({"v_head": torch.ones(1)}))
    assert "v_head is in it alone" in refusal(spoilt, traced).message


@pytest.mark.parametrize("name", ["opt", "qwen2-tied"])
def test_another_architecture(spoilt: Path, traced: Checkpoint, name: str) -> None:
    kit.copied_checkpoint(spoilt / "other", name)
    message = refusal(f"{spoilt / BROKEN}:1,{spoilt / 'other'}:1", traced).message
    assert "another architecture" in message
    assert "'gpt2'" in message
    assert str(spoilt / "other") in message


def test_another_head(spoilt: Path, traced: Checkpoint) -> None:
    edit_json(spoilt / BROKEN / "config.json", architectures=["GPT2DoubleHeadsModel"])
    assert "GPT2DoubleHeadsModel" in refusal(spoilt, traced).message


@pytest.mark.parametrize(
    ("key", "value"),
    [("layer_norm_epsilon", 1e-3), ("n_head", 8), ("activation_function", "relu")],
)
def test_settings_that_matter(spoilt: Path, traced: Checkpoint, key: str, value: Any) -> None:
    edit_json(spoilt / BROKEN / "config.json", **{key: value})
    message = refusal(spoilt, traced).message
    assert f"{key} is {value}" in message
    assert BROKEN in message


def test_another_tokenizer(spoilt: Path, traced: Checkpoint) -> None:
    tokenizer = load_checkpoint(spoilt / BROKEN, device="cpu").tokenizer
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(spoilt / BROKEN)
    message = refusal(spoilt, traced).message
    assert f"{BROKEN} has another tokenizer" in message


def damage_config(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def drop_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def drop_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def pickle_weights(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def truncate_weights(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def damage_header(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{nothing")


def add_adapter(directory: Path) -> None:
    (directory / "adapter_config.json").write_text("{}")


def damage_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{}")


def contradict_settings(directory: Path) -> None:
    edit_json(directory / "config.json", n_layer="two")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (damage_config, "not valid JSON"),
        (drop_config, "no config.json"),
        (drop_weights, "no weights"),
        (pickle_weights, "pickle only"),
        (truncate_weights, "cannot be read"),
        (damage_header, "cannot be read"),
        (add_adapter, "adapter"),
        (damage_tokenizer, "tokenizer"),
        (contradict_settings, "n_layer"),
    ],
)
def test_a_broken_directory(
    spoilt: Path, traced: Checkpoint, break_it: Callable[[Path], None], says: str
) -> None:
    break_it(spoilt / BROKEN)
    error = refusal(spoilt, traced)
    assert BROKEN in error.message
    assert says in error.message
    assert "--model" not in error.hint


# ---- visiting


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_each_step_is_in_the_model_and_the_end_is_as_the_beginning(run: Path, dtype: str) -> None:
    traced = load_checkpoint(kit.checkpoint_path(), dtype=dtype, device="cpu")
    model = traced.model
    own, places = weights(model), identities(model)
    trajectory = Trajectory.read(str(run), traced)
    for _ in range(2):  # as often as wanted
        seen = []
        with trajectory.visiting() as steps:
            for step in steps:
                seen.append(step)
                assert same(model, loaded(step.path, dtype))
                assert not same(model, own)
                assert identities(model) == places
                assert model.lm_head.weight is model.transformer.wte.weight
        assert tuple(seen) == trajectory.steps
        assert same(model, own)
        assert identities(model) == places


@pytest.mark.parametrize("name", ["qwen2-untied", "qwen2-tied", "gpt-neox", "mixtral", "gemma3"])
def test_architectures(name: str, tmp_path: Path) -> None:
    """Untied and tied; files that transformers renames and merges; buffers of no file."""
    save_untrained(tmp_path / "traced", name, kit.checkpoint_path().parent)
    shutil.copytree(tmp_path / "traced", tmp_path / "step")
    edit_weights(tmp_path / "step", lambda stored: [value.mul_(1.5) for value in stored.values()])
    traced = load_checkpoint(tmp_path / "traced", device="cpu")
    own, places = weights(traced.model), identities(traced.model)
    buffers = {key: value.clone() for key, value in traced.model.named_buffers()}
    with Trajectory.read(f"{tmp_path / 'step'}:1", traced).visiting() as steps:
        for step in steps:
            assert same(traced.model, loaded(step.path))
            assert not same(traced.model, own)
            assert all(torch.equal(v, buffers[k]) for k, v in traced.model.named_buffers())
    assert same(traced.model, own)
    assert identities(traced.model) == places


def without_prefix(directory: Path) -> None:
    """As the first GPT-2's files have it: no "transformer.", and a buffer of masks."""

    def rename(stored: dict[str, torch.Tensor]) -> None:
        for key in list(stored):
            stored[key.removeprefix("transformer.")] = stored.pop(key)
        stored["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)

    edit_weights(directory, rename)


def test_files_of_an_older_naming(spoilt: Path, tmp_path: Path) -> None:
    own_path = kit.copied_checkpoint(tmp_path / "traced")
    for directory in (own_path, *spoilt.glob("checkpoint-*")):
        without_prefix(directory)
    traced = load_checkpoint(own_path, device="cpu")
    own, places = weights(traced.model), identities(traced.model)
    with Trajectory.read(str(spoilt), traced).visiting() as steps:
        for step in steps:
            assert same(traced.model, loaded(step.path))
            assert not same(traced.model, own)
    assert same(traced.model, own)
    assert identities(traced.model) == places


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories that a second model is loaded from."""
    seen: list[Path] = []
    original = stored_weights.load_model

    def spy(directory: Path, dtype: torch.dtype) -> Any:
        seen.append(directory)
        return original(directory, dtype)

    monkeypatch.setattr(stored_weights, "load_model", spy)
    return seen


def test_one_model_is_in_memory(run: Path, traced: Checkpoint, loads: list[Path]) -> None:
    assert len(visit_all(Trajectory.read(str(run), traced))) == 3
    assert loads == []


def test_only_the_traced_model_has_older_names(
    run: Path, tmp_path: Path, loads: list[Path]
) -> None:
    own_path = kit.copied_checkpoint(tmp_path / "traced")
    without_prefix(own_path)
    traced = load_checkpoint(own_path, device="cpu")
    own = weights(traced.model)
    assert len(visit_all(Trajectory.read(str(run), traced))) == 3
    assert len(loads) == 5  # before, three steps, after
    assert same(traced.model, own)


def test_a_conversion_under_the_same_names_is_noticed(
    run: Path, traced: Checkpoint, loads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the files as they are does not reproduce the traced model: transformers loads."""
    original = stored_weights._each_tensor

    def converted(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in original(directory):
            yield name, tensor + name.endswith("c_fc.weight")

    monkeypatch.setattr(stored_weights, "_each_tensor", converted)
    own = weights(traced.model)
    with Trajectory.read(str(run), traced).visiting() as steps:
        for step in steps:
            assert same(traced.model, loaded(step.path))
    assert len(loads) == 5
    assert same(traced.model, own)


def test_sharded_weights(spoilt: Path, traced: Checkpoint) -> None:
    directory = spoilt / BROKEN
    whole = load_checkpoint(directory, device="cpu").model
    expected = weights(whole)
    (directory / "model.safetensors").unlink()
    kit.silently(lambda: whole.save_pretrained(directory, max_shard_size="60KB"))
    assert len(list(directory.glob("model-*.safetensors"))) > 1
    with Trajectory.read(str(spoilt), traced).visiting() as steps:
        found = {step.path.name: same(traced.model, expected) for step in steps}
    assert found == {"checkpoint-4": False, BROKEN: True, "checkpoint-12": False}


def test_files_in_half_precision_are_cast(spoilt: Path, traced: Checkpoint) -> None:
    def halve(stored: dict[str, torch.Tensor]) -> None:
        stored.update({name: value.bfloat16() for name, value in stored.items()})

    edit_weights(spoilt / BROKEN, halve)
    with Trajectory.read(str(spoilt), traced).visiting() as steps:
        next(steps)
        assert next(steps).path.name == BROKEN
        assert same(traced.model, loaded(spoilt / BROKEN))


def test_a_file_may_hold_a_tied_tensor_under_either_or_both_names(
    spoilt: Path, traced: Checkpoint
) -> None:
    def both(stored: dict[str, torch.Tensor]) -> None:
        stored["lm_head.weight"] = stored["transformer.wte.weight"].clone()

    def other(stored: dict[str, torch.Tensor]) -> None:
        stored["lm_head.weight"] = stored.pop("transformer.wte.weight")

    expected = [loaded(spoilt / f"checkpoint-{step}") for step in RATES]
    edit_weights(spoilt / "checkpoint-4", both)
    edit_weights(spoilt / "checkpoint-12", other)
    own = weights(traced.model)
    with Trajectory.read(str(spoilt), traced).visiting() as steps:
        assert [same(traced.model, expected[number]) for number, _ in enumerate(steps)] == [
            True
        ] * 3
    assert same(traced.model, own)


def test_a_tie_that_the_step_does_not_have(spoilt: Path, traced: Checkpoint) -> None:
    def untie(stored: dict[str, torch.Tensor]) -> None:
        stored["lm_head.weight"] = stored["transformer.wte.weight"] + 1

    edit_weights(spoilt / BROKEN, untie)
    own = weights(traced.model)
    with pytest.raises(CheckpointError, match=f"{BROKEN} they differ"):
        visit_all(Trajectory.read(str(spoilt), traced))
    assert same(traced.model, own)


def test_gradients_may_be_asked_for_meanwhile(run: Path, traced: Checkpoint) -> None:
    """As the engine does; the graph of one step knows nothing of the next."""
    ids = torch.arange(1, 9)[None]

    def gradient(model: PreTrainedModel) -> torch.Tensor:
        loss = model(input_ids=ids, labels=ids).loss
        (found,) = torch.autograd.grad(loss, model.transformer.h[0].attn.c_attn.weight)
        return found

    traced.model.requires_grad_(True)
    own = gradient(traced.model)
    with Trajectory.read(str(run), traced).visiting() as steps:
        for step in steps:
            alone = load_checkpoint(step.path, device="cpu").model.requires_grad_(True)
            assert torch.equal(gradient(traced.model), gradient(alone))
    assert torch.equal(gradient(traced.model), own)


# ---- the end of a visit, whatever ended it


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_after_an_exception(run: Path, traced: Checkpoint, kind: type[BaseException]) -> None:
    own = weights(traced.model)

    def fail_at_step_8() -> None:
        with Trajectory.read(str(run), traced).visiting() as steps:
            for step in steps:
                if step.step == 8:
                    assert not same(traced.model, own)
                    raise kind

    with pytest.raises(kind):
        fail_at_step_8()
    assert same(traced.model, own)


def test_after_a_break_and_the_iterator_refuses_to_go_on(run: Path, traced: Checkpoint) -> None:
    own = weights(traced.model)
    with Trajectory.read(str(run), traced).visiting() as steps:
        for _ in steps:
            break
        assert not same(traced.model, own)
    assert same(traced.model, own)
    with pytest.raises(RuntimeError, match="visit is over"):
        next(steps)
    assert same(traced.model, own)


def test_in_an_abandoned_generator(run: Path, traced: Checkpoint) -> None:
    own = weights(traced.model)

    def along() -> Iterator[TrainingStep]:
        with Trajectory.read(str(run), traced).visiting() as steps:
            yield from steps

    walking = along()
    next(walking)
    assert not same(traced.model, own)
    del walking
    assert same(traced.model, own)


def test_nothing_is_touched_before_the_first_step(run: Path, traced: Checkpoint) -> None:
    versions = [parameter._version for parameter in traced.model.parameters()]
    with Trajectory.read(str(run), traced).visiting():
        pass
    assert [parameter._version for parameter in traced.model.parameters()] == versions


def test_a_visit_within_a_visit_is_refused(run: Path, traced: Checkpoint) -> None:
    own = weights(traced.model)
    trajectory = Trajectory.read(str(run), traced)
    with trajectory.visiting() as steps:
        next(steps)
        with pytest.raises(CheckpointError, match="other weights"), trajectory.visiting():
            pass
    assert same(traced.model, own)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_broken_numbers_name_the_step(spoilt: Path, traced: Checkpoint, value: float) -> None:
    def spoil(stored: dict[str, torch.Tensor]) -> None:
        stored["transformer.h.1.attn.c_attn.weight"][2, 5] = value

    edit_weights(spoilt / BROKEN, spoil)
    own = weights(traced.model)
    trajectory = Trajectory.read(str(spoilt), traced)  # the headers are sound
    seen = []
    with pytest.raises(CheckpointError) as caught, trajectory.visiting() as steps:
        seen.extend(step.step for step in steps)
    assert BROKEN in caught.value.message
    assert "1 of 3072 entries of transformer.h.1.attn.c_attn.weight" in caught.value.message
    assert "PATH:LR" in caught.value.hint
    assert same(traced.model, own)


def test_numbers_too_large_for_the_model_s_dtype(spoilt: Path, traced: Checkpoint) -> None:
    def enlarge(stored: dict[str, torch.Tensor]) -> None:
        stored["transformer.ln_f.weight"] = stored["transformer.ln_f.weight"].double() * 1e300

    edit_weights(spoilt / BROKEN, enlarge)
    with pytest.raises(CheckpointError, match=r"transformer\.ln_f\.weight"):
        visit_all(Trajectory.read(str(spoilt), traced))


# ---- files that change meanwhile


def test_a_step_that_changes_after_it_was_read(spoilt: Path, traced: Checkpoint) -> None:
    trajectory = Trajectory.read(str(spoilt), traced)
    edit_weights(spoilt / BROKEN, lambda stored: stored["transformer.wte.weight"].mul_(2))
    own = weights(traced.model)
    with pytest.raises(CheckpointError, match=f"{BROKEN} have changed"):
        visit_all(trajectory)
    shutil.rmtree(spoilt / BROKEN)
    with pytest.raises(CheckpointError, match=BROKEN):
        visit_all(trajectory)
    assert same(traced.model, own)


def test_a_traced_model_that_is_not_that_of_its_files(run: Path, tmp_path: Path) -> None:
    traced = load_checkpoint(kit.copied_checkpoint(tmp_path / "traced"), device="cpu")
    trajectory = Trajectory.read(str(run), traced)
    with torch.no_grad():
        traced.model.transformer.ln_f.bias[0] += 1
    changed = weights(traced.model)
    with pytest.raises(CheckpointError, match="other weights than its files"):
        visit_all(trajectory)
    assert same(traced.model, changed)  # refused before anything is overwritten


def test_a_traced_model_whose_files_change(run: Path, tmp_path: Path) -> None:
    traced = load_checkpoint(kit.copied_checkpoint(tmp_path / "traced"), device="cpu")
    noisy_checkpoint(tmp_path / "other", 0.5)
    trajectory = Trajectory.read(str(run), traced)

    def change_within() -> None:
        with trajectory.visiting() as steps:
            next(steps)
            shutil.copy(tmp_path / "other" / "model.safetensors", traced.path)

    with pytest.raises(CheckpointError, match="traced have changed"):
        change_within()
    with pytest.raises(CheckpointError, match="traced have changed"):
        visit_all(trajectory)


def test_no_file_is_written(spoilt: Path, tmp_path: Path) -> None:
    """Weights may be mapped from their files: copying over them must not reach the disk."""
    traced = load_checkpoint(kit.copied_checkpoint(tmp_path / "traced"), device="cpu")

    def content() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    before = content()
    visit_all(Trajectory.read(str(spoilt), traced))
    assert content() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu(run: Path, dtype: str) -> None:
    traced = load_checkpoint(kit.checkpoint_path(), dtype=dtype, device="cuda")
    own, places = weights(traced.model), identities(traced.model)
    with Trajectory.read(str(run), traced).visiting() as steps:
        for step in steps:
            assert same(traced.model, loaded(step.path, dtype))
            assert identities(traced.model) == places
    assert same(traced.model, own)
