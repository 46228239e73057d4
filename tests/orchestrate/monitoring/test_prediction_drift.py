"""A monitor that also compares predictions: found and named in the table, the check, the page and `mlops monitor show`."""

import json

import polars as pl
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

import mlops_assets as ml
from mlops_assets.compute.drift.prediction_drift import PREDICTION_PROFILE
from mlops_assets.orchestrate.monitoring.reports import build_page_path
from mlops_assets.serving.formats.integrity import list_parts
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata
from tests.orchestrate.monitoring.test_estimates import ROWS, TRAIN, TRAINED, nouns

WINDOWS = "2024-01-15...2024-01-22"


def trained(platform, instance, kind: type, *expectations: object, **more) -> Runner:
    """Return a runner of a project with a champion that has predicted; from 21 January on, the inputs and so the predictions differ."""
    runner = Runner(ml.build_definitions(nouns(kind, *expectations, **more), platform=platform), instance)
    runner("dataset/points", "dataset/outcomes", partitions=TRAINED)
    runner(*TRAIN)
    runner("dataset/points", "predictions/scores", partitions=WINDOWS)
    return runner


@pytest.mark.parametrize("kind", [LinearRegression, LogisticRegression])
def test_predictions_are_rows_of_the_report(platform, instance, kind: type) -> None:
    runner, at = trained(platform, instance, kind, ml.Drift(columns=["shop"], predictions=True)), open_stores(platform)
    result = runner("drift_report/watch", partitions=WINDOWS)
    table = at.lake.read("drift_report/watch").sort("window_start")
    found = table.filter(pl.col("kind") == "prediction")
    names = {LinearRegression: {"prediction"}, LogisticRegression: {"prediction", "probability of 1"}}[kind]
    assert set(found["column"]) == names
    worst = found.group_by("window_start", maintain_order=True).agg(pl.col("drifted").any())["drifted"].to_list()
    assert worst == [False] * 6 + [True] * 2
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert max(names) in check.description
    (report,) = [r for r in at.decisions.reports("watch") if r.partition == "2024-01-22"]
    assert "predictions included" in report.reason
    assert "(output)</h3>" in build_page_path(platform.home, "watch", "2024-01-22").read_text()
    assert "predictions included" in metadata(result, "drift_report/watch")["summary"]


def test_a_version_without_honest_predictions_says_that_they_are_not_compared(platform, instance) -> None:
    runner, at = trained(platform, instance, LinearRegression, ml.Drift(predictions=True)), open_stores(platform)
    manifest = read_manifest(at.artifacts, at.registry.champion("guess").artifact)
    assert json.loads(at.artifacts.get(manifest[PREDICTION_PROFILE]))["rows"] == 6 * ROWS  # the holdout
    assert PREDICTION_PROFILE in dict(list_parts(manifest))
    refitted = Runner(
        ml.build_definitions(nouns(LinearRegression, ml.Drift(predictions=True), refit="after_gates"), platform=platform), instance
    )
    refitted(*TRAIN)
    refitted("dataset/points", "predictions/scores", partitions="2024-01-23")
    assert PREDICTION_PROFILE not in read_manifest(at.artifacts, at.registry.champion("guess").artifact)  # it was fitted on the holdout
    result = runner("drift_report/watch", partitions="2024-01-23")
    note = "predictions are not compared: the version stores none for rows that it was not fitted on"
    assert f"; {note}" in metadata(result, "drift_report/watch")["summary"]
    assert note in build_page_path(platform.home, "watch", "2024-01-23").read_text()
    assert set(at.lake.read("drift_report/watch")["kind"]) == {"numeric"}
