"""The line that ``--suggest`` prints for a simple policy serves the fits of that policy, also where labels arrive late."""

from pathlib import Path

import pytest

from mlops_assets.cli.options import console
from mlops_assets.cli.project import load
from mlops_assets.cli.replay import preparation
from mlops_assets.compute.replay.grid import declare_policy, write_declaration
from mlops_assets.compute.replay.policies import parse_policy

PROJECT = """
from datetime import timedelta

import mlops_assets as ml
import polars as pl
from sklearn.linear_model import LinearRegression

from tests.projects.refitted import events


@ml.training_set(
    columns=["x"], label="y", event_timestamp="at", label_known_at="known", split=ml.TimeSplit(holdout=timedelta(days=4))
)
def late_examples(events: pl.LazyFrame) -> pl.LazyFrame:
    return events.with_columns(known=pl.col("at") + timedelta(days=6))


@ml.model(training_set=late_examples, metrics=["neg_mean_absolute_error"], gates=[])
def late_level(train: ml.Split) -> LinearRegression:
    return LinearRegression().fit(train.X, train.y)


tomorrow = ml.BatchPrediction("tomorrow", model=late_level, dataset=events)
defs = ml.build_definitions([events, late_examples, late_level, tomorrow], platform=ml.Platform.at("home"))
"""


@pytest.mark.parametrize("text", ["every:5d", "every:5d,window=9d", "every:5d,window=18d"])
def test_the_declared_line_of_a_simple_policy_serves_the_same_fits(text, tmp_path, monkeypatch):
    simple = parse_policy(text)
    declared = declare_policy(simple, by_time=True, tunes=False)
    monkeypatch.chdir(tmp_path)
    Path("definitions.py").write_text(PROJECT)
    Path("policies.py").write_text(f"from datetime import timedelta\nimport mlops_assets as ml\ndeclared = {write_declaration(declared)}\n")
    request = preparation.ReplayRequest(
        "2024-01-21", "2024-02-20", (text, "policies.py:declared"), suggest=False, model="", by=None, metric="", processes=1, refresh=False
    )
    expected, found = preparation.run(load("definitions.py"), "definitions.py", request, console()).result.policies
    assert [event.rows for event in found.events] == [event.rows for event in expected.events]
    assert len(expected.events) > 5
    assert [window.metrics for window in found.windows] == [window.metrics for window in expected.windows]
