"""The first error of a new user: whatever polars, pandas or DuckDB raise in a project's function, the run says where it was and what to do."""

from datetime import timedelta

import dagster as dg
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from tests.conftest import Runner, metadata
from tests.memory_instance import open_memory_instance

DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-10")
FILE = "tests/orchestrate/tables/test_user_code.py"
MONTH = "2024-01-01...2024-01-02"


def rows(window: ml.TimeWindow) -> pl.DataFrame:
    times = [window.start + timedelta(hours=hour) for hour in range(24)]
    at = pl.Series(times, dtype=pl.Datetime("us", "UTC"))
    x = np.arange(24.0)
    return pl.DataFrame({"id": [f"{time:%d-%H}" for time in times], "at": at, "x": x, "y": 2 * x})


@ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
def hours(window: ml.TimeWindow) -> pl.DataFrame:
    return rows(window)


@ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
def late(window: ml.TimeWindow) -> pl.LazyFrame:
    naive = rows(window).with_columns(pl.col("at").dt.replace_time_zone(None))
    return naive.lazy().filter(pl.col("at") >= window.start)


@ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
def renamed(hours: pd.DataFrame) -> pd.DataFrame:
    return hours[hours["idd"] != ""]


@ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
def compared(hours: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    return hours.filter("id > 1")


@ml.feature_view(entity=ml.Entity("hour", join_keys=("id",)), event_timestamp="at", features={"double": float}, partitions=DAILY)
def doubled(hours: pl.LazyFrame) -> pl.LazyFrame:
    return hours.with_columns(double=pl.col("x") * pl.col("id"))


@ml.training_set(columns=["x"], label="y", split=ml.GroupSplit("id"))
def examples(hours: pl.LazyFrame) -> pl.LazyFrame:
    return hours


@ml.model(training_set=examples, metrics=["r2"])
def broken(train: ml.Split) -> LinearRegression:
    return LinearRegression().fit(train.X.select("X"), train.y)


@ml.model(training_set=examples, metrics=["r2"])
def fitted(train: ml.Split) -> LinearRegression:
    return LinearRegression().fit(train.X, train.y + train.X["x"].to_numpy() % 2)


@ml.gate(fitted)
def is_fair(candidate: ml.Candidate) -> bool:
    return bool(candidate.holdout.rows["fairness"].all())


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    platform = ml.Platform.at(tmp_path_factory.mktemp("user_code") / "home")
    nouns = [hours, late, renamed, compared, doubled, examples, broken, fitted, is_fair]
    with open_memory_instance() as instance:
        made = Runner(ml.build_definitions(nouns, platform=platform), instance)
        made("dataset/hours", partitions=MONTH)
        made("training_set/examples")
        yield made


def line_of(noun, offset: int = 0) -> int:
    source = getattr(noun, "function", None) or noun.source.function
    return getattr(source, "function", source).__code__.co_firstlineno + offset


CASES = {
    "dataset/late": (late, 0, "partition '2024-01-01': SchemaError: could not evaluate '>='", "window.start.replace(tzinfo=None)"),
    "dataset/renamed": (renamed, 2, "partition '2024-01-01': KeyError: 'idd'", "did you mean 'id'? there are id, at, x, y"),
    "dataset/compared": (compared, 2, "partition '2024-01-01': BinderException: Binder Error: Cannot compare values", "cast one of them"),
    "features/doubled": (doubled, 0, "InvalidOperationError: arithmetic on dtypes", "cast one of them"),
}


@pytest.mark.parametrize("asset", CASES)
def test_an_error_in_a_function_names_asset_partition_line_and_remedy(runner, asset) -> None:
    noun, offset, text, hint = CASES[asset]
    message = runner.error(asset, partitions=MONTH)
    assert f"'{asset}' {text}" in message or (f"'{asset}' partition" in message and text in message)
    assert f"{FILE}:{line_of(noun, offset)}" in message
    assert hint in message
    assert "PROJECT" not in message


def test_an_error_in_a_models_function_names_the_nearest_column(runner) -> None:
    message = runner.error("model/broken")
    assert "'model/broken': ColumnNotFoundError: unable to find column \"X\"" in message
    assert f"{FILE}:{line_of(broken, 2)}, in broken" in message
    assert "there are x" in message


def test_an_error_in_a_gate_is_its_reason_with_its_line(runner) -> None:
    result = runner("model/fitted", ok=False)
    (gate,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "is_fair"]
    assert not gate.passed
    assert f'the gate raised ColumnNotFoundError: "fairness" not found ({FILE}:{line_of(is_fair, 2)}, in is_fair)' in gate.description
    assert metadata(result, "model/fitted")["candidate"]
