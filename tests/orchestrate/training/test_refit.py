"""A model that passed its gates is refitted on every row: the refit serves, the first fit is what was judged."""

import os
import signal
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import mean_absolute_error

import mlops_assets as ml
from mlops_assets.cli.project import LoadedProject
from mlops_assets.cli.registry import versions
from mlops_assets.compute.training.fitted_rows import FittedRows
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.ci.pull_request import build_ci_report
from mlops_assets.orchestrate.compiler.build import CompiledProject
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.reproduction.reproduction import reproduce
from mlops_assets.orchestrate.training import refit
from mlops_assets.orchestrate.training.evaluation import find_compared_fit
from mlops_assets.orchestrate.training.refit import find_refit
from mlops_assets.orchestrate.upkeep import doctor_stores
from mlops_assets.orchestrate.versions.card import MARKDOWN, ensure_card
from mlops_assets.serving.formats.integrity import find_damage
from mlops_assets.serving.formats.judged_fit import read_judged_fit
from mlops_assets.serving.formats.packaging import read_manifest, unpack
from mlops_assets.stores.platform.stores import open_stores
from tests.commands import run_program
from tests.conftest import ROOT, Runner, clean_environment, metadata
from tests.memory_instance import open_memory_instance
from tests.projects import refitted as project

STEPS = ("training_set/examples", "model/level", "version/level", "champion/level")


class Strength(dg.Config):
    alpha: float = 1.0


def splits(at, snapshot: int) -> dict[str, pl.DataFrame]:
    rows = at.lake.read("training_set/examples", snapshot=snapshot).sort("at")
    return {part: rows.filter(pl.col("split") == part) for part in ("train", "validation", "holdout")} | {"all": rows}


def mae(model: LinearRegression, rows: pl.DataFrame) -> float:
    return mean_absolute_error(rows["y"], model.predict(rows.select("x")))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two trainings, ten days apart; both passed."""
    platform = ml.Platform.at(tmp_path_factory.mktemp("refit") / "home")
    definitions = ml.build_definitions(project.NOUNS, platform=platform)
    loaded = LoadedProject(Path("refitted.py"), definitions, (CompiledProject(Project.from_items(project.NOUNS), platform),))
    with open_memory_instance() as instance:
        runner = Runner(definitions, instance)
        runner("dataset/events", partitions=f"{project.day(0)}...{project.day(19)}")
        runner(*STEPS)
        runner("dataset/events", partitions=f"{project.day(20)}...{project.day(29)}")
        second = runner(*STEPS)
        yield loaded, runner, second


def test_the_fit_on_all_rows_serves_and_the_fit_on_train_was_judged(world) -> None:
    at = world[0].stores
    version = at.registry.champion("level")
    judged, rows = read_judged_fit(at.artifacts, version.artifact, version.digest), splits(at, version.snapshot)
    assert (version.version, judged.refitted) == (2, True)
    served, first = (unpack(at.artifacts, artifact).estimator for artifact in (version.artifact, judged.artifact))
    for estimator, part in ((served, "all"), (first, "train")):
        expected = LinearRegression().fit(rows[part].select("x"), rows[part]["y"])
        assert estimator.coef_ == pytest.approx(expected.coef_, abs=1e-12)
    run = at.tracker.get(version.run_id)
    assert run.metrics["neg_mean_absolute_error"] == pytest.approx(-mae(first, rows["holdout"]))
    assert mae(served, rows["holdout"]) < mae(first, rows["holdout"]), "the refit has seen the holdout: its figure there is never shown"
    second = find_refit(at, version.run_id, version.artifact)
    assert (second.kind, second.parent_id, second.status, second.params["power"]) == ("refit", run.id, "finished", 1)


def test_every_row_of_the_training_set_counts_as_fitted(world) -> None:
    at = world[0].stores
    version = at.registry.champion("level")
    rows = splits(at, version.snapshot)["all"]
    fitted = FittedRows.from_manifest(read_manifest(at.artifacts, version.artifact))
    assert (fitted.parts, fitted.rows) == (("train", "validation", "holdout"), rows.height)
    assert (fitted.first, fitted.last) == (rows["at"].min(), rows["at"].max())


def test_a_refitted_champion_is_compared_by_the_fit_that_serves_on_rows_that_it_has_not_seen(world) -> None:
    at, result = world[0].stores, world[2]
    first, second = at.registry.versions("level")
    holdout = splits(at, second.snapshot)["holdout"]
    theirs = unpack(at.artifacts, first.artifact).estimator
    shown = next(r.data for r in metadata(result, "model/level")["metrics"].records)
    assert shown["champion"] == pytest.approx(-mae(theirs, holdout))
    gate = next(e for e in at.registry.evidence("level", second.digest) if e.relative)
    assert gate.champion == first.digest
    assert "judged fit" not in gate.reason


def test_a_refitted_champion_is_compared_by_its_judged_fit_on_rows_that_it_was_fitted_on(world) -> None:
    at = world[0].stores
    first, _ = at.registry.versions("level")
    seen = splits(at, first.snapshot)["holdout"]
    holdout = ml.Split(seen.select("x"), seen["y"].to_numpy(), seen)
    assert find_compared_fit(at, first, holdout, "at").artifact == read_judged_fit(at.artifacts, first.artifact, first.digest).artifact
    assert find_compared_fit(at, first, holdout, None).refitted, "without event times no one knows what it has seen"


def test_the_same_training_again_is_the_same_version_and_is_the_champion(world) -> None:
    loaded, runner, _ = world
    at, before = loaded.stores, len(loaded.stores.tracker.list())
    runner(*STEPS)
    assert [v.version for v in at.registry.versions("level")] == [1, 2]
    assert len(at.tracker.list()) == before, "neither fit was made again"
    evidence = at.registry.evidence("level", at.registry.champion("level").digest)
    assert next(e.reason for e in evidence if e.relative) == "this is the champion, version 2"


def test_card_page_metadata_and_report_name_both_fits(world) -> None:
    loaded, _, result = world
    at, model = loaded.stores, project.level
    version, rows = at.registry.champion("level"), splits(loaded.stores, at_snapshot(loaded))
    run = find_refit(at, version.run_id)
    shown = metadata(result, "model/level")
    assert shown["refit"] == f"refitted on {rows['all'].height:,} rows after the gates"
    assert (shown["refit run"], shown["candidate"]) == (run.id, version.digest)
    judged = read_judged_fit(at.artifacts, version.artifact, version.digest)
    first = unpack(at.artifacts, judged.artifact).estimator
    card = ensure_card(loaded.parts[0].project, at, model, version)[MARKDOWN]
    assert f"it was refitted on {rows['all'].height:,} rows of train, validation and holdout, from 2024-01-01" in card
    assert f"| −{mae(first, rows['holdout']):.4g} |" in card.split("## Metrics")[1].split("## ")[0]
    assert run.id in card
    assert judged.digest in card
    assert metadata(result, "version/level")["judged fit"] == judged.digest
    page = versions.describe_version(loaded, "level@2")
    assert page["serving fit (refit after the gates)"]["run"] == run.id
    assert page["judged fit (source of metrics and gate results)"]["digest"] == judged.digest
    assert ("judged fit", judged.artifact) in [(f["file"], f["sha256"]) for f in page["files"]]
    report = build_ci_report(at, model)
    assert report.compared == "version 2, champion of dev, by its judged fit"
    assert report.metrics[0].candidate == pytest.approx(-mae(first, rows["holdout"]))
    assert report.cost["refit, on all rows"].endswith(f"{rows['all'].height:,} rows")


def at_snapshot(loaded) -> int:
    return loaded.stores.registry.champion("level").snapshot


def test_both_fits_are_reproduced(world) -> None:
    at = world[0].stores
    version = at.registry.champion("level")
    again = reproduce(at, version, None)
    assert (again.verdict, again.field) == ("IDENTICAL", "")


def test_a_damaged_judged_fit_is_damage_of_the_version(world) -> None:
    at = world[0].stores
    version = at.registry.versions("level")[0]
    judged = read_judged_fit(at.artifacts, version.artifact, version.digest)
    estimator = read_manifest(at.artifacts, judged.artifact)["estimator"]
    path = Path(at.artifacts.url(estimator).removeprefix("file://"))
    data = path.read_bytes()
    assert find_damage(at.artifacts, version.artifact) == ""
    path.chmod(0o644)
    path.write_bytes(b"x")
    try:
        assert find_damage(at.artifacts, version.artifact).startswith("judged fit: estimator: ")
        path.unlink()
        found = [finding.text for finding in doctor_stores.check_versions(at)]
        assert len(found) == 1
        assert found[0].startswith(f"level@1: its judged fit's estimator {estimator[:12]} is missing")
    finally:
        path.write_bytes(data)


@ml.model(
    training_set=project.examples,
    metrics=["neg_mean_absolute_error"],
    gates=[ml.Gate("neg_mean_absolute_error", at_least=-1e-9)],
    refit="after_gates",
)
def strict(train: ml.Split) -> LinearRegression:
    """Passes no gate."""
    return LinearRegression().fit(train.X, train.y)


def test_a_candidate_that_fails_a_gate_is_not_fitted_again(world, instance) -> None:
    at = world[0].stores
    runner = Runner(ml.build_definitions([project.events, project.examples, strict], platform=at.platform), instance)
    shown = metadata(runner("model/strict", ok=False), "model/strict")
    assert shown["refit"] == "no: a gate did not pass"
    assert at.tracker.search("kind = 'refit' and experiment = 'strict'") == []
    candidate, _ = at.registry.candidate("strict")
    assert not read_judged_fit(at.artifacts, candidate.artifact, candidate.digest).refitted


@ml.model(
    training_set=project.examples,
    metrics=["neg_mean_absolute_error"],
    search=ml.Search({"alpha": ml.types.SearchRange(0.01, 100.0, log=True)}, trials=3, seed=1),
    refit="after_gates",
)
def searched(train: ml.Split, params: Strength) -> Ridge:
    """With a strength that a search chooses on the validation part."""
    return Ridge(alpha=params.alpha).fit(train.X, train.y)


def test_a_refit_keeps_the_parameters_that_a_search_has_chosen(world, instance) -> None:
    at = world[0].stores
    runner = Runner(ml.build_definitions([project.events, project.examples, searched], platform=at.platform), instance)
    runner("model/searched")
    candidate, _ = at.registry.candidate("searched")
    trials = at.tracker.search("kind = 'trial'")
    best = max(trials, key=lambda trial: trial.metrics["validation/neg_mean_absolute_error"])
    assert len(trials) == 3
    assert unpack(at.artifacts, candidate.artifact).estimator.alpha == best.params["alpha"] != 1.0


def test_the_first_windows_after_a_refit_are_its_live_evidence(platform, instance) -> None:
    batch = ml.BatchPrediction("scores", model=project.level, dataset=project.events)
    bound = ml.Performance("neg_mean_absolute_error", at_least=-9.0, min_labels=10)
    watch = ml.Monitor("watch", of=batch, expectations=(bound,), min_rows=10)
    nouns = [project.events, project.examples, project.level, batch, watch]
    runner = Runner(ml.build_definitions(nouns, platform=platform), instance)
    every = f"{project.day(16)}...{project.day(21)}"
    runner("dataset/events", partitions=f"{project.day(0)}...{project.day(19)}")
    runner(*STEPS)
    runner("dataset/events", partitions=f"{project.day(20)}...{project.day(21)}")
    runner("predictions/scores", partitions=every)
    runner("performance_report/watch", partitions=every)
    states = {r.partition: r.state for r in open_stores(platform).decisions.reports("watch")}
    assert states == {project.day(n): "in training data" if n < 20 else "good" for n in range(16, 22)}


def train_and_die(home: str) -> None:
    """Train on twenty days; the process is killed when the refit begins."""
    refit.seed_globals = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    with open_memory_instance() as instance:
        runner = Runner(ml.build_definitions(project.NOUNS, platform=ml.Platform.at(home)), instance)
        runner("dataset/events", partitions=f"{project.day(0)}...{project.day(19)}")
        runner(*STEPS)


def test_killed_between_the_two_fits_it_ends_as_undisturbed(world, tmp_path, instance) -> None:
    home = tmp_path / "home"
    code = f"from tests.orchestrate.training import test_refit; test_refit.train_and_die({str(home)!r})"
    killed = run_program(["python", "-c", code], cwd=ROOT, env=clean_environment(home))
    assert killed.returncode == -9, killed.stdout + killed.stderr
    platform = ml.Platform.at(home)
    at = open_stores(platform)
    assert [(run.kind, run.status) for run in at.tracker.list()] == [("refit", "killed"), ("training", "finished")]
    assert at.registry.candidate("level") is None
    runner = Runner(ml.build_definitions(project.NOUNS, platform=platform), instance)
    runner(*STEPS)
    (version,) = at.registry.versions("level")
    assert version.digest == world[0].stores.registry.versions("level")[0].digest
    assert sorted((run.kind, run.status) for run in at.tracker.list()) == [
        ("refit", "finished"),
        ("refit", "killed"),
        ("training", "finished"),
    ]


def test_a_refit_that_cannot_be_is_refused_when_it_is_declared() -> None:
    def fitted(train: ml.Split) -> LinearRegression:
        return LinearRegression()

    with pytest.raises(DefinitionError, match="unknown refit='after_gate'") as unknown:
        ml.model(training_set=project.examples, metrics=["r2"], refit="after_gate")(fitted)
    assert "did you mean 'after_gates'" in unknown.value.hint

    def tuned(train: ml.Split, validation: ml.Split) -> LinearRegression:
        return LinearRegression()

    with pytest.raises(DefinitionError, match="trains on the validation rows too"):
        ml.model(training_set=project.examples, metrics=["r2"], refit="after_gates")(tuned)
