"""`haiftrace show`: what an index holds, as text and as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from haiftrace.methods import METHODS
from haiftrace.store import Index
from tests import kit
from tests.commands.cli_kit import PRIVATE
from tests.kit import cli, refused
from tests.tiny_models import SENTENCES


def test_json_says_what_the_index_says() -> None:
    path = kit.index_path()
    content = cli("show", path, "--json").report
    with Index.open(path) as index:
        totals = index.manifest.totals
        files = [*index.manifest.files(), *index.manifest.supplement_files()]
        assert content["model"]["fingerprint"] == index.fingerprints["weights"]
    assert content["counts"]["records"] == totals.records == len(SENTENCES)
    assert content["counts"]["label_tokens"] == totals.label_tokens
    on_disk = sum((path / file.file).stat().st_size for file in files)
    assert content["bytes"] == sum(content["bytes_by_part"].values()) == on_disk
    assert content["bytes_per_token"] == round(on_disk / totals.label_tokens, 1)
    assert content["seconds"] > 0
    assert content["resumed"] is False
    assert [state["name"] for state in content["methods"]] == list(METHODS)
    assert all(state["calibration"] is None for state in content["methods"])
    assert content["corpus"]["paths"] == [str(kit.corpus_path())]


def test_methods_and_calibration_are_those_of_the_index(tmp_path: Path) -> None:
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(dtype="float32"), path)
    assert cli("index", "-o", path, "--method", "haif", "--calibrate", 150, "-q").code == 0
    states = {state["name"]: state for state in cli("show", path, "--json").report["methods"]}
    assert states["haif"]["kept"] == ["haif-norms"]
    assert states["haif"]["missing"] == []
    assert states["haif"]["calibration"]["controls"] > 0
    assert states["ek-fac"]["missing"] == ["ek-fac"]
    assert states["tracincp"]["needs"] == "--checkpoints"
    assert not states["bm25"]["verdicts"]
    shown = cli("show", path).out
    assert "haif: ready, haif-norms kept, calibrated" in shown
    assert f"haif: {states['haif']['calibration']['controls']} controls" in shown


def test_what_is_shown_gives_nothing_away(tmp_path: Path) -> None:
    model = kit.copied_checkpoint(tmp_path / "ckpt")
    corpus = kit.write_corpus(tmp_path / f"of {PRIVATE}@example.org.jsonl")
    made = ("index", "--model", model, "--corpus", corpus, "-o", tmp_path / "index")
    assert cli(*made, *kit.SMALL_OPTIONS, "--calibrate", 0, "-q").code == 0
    shutil.rmtree(model)
    for options in ((), ("--json",)):
        outcome = cli("show", tmp_path / "index", *options)
        assert outcome.code == 0
        assert PRIVATE not in outcome.out
        assert all(sentence not in outcome.out for sentence in SENTENCES)
    assert "no longer there" in cli("show", tmp_path / "index").out
    assert json.loads(outcome.out)["model"]["there"] is False


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    refused(cli("show", tmp_path / "none"), "no index at")
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(), path)
    manifest = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(manifest.replace('"seed": 0', '"seed": 1', 1))
    refused(cli("show", path), "damaged", code=3)
