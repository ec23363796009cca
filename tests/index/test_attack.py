"""A finished index is attacked: a flipped bit or an edited manifest never gives another answer."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from haiftrace.errors import DamagedIndexError
from haiftrace.store import Index, checked_files
from tests import kit
from tests.kit import ANSWER, PROMPT, cli

FILES = (
    *("manifest.json", "tokens.faiss", "records/00000.parquet", ".verified.json"),
    *("supplements/whitening/00000.safetensors", "supplements/near-copies/00000.safetensors"),
    "supplements/calibration-layerwise/00000.safetensors",
)
QUICK = 7
"""Flipped bits of a file, unless the full attack is run."""
FULL = 400


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A calibrated index whose checksums are remembered, as after a first trace."""
    path = tmp_path_factory.mktemp("attacked") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checked_files, "SETTLED_NS", -1)
        made = cli(
            *("index", "--model", kit.checkpoint_path(), "--corpus", kit.corpus_path()),
            *("-o", path, *kit.SMALL_OPTIONS, "--methods", "haif"),
        )
        assert made.code == 0, made.err
        assert traced(path).code == 0
        yield path


@pytest.fixture(scope="module")
def right(index: Path) -> dict[str, Any]:
    return report(traced(index))


def traced(path: Path) -> kit.Outcome:
    """A trace that reads every file: what the vectors propose is scored."""
    shortlist = ("--candidates", "6")
    return cli("trace", PROMPT, "--response", ANSWER, "--index", path, *shortlist, "-o", "-", "-q")


def report(outcome: kit.Outcome) -> dict[str, Any]:
    content: dict[str, Any] = outcome.report
    return {key: content[key] for key in content if key not in ("created", "seconds", "command")}


def same_or_refused(path: Path, name: str, right: dict[str, Any]) -> bool:
    """Whether the report is the right one; where it is refused, the file is named."""
    outcome = traced(path)
    if outcome.code == 0:
        assert report(outcome) == right, name
        return True
    kit.refused(outcome, name, code=3)
    hint = outcome.err.partition("Hint: ")[2]
    assert "haiftrace" in hint or "-o" in hint, hint
    return False


def flipped(file: Path, bit: int) -> None:
    """Flip one bit in place, and put the time of modification back."""
    status = file.stat()
    with file.open("r+b") as handle:
        handle.seek(bit // 8)
        (byte,) = handle.read(1)
        handle.seek(bit // 8)
        handle.write(bytes([byte ^ (1 << bit % 8)]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def attack(index: Path, name: str, count: int, right: dict[str, Any]) -> int:
    """How many of the flips are refused."""
    file = index / name
    bits = 8 * file.stat().st_size
    step = max(1, bits // count) | 1  # odd: every place in a byte is hit
    refused = 0
    for bit in range(step // 2, bits, step):
        before = file.read_bytes()
        flipped(file, bit)
        try:
            refused += not same_or_refused(index, Path(name).name, right)
        finally:
            with file.open("r+b") as handle:
                handle.write(before)
                handle.truncate(len(before))
    return refused


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_gives_the_same_report_or_exit_code_3(
    index: Path, name: str, right: dict[str, Any]
) -> None:
    refused = attack(index, name, QUICK, right)
    if name == ".verified.json":
        assert refused == 0
    else:
        assert refused >= QUICK - 1  # a blank in the manifest may become another


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_kth_bit_of_every_file(index: Path, name: str, right: dict[str, Any]) -> None:
    attack(index, name, FULL, right)


def scalars(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the numbers, strings and flags of a JSON document are."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from scalars(value, (*place, key))
            if not value:
                yield (*place, key)
        else:
            yield (*place, key)


def changed(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return ("b" if value[:1] == "a" else "a") + value[1:]
    return [7] if isinstance(value, list) else {"a": 7}


def test_every_edit_of_the_manifest_is_refused(index: Path, tmp_path: Path) -> None:
    """Every scalar is changed, and every one removed; each is refused before a model is loaded."""
    path = Path(shutil.copytree(index, tmp_path / "index"))
    original = json.loads((index / "manifest.json").read_text())
    places = list(scalars(original))
    assert len(places) > 60
    for number, place in enumerate(places):
        for edit in ("changed", "removed", "of another type"):
            content = copy.deepcopy(original)
            inner = content
            for key in place[:-1]:
                inner = inner[key]
            if edit == "removed":
                del inner[place[-1]]
            else:
                value = inner[place[-1]]
                inner[place[-1]] = changed(value) if edit == "changed" else [value]
            (path / "manifest.json").write_text(json.dumps(content))
            with pytest.raises(DamagedIndexError, match=r"manifest\.json") as caught:
                Index.open(path, verify=False)
            assert caught.value.exit_code == 3
        if number % 12 == 0:  # every command opens an index in this way
            kit.refused(traced(path), "manifest.json", code=3)


def test_a_dropped_file_of_a_supplement_is_refused(index: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(index, tmp_path / "index"))
    content = json.loads((path / "manifest.json").read_text())
    content["supplements"]["calibration-layerwise"]["files"].pop()
    (path / "manifest.json").write_text(json.dumps(content))
    kit.refused(traced(path), "manifest.json", code=3)


def test_edits_with_a_digest_that_fits_do_not_join_what_does_not(
    index: Path, tmp_path: Path
) -> None:
    """Settings, fingerprints and rows are bound into every supplement."""
    path = Path(shutil.copytree(index, tmp_path / "index"))
    original = json.loads((path / "manifest.json").read_text())
    del original["digest"]
    edits = {
        "seed": lambda c: c["settings"].update(seed=1),
        "weights": lambda c: c["fingerprints"].update(weights="0"),
        "corpus": lambda c: c["fingerprints"].update(corpus="0"),
        "rows": lambda c: c["shards"][0]["records"].update(sha256="0" * 64),
        "whitening": lambda c: c["supplements"]["whitening"]["settings"].update(damping=0.2),
        "groups": lambda c: c["supplements"]["near-copies"]["settings"].update(alike=0.4),
    }
    for name, edit in edits.items():
        content = copy.deepcopy(original)
        edit(content)
        content["digest"] = kit.digest_of(content)
        (path / "manifest.json").write_text(json.dumps(content))
        error = kit.refused(traced(path), "manifest.json is damaged", code=3)
        assert "was made from another" in error, name


def test_a_damaged_supplement_is_made_again_by_the_command_that_is_named(
    index: Path, tmp_path: Path, right: dict[str, Any]
) -> None:
    path = Path(shutil.copytree(index, tmp_path / "index"))
    flipped(path / "supplements/calibration-layerwise/00000.safetensors", 8000)
    outcome = traced(path)
    kit.refused(outcome, "calibration-layerwise", code=3)
    assert "--calibrate" in outcome.err
    mended = cli("index", "-o", path, "--calibrate", "512")
    assert mended.code == 0, mended.err
    assert "calibration-layerwise was damaged" in mended.err
    ours = report(traced(path))
    for each in (ours, right):
        each.pop("index", None)
    assert json.dumps(ours).replace(str(path), "") == json.dumps(right).replace(str(index), "")
