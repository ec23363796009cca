"""What an index keeps for its methods: the same scores from it, and many queries at once."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haiftrace.errors import IndexStoreError, UsageError
from haiftrace.index.precompute import prepare
from haiftrace.methods import METHODS, Adjustment, GradientMethod
from haiftrace.methods.settings import DampingSetting, FactorSettings, MethodSettings
from haiftrace.progress import Silent
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.store import Index
from haiftrace.tracing.settings import Leak, TraceSettings
from haiftrace.tracing.tracer import Tracer
from tests import kit
from tests.kit import ANSWER, PROMPT
from tests.tracing.methods_kit import EMPIRICAL, Notes, reopened, run, scores, trace


def own_index(path: Path, name: str = "gpt2") -> Tracer:
    """An index that a test may add to."""
    shutil.copytree(kit.index_path(name), path)
    return reopened(path, name)


def keep(path: Path, methods: str, **told: Any) -> None:
    """`haiftrace index --methods` on a complete index."""
    model = kit.checkpoint()
    with nullcontext() if "checkpoints" in told else kit.precisely():
        prepare(path, model, methods, MethodSettings(**told), 512 << 20, Silent())


# What the index keeps.


def kept(path: Path) -> set[str]:
    """The index's supplements but that of its own rows."""
    return set(json.loads((path / "manifest.json").read_text())["supplements"]) - {"whitening"}


@pytest.mark.parametrize(
    ("methods", "told", "names"),
    [
        ("ek-fac", {}, {"ek-fac"}),
        ("relatif", {}, {"ek-fac", "relatif-norms"}),
        ("ahif,relatif", {}, {"ek-fac", "relatif-norms", "ahif-norms"}),
        ("attif", {}, {"attif-norms"}),
        ("haif", {"adjustment": Adjustment(0.5)}, {"haif-norms", "adjusted-norms"}),
        ("haif-t,haif", {"adjustment": Adjustment(0.0)}, {"haif-norms", "adjusted-norms"}),
        ("haif,bm25,gradient-cosine", {}, {"haif-norms"}),
        ("gradient-product", {}, {"haif-norms"}),
        ("bm25,tracincp", {}, set()),
    ],
)
def test_what_the_index_keeps_gives_the_same_scores(methods, told, names, tmp_path, monkeypatch):
    told = {"factors": EMPIRICAL, "checkpoints": run("gpt2"), **told}
    over = own_index(tmp_path / "i")
    before = trace(over, methods, progress := Notes(), **told)
    # One backward pass a record is not worth a word.
    wanted = bool(names) and methods != "gradient-product"
    assert any("To keep" in line for line in progress.said) == wanted
    keep(tmp_path / "i", methods, **told)
    assert kept(tmp_path / "i") == names
    # Nothing of it is computed again.
    monkeypatch.setattr("haiftrace.scoring.gradient.stored_factors.computed_factors", None)
    monkeypatch.setattr("haiftrace.engine.GradientEngine.token_gradients", None)
    if methods != "ek-fac":  # its cosine takes the norm of a record's gradient, a backward pass
        monkeypatch.setattr("haiftrace.engine.GradientEngine.record_gradients", None)
    after = trace(reopened(tmp_path / "i"), methods, progress := Notes(), **told)
    assert not any("To keep" in line for line in progress.said)
    for method in before:
        kit.close(scores(after[method]), scores(before[method]), 1e-6)
        assert [r.id for r in after[method].records] == [r.id for r in before[method].records]


def test_what_is_kept_is_not_computed_twice_and_goes_on_after_an_interrupt(tmp_path, monkeypatch):
    path = tmp_path / "i"
    own_index(path).index.close()
    keep(path, "ahif", factors=EMPIRICAL)
    whole = {p.name: p.read_bytes() for p in (path / "supplements").rglob("*") if p.is_file()}
    monkeypatch.setattr("haiftrace.scoring.gradient.stored_factors.computed_factors", None)
    with monkeypatch.context() as patch:
        patch.setattr("haiftrace.engine.GradientEngine.token_gradients", None)
        keep(path, "ahif", factors=EMPIRICAL)
    # As an interrupt between the files and the end would leave it.
    unfinished = {"files": [], "complete": False}
    kit.edit_manifest(path, lambda content: content["supplements"]["ahif-norms"].update(unfinished))
    keep(path, "ahif", factors=EMPIRICAL)
    again = {p.name: p.read_bytes() for p in (path / "supplements").rglob("*") if p.is_file()}
    assert again == whole


def test_other_settings_than_the_kept_ones_are_computed_for_the_run(tmp_path):
    own_index(tmp_path / "i").index.close()
    keep(tmp_path / "i", "relatif", factors=EMPIRICAL)
    over, other = reopened(tmp_path / "i"), FactorSettings("empirical", seed=1)
    damped = FactorSettings("empirical", damping=DampingSetting.parse("1x"))
    for told, factors_too in ((other, True), (damped, False)):
        trace(over, "relatif", notes := Notes(), factors=told)
        said = " ".join(notes.said)
        assert ("no Kronecker factors" in said) == factors_too
        assert "Norms that these methods divide by" in said


def test_a_quantile_takes_the_norms_of_the_whole_corpus(tmp_path):
    path, told = tmp_path / "i", {"adjustment": Adjustment(quantile=0.5)}
    over = own_index(path)
    with pytest.raises(UsageError, match="does not hold these") as caught:
        trace(over, "haif", **told)
    assert f"haiftrace index -o {path} --method haif" in caught.value.hint
    keep(path, "haif", **told)
    assert kept(path) == {"haif-norms", "adjusted-norms"}
    gradients = kit.oracle().gradients[:-1]
    norms = np.concatenate([each.norm(dim=1).numpy() for each in gradients])
    over = reopened(path)
    rule = over.session.model.rule([METHODS["haif"]], MethodSettings(**told))
    kit.close(rule.at_quantile, np.quantile(norms, 0.5))
    assert scores(trace(over, "haif", **told)["haif"]).any()


def test_kept_norms_are_those_of_the_oracle(tmp_path):
    own_index(tmp_path / "i").index.close()
    keep(tmp_path / "i", "haif")
    with Index.open(tmp_path / "i") as index:
        for row in range(len(index)):
            gradients = kit.oracle().gradients[row]
            values = index.supplement_values("haif-norms", row)
            norms = gradients.norm(dim=1)
            kit.close(values["token_norms"], norms)
            kit.close(values["mean_norm"], gradients.mean(0).norm())
            kit.close(values["adjusted_norm"], (gradients / norms[:, None]).sum(0).norm())


def test_factors_of_a_sample_of_the_records():
    few, again, many = (
        scores(trace(kit.tracer(), "ek-fac", factors=FactorSettings("empirical", n))["ek-fac"])
        for n in (4, 4, 100)
    )
    assert np.array_equal(few, again)
    assert not np.allclose(few, many)
    kit.close(many, scores(trace(kit.tracer(), "ek-fac", factors=EMPIRICAL)["ek-fac"]), 1e-9)


def test_factors_of_another_checkpoint_are_refused(tmp_path):
    own_index(tmp_path / "i").index.close()
    keep(tmp_path / "i", "ek-fac", factors=EMPIRICAL)
    kit.edit_manifest(
        tmp_path / "i",
        lambda content: content["supplements"]["ek-fac"]["settings"].update(weights="another"),
    )
    with pytest.raises(IndexStoreError, match="another checkpoint") as caught:
        trace(reopened(tmp_path / "i"), "ek-fac", factors=EMPIRICAL)
    assert caught.value.exit_code == 2


# Many queries at once.


def test_many_queries_at_once_get_the_scores_of_each_alone(tmp_path):
    """Three queries by weighted record gradients against one trace each."""
    own_index(tmp_path / "i").index.close()
    told = {"factors": EMPIRICAL, "checkpoints": run("gpt2")}
    keep(tmp_path / "i", "attif", **told)
    over = reopened(tmp_path / "i")
    leaks = [Leak(PROMPT, ANSWER), Leak(PROMPT, ANSWER, "0142"), Leak("Call Oswin", "at once")]
    names = [n for n, m in METHODS.items() if isinstance(m, GradientMethod) and n != "lissa"]
    names += ["tracincp", "attif"]
    settings = MethodSettings(**told)
    queries = [over.query(leak, PromptSettings())[1] for leak in leaks]
    matrices = over.session.score_matrix(queries, names, settings, Silent())
    for number, leak in enumerate(leaks):
        asked = TraceSettings(",".join(names), top=100, methods=settings)
        for finding in over.trace(leak, asked, Silent()):
            kit.close(matrices[finding.method][number], scores(finding))


def test_without_kept_norms_attif_cannot_score_many(tmp_path):
    over = own_index(tmp_path / "i")
    query = over.query(Leak(PROMPT, ANSWER), PromptSettings())[1]
    settings = MethodSettings(checkpoints=run("gpt2"))
    with pytest.raises(KeyError, match="attif"):
        over.session.score_matrix([query], ["attif"], settings, Silent())
