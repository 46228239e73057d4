"""A whole project: what is made, what is made again, and what a failure leaves behind."""

import shutil
from datetime import timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform
from tests.conftest import Runner, metadata, open_dagster, records
from tests.projects import visits as project


@pytest.fixture
def world() -> project.World:
    return project.World()


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> tuple[Path, int]:
    """A project whose month is made, trained and predicted, and how often it was trained."""
    world = project.World()
    folder = tmp_path_factory.mktemp("template")
    with open_dagster(folder / "dagster") as instance:
        runner = Runner(project.build(Platform.at(folder / "home"), world), instance)
        runner(*project.DATA, *project.TRAIN, partitions=project.MONTH)
        runner(project.PREDICTIONS, partitions=project.MONTH)
    return folder, world.trained


@pytest.fixture
def made(template, tmp_path, platform, world):
    """A copy of the template, made with a world of its own."""
    folder, world.trained = template
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with open_dagster(tmp_path / "dagster") as instance:
        yield Runner(project.build(platform, world), instance)


def state(platform) -> dict[str, dict[str, str]]:
    return {table: records(platform, table) for table in (*project.DATA, "training_set/examples", project.PREDICTIONS)}


def test_from_raw_rows_to_predictions(made, platform, world) -> None:
    store = open_stores(platform)
    assert store.registry.champion("buys").version == 1
    predictions = store.lake.read(project.PREDICTIONS)
    assert predictions.height == 24 * project.DAYS
    assert set(predictions.columns) >= {"id", "at", "x", "share_3d", "prediction", "probability", "model_version", "run_id", "input_hash"}
    assert "bought" not in predictions.columns
    assert world.trained == 1


def test_an_unchanged_rerun_changes_and_trains_nothing(made, platform, world) -> None:
    before, versions = state(platform), open_stores(platform).registry.versions()
    snapshot = open_stores(platform).lake.snapshot()
    result = made(*project.DATA, *project.TRAIN, partitions=project.MONTH)
    made(project.PREDICTIONS, partitions=project.MONTH)
    assert state(platform) == before
    assert open_stores(platform).lake.snapshot() == snapshot
    assert open_stores(platform).registry.versions() == versions
    assert world.trained == 1
    assert metadata(result, "model/buys")["trained"].startswith("no")


def test_one_changed_row_changes_what_is_made_from_it_and_nothing_else(made, platform, world) -> None:
    before, first = state(platform), open_stores(platform).registry.candidate("buys")[0]
    world.changed = frozenset({"9-3"})
    made(*project.DATA, *project.TRAIN, partitions=project.MONTH)
    after = state(platform)
    differs = {table: sorted(key for key in after[table] if after[table][key] != before[table].get(key)) for table in after}
    assert differs["dataset/visits"] == ["2024-01-10"]
    assert differs["dataset/shares"] == ["2024-01-11", "2024-01-12", "2024-01-13"] == differs["features/shop_shares"]
    assert differs["training_set/examples"] == [""]
    assert differs[project.PREDICTIONS] == []
    assert open_stores(platform).registry.candidate("buys")[0].digest != first.digest
    assert world.trained == 2


def test_other_parameters_or_code_train_again_and_the_same_ones_do_not(made, platform, world) -> None:
    made("model/buys", config={"model__buys_candidate": {"C": 0.5}})
    assert world.trained == 2
    made("model/buys", config={"model__buys_candidate": {"C": 0.5}})
    made("model/buys")
    assert world.trained == 2
    runs = open_stores(platform).tracker.list("buys")
    assert [(r.record["config"], r.params["C"], r.params["logisticregression__C"]) for r in runs] == [({"C": c}, c, c) for c in (0.5, 1.0)]
    assert runs[0].record["training_set"] == records(platform, "training_set/examples")[""]


def test_a_failed_gate_stops_the_run_and_leaves_champion_and_predictions(made, platform, world) -> None:
    before, serving = state(platform), open_stores(platform).registry.champion("buys")
    world.changed, world.broken = frozenset({"9-3"}), {"gate"}
    made("dataset/visits", partitions="2024-01-10")
    result = made(*project.TRAIN, ok=False)
    made_keys = {e.asset_key for e in result.get_asset_materialization_events()}
    assert made_keys
    assert asset_key("version/buys") not in made_keys
    assert open_stores(platform).registry.champion("buys") == serving
    assert state(platform)[project.PREDICTIONS] == before[project.PREDICTIONS]
    failed = [e for e in result.get_asset_check_evaluations() if not e.passed]
    assert [e.check_name for e in failed] == ["has_enough_rows"]


def test_a_version_alone_after_a_failed_gate_is_refused_and_evidence_cannot_stand_in(made, platform, world) -> None:
    registry = open_stores(platform).registry
    world.broken = {"gate"}
    made("model/buys", config={"model__buys_candidate": {"C": 0.01}}, ok=False)
    failed = registry.candidate("buys")[0].digest
    assert "gate 'has_enough_rows' failed" in made.error("version/buys")
    world.broken = set()
    made("model/buys", config={"model__buys_candidate": {"C": 0.02}})
    passed = registry.candidate("buys")[0].digest
    made("version/buys", "champion/buys")
    assert registry.champion("buys").digest == passed != failed
    assert {e["digest"] for event in registry.history("buys")[-1:] for e in event.evidence} == {passed}
    world.broken = {"gate"}
    made("model/buys", config={"model__buys_candidate": {"C": 0.01}}, ok=False)
    assert registry.candidate("buys")[0].digest == failed
    assert "gate 'has_enough_rows' failed" in made.error("version/buys")
    assert failed not in {v.digest for v in registry.versions("buys")}


def test_a_gate_that_was_changed_asks_for_new_evidence(made, platform, world) -> None:
    made("model/buys", config={"model__buys_candidate": {"C": 0.1}})
    world.least_auc = 0.56
    stricter = Runner(project.build(platform, world), made.instance)
    assert "gate 'roc_auc_at_least', or what it reads, has changed since" in stricter.error("version/buys")
    stricter("model/buys", "version/buys", config={"model__buys_candidate": {"C": 0.1}})


def test_without_its_condition_a_gate_would_let_the_worse_pass(run, platform, world) -> None:
    world.least_auc = 0.99
    runner = run(project.build(platform, world))
    runner(*project.DATA, "training_set/examples", partitions=project.MONTH)
    runner("model/buys", ok=False)
    candidate, evidence = open_stores(platform).registry.candidate("buys")
    found = {e.gate: e for e in evidence}["roc_auc_at_least"]
    assert (found.passed, found.threshold) == (False, 0.99)
    assert found.value < 0.99
    assert "gate 'roc_auc_at_least' failed" in runner.error("version/buys")
    assert candidate.digest == found.digest


def test_predictions_without_a_champion_say_what_to_do(run, platform, world) -> None:
    runner = run(project.build(platform, world))
    runner("dataset/visits", partitions="2024-01-01")
    assert "has no champion of 'buys'" in runner.error(project.PREDICTIONS, partitions="2024-01-01")


def test_a_broken_source_leaves_the_last_good_state(made, platform, world) -> None:
    before = state(platform)
    world.broken = {"visits"}
    assert "the source is down" in made.error("dataset/visits", partitions=project.MONTH)
    world.broken, world.last_day = set(), 29
    message = made.error("dataset/visits", partitions="2024-01-29...2024-01-30")
    assert "'dataset/visits' partitions '2024-01-29' to '2024-01-30': partition '2024-01-30' has no row" in message
    assert "Nothing was committed" in message
    assert "Hint:" in message
    assert state(platform) == before
    made(project.PREDICTIONS, partitions="2024-01-30")


def test_training_as_of_a_time_uses_what_was_known_then(made, platform) -> None:
    made("training_set/examples", config={"training_set__examples": {"as_of": "2024-01-20T00:00"}})
    rows = open_stores(platform).lake.read("training_set/examples")
    assert rows["at"].max() < project.BASE + timedelta(days=19)
    assert rows["seen"].max() <= project.BASE + timedelta(days=19)
    assert "as_of 'soon' is not a time" in made.error("training_set/examples", config={"training_set__examples": {"as_of": "soon"}})


def test_a_smuggled_column_raises_the_leakage_warning(run, platform, world) -> None:
    import mlops_assets as ml

    visits = project.nouns(world)[0]

    @ml.training_set(columns=["x", "odd"], label="bought", label_known_at="seen", event_timestamp="at", split=ml.GroupSplit("id"))
    def leaking(visits: pl.LazyFrame) -> pl.LazyFrame:
        return visits.with_columns(odd=pl.col("bought") * 2 - 1)

    runner = run(ml.build_definitions([visits, leaking], platform=platform))
    result = runner("dataset/visits", "training_set/leaking", partitions="2024-01-01...2024-01-05")
    check = next(e for e in result.get_asset_check_evaluations() if e.check_name == "no_leakage")
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert "'odd' in X repeats" in check.description


def test_metadata_shows_rows_schema_nulls_preview_and_plots(made) -> None:
    result = made("dataset/shares", "model/buys", partitions="2024-01-05")
    table, model = metadata(result, "dataset/shares"), metadata(result, "model/buys")
    assert table["dagster/row_count"] == 2
    assert {c.name for c in table["dagster/column_schema"].columns} == {"shop", "day", "share_3d"}
    assert "| shop |" in table["preview"]
    assert {"lake snapshot", "content hash", "null shares"} <= set(table)
    assert all(model[name].startswith("![") for name in ("ROC", "calibration", "importance"))
    assert {"metric", "holdout", "baseline", "champion", "Δ", "95 % CI of Δ"} == set(
        result.asset_materializations_for_node("model__buys_candidate")[0].metadata["metrics"].records[0].data
    )


def test_every_step_of_one_run_shows_its_checks(made) -> None:
    result = made(*project.DATA, *project.TRAIN, partitions=project.MONTH)
    found = {(e.asset_key.to_user_string(), e.check_name) for e in result.get_asset_check_evaluations()}
    assert {
        ("dataset/visits", "key"),
        ("dataset/visits", "event_time"),
        ("dataset/visits", "not_empty"),
        ("model/buys_candidate", "roc_auc_at_least"),
        ("model/buys_candidate", "has_enough_rows"),
        ("training_set/examples", "no_leakage"),
    } <= found
