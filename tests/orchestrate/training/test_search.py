"""A search reads the validation part alone, its trials are runs, the best is trained again, and a kill costs one trial."""

from pathlib import Path

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import mlops_assets as ml
from mlops_assets.compute.training.split import sort_canonically, split_rows
from mlops_assets.errors import DefinitionError
from mlops_assets.serving.formats.packaging import unpack
from mlops_assets.stores.platform.stores import open_stores
from tests.commands import run_mlops
from tests.conftest import ROOT, clean_environment, metadata
from tests.projects import searching

SPACE = {"C": ml.types.SearchRange(0.001, 10.0, log=True)}
ASSETS = ("dataset/people", "training_set/examples", "model/buys")


def trials_of(platform: ml.Platform) -> list:
    found = open_stores(platform).tracker.search("kind = 'trial'", order_by="started_at", limit=1000)
    return sorted(found, key=lambda run: int(run.tags["trial"]))


def fits(calls: Path) -> list[float]:
    return [float(line) for line in calls.read_text().splitlines()]


def test_the_best_of_the_validation_part_is_trained_and_nothing_is_searched_twice(run, platform, tmp_path) -> None:
    search, calls = ml.Search(SPACE, trials=6, metric="neg_log_loss", seed=1), tmp_path / "calls"
    runner = run(ml.build_definitions(searching.nouns(search, calls), platform=platform))
    shown = metadata(runner(*ASSETS), "model/buys")
    trials, at = trials_of(platform), open_stores(platform)
    training = at.tracker.search("kind = 'training'")[0]
    assert [trial.status for trial in trials] == ["finished"] * 6
    assert {trial.parent_id for trial in trials} == {training.id}
    rows = sort_canonically(at.lake.read("training_set/examples"), None)
    parts = split_rows(rows, tuple(f"x{i}" for i in range(6)), "bought")
    for trial in trials:
        fitted = LogisticRegression(C=trial.params["C"]).fit(parts["train"].X, parts["train"].y)
        loss = log_loss(parts["validation"].y, fitted.predict_proba(parts["validation"].X))
        assert trial.metrics["validation/neg_log_loss"] == pytest.approx(-loss, abs=1e-12)
    best = max(trials, key=lambda trial: trial.metrics["validation/neg_log_loss"])
    assert training.params["C"] == best.params["C"]
    assert best.params["C"] == unpack(at.artifacts, training.record["artifact"]).estimator.C
    assert fits(calls) == [*(trial.params["C"] for trial in trials), best.params["C"]]
    assert shown["trials"].records[0].data["trial"] in (best.tags["trial"], int(best.tags["trial"]))
    assert runner("model/buys").success
    assert len(fits(calls)) == 7, "the same facts: neither searched nor trained again"


def test_a_killed_search_continues_with_the_trial_that_it_lost(tmp_path) -> None:
    found = {}
    for name, deaths in (("whole", [None]), ("killed", ["4", "7", None])):
        home, calls = tmp_path / name, tmp_path / f"{name}.calls"
        for death in deaths:
            more = {"SEARCH_CALLS": str(calls), "PYTHONWARNINGS": "ignore", **({"DIE_AT": death} if death else {})}
            line = ["run", "-f", "tests/projects/searching.py", "--select", '+key:"model/buys_candidate"']
            done = run_mlops(line, cwd=ROOT, env=clean_environment(home, **more))
            assert (done.returncode == -9) is (death is not None), done.stdout + done.stderr
        finished = [trial for trial in trials_of(ml.Platform.at(home)) if trial.status == "finished"]
        found[name] = [(trial.params["C"], trial.metrics["validation/neg_log_loss"]) for trial in finished]
        assert len(fits(calls)) == 8 + 1 + len(deaths) - 1, "each kill costs one trial"
    assert found["killed"] == found["whole"]


def test_trials_that_fall_behind_or_fail_end_early_and_the_search_continues(run, platform, tmp_path) -> None:
    space = {"C": ml.types.SearchRange(1.0, 12.0, step=1.0), "penalty": (0,)}
    search = ml.Search(space, trials=12, metric="neg_log_loss", sampler="grid", prune=True)
    run(ml.build_definitions(searching.nouns(search, tmp_path / "calls"), platform=platform))(*ASSETS)
    assert [trial.status for trial in trials_of(platform)] == ["finished"] * 5 + ["pruned"] * 7
    other = ml.Platform.at(tmp_path / "other")
    search = ml.Search({"penalty": (9, 0)}, trials=2, sampler="grid")
    run(ml.build_definitions(searching.nouns(search, tmp_path / "more"), platform=other))(*ASSETS)
    trials = trials_of(other)
    assert [(trial.status, trial.error) for trial in trials] == [("failed", "ValueError: no such penalty"), ("finished", "")]


def test_a_search_without_any_value_fails_and_says_where_to_look(run, platform, tmp_path) -> None:
    search = ml.Search({"penalty": (9,)}, trials=1, sampler="grid")
    runner = run(ml.build_definitions(searching.nouns(search, tmp_path / "calls"), platform=platform))
    assert "none of the 1 trials of 'model/buys' reached a value" in runner.error(*ASSETS)


@pytest.mark.parametrize(
    ("search", "why"),
    [
        (
            ml.Search({"c": (1.0,)}),
            "searches 'c', which is not a field of its configuration\nHint: (did you mean 'C'\\? )?it has C, penalty",
        ),
        (
            ml.Search({"C": (1.0,)}, metric="accuracy"),
            "searches by 'accuracy', which is not a metric of the model\nHint: name one of its metrics: roc_auc, neg_log_loss",
        ),
    ],
)
def test_a_search_of_what_the_model_has_not_is_refused(search, why, tmp_path) -> None:
    with pytest.raises(DefinitionError, match=why):
        searching.nouns(search, tmp_path)
