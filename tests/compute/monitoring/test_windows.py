"""What a monitor measures without Dagster and without a store: one version in one window."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.compute.drift.drift_report import measure_drift
from mlops_assets.compute.drift.profile import build_profile
from mlops_assets.compute.monitoring.decide import LoopFacts, decide
from mlops_assets.compute.monitoring.windows import LabelTable, VersionReference, measure_window, split_windows
from mlops_assets.errors import DataError
from mlops_assets.values.decisions import Decision, Hold
from mlops_assets.values.window import TimeWindow

START, ROWS = datetime(2024, 1, 1, tzinfo=UTC), 480
DAYS = [(f"2024-01-{n:02}", TimeWindow(START + timedelta(days=n - 1), START + timedelta(days=n))) for n in (1, 2, 3)]


@ml.dataset(key="id", event_timestamp="at")
def events() -> pl.DataFrame: ...


@ml.training_set(columns=["x"], features=[], label="y", event_timestamp="at", split=ml.GroupSplit("id"))
def examples(events: pl.LazyFrame) -> pl.LazyFrame: ...


@ml.model(training_set=examples, metrics=["r2"])
def line(train: ml.Split) -> LinearRegression: ...


MONITOR = ml.Monitor(
    "watch",
    of=ml.BatchPrediction("scores", model=line, dataset=events),
    partitions=dg.DailyPartitionsDefinition("2024-01-01"),
    expectations=(ml.Drift(), ml.Performance("r2", at_least=0.5, min_labels=10)),
    on_failure=ml.Retrain(),
    min_rows=10,
)


def predictions() -> pl.DataFrame:
    """Two days: version 1 predicts the first and the morning of the second, version 2 its afternoon, badly and of other rows."""
    rng = np.random.default_rng(0)
    at = pl.Series([START + timedelta(minutes=6 * i) for i in range(ROWS)])
    version = np.where(np.arange(ROWS) < ROWS * 3 // 4, 1, 2)
    x = rng.normal(size=ROWS) + 3 * (version == 2)
    y = x + 0.1 * rng.normal(size=ROWS)
    return pl.DataFrame(
        {"id": np.arange(ROWS), "at": at, "x": x, "y": y, "__prediction": np.where(version == 1, x, -x), "__model_version": version}
    )


def references() -> dict[int, VersionReference]:
    """Version 2 was trained on rows like those that it predicts."""
    rng = np.random.default_rng(1)
    return {n: VersionReference(build_profile(pl.DataFrame({"x": rng.normal(size=2_000) + 3 * (n == 2)}))) for n in (1, 2)}


def measure(rows: pl.DataFrame, fitted: pl.Series | None = None) -> list:
    fitted = pl.Series([False] * rows.height, dtype=pl.Boolean) if fitted is None else fitted
    windows, known = split_windows(rows, rows["at"], fitted, DAYS, "at"), references()
    labels = LabelTable(rows.select("id", "y"), ["id"])
    return [measure_window(MONITOR, w, known.get(w.version, VersionReference()), labels) for w in windows]


def test_a_window_of_two_versions_is_two_units_and_no_row_is_in_both() -> None:
    found = measure(predictions())
    assert [(unit.window.partition, unit.window.version) for unit in found] == [
        ("2024-01-01", 1),
        ("2024-01-02", 1),
        ("2024-01-02", 2),
        ("2024-01-03", None),
    ]
    assert [unit.window.title for unit in found][1:3] == ["2024-01-02, version 1", "2024-01-02, version 2"]
    assert [unit.drift.rows for unit in found] == [240, 120, 120, 0]
    assert [unit.performance.arrivals.predicted for unit in found] == [240, 120, 120, 0]
    assert [unit.drift.drifted for unit in found] == [(), (), (), ()]
    mixed = predictions().filter(pl.col("at") >= DAYS[1][1].start)
    assert all(measure_drift(reference.profile, mixed).drifted == ("x",) for reference in references().values())
    assert [unit.performance.state for unit in found] == ["good", "good", "breach", "not enough data"]


@pytest.mark.parametrize(("champion", "kind"), [(1, Hold), (2, Decision)])
def test_decisions_follow_the_reports_of_the_champion(champion: int, kind: type) -> None:
    reports = tuple(unit.performance_record for unit in measure(predictions()) if unit.performance_record)
    assert [(report.partition, report.version, report.state) for report in reports] == [
        ("2024-01-01", 1, "good"),
        ("2024-01-02", 1, "good"),
        ("2024-01-02", 2, "breach"),
    ]
    found = decide(LoopFacts("line", champion, MONITOR.on_failure, START + timedelta(days=3), reports))
    assert isinstance(found, kind)
    if isinstance(found, Hold):
        assert found.reason == "no open breach of the serving version 1"  # version 2 is of no concern
    if isinstance(found, Decision):
        assert (found.version, found.evidence) == (2, ("2024-01-02",))


def test_rows_that_a_version_was_fitted_on_are_left_out_of_its_own_report_only() -> None:
    rows = predictions()
    fitted = (rows["__model_version"] == 2) & (rows["id"] % 2 == 0)
    found = measure(rows, fitted)
    assert [unit.drift.rows_in_training for unit in found] == [0, 0, 60, 0]
    assert [unit.performance.arrivals.predicted for unit in found] == [240, 120, 60, 0]
    everything = measure(rows, rows["__model_version"] == 2)[2]
    assert (everything.drift.state, everything.performance.state) == ("in training data", "in training data")
    assert everything.drift.summary == "version 2 was fitted on all 120 rows of the window"


def test_reports_that_were_not_asked_for_are_not_measured() -> None:
    rows = predictions()
    window = split_windows(rows, rows["at"], pl.Series([False] * ROWS), DAYS)[0]
    only = measure_window(MONITOR, window, references()[1])
    assert (only.performance, only.performance_record) == (None, None)
    assert only.drift_record.kind == "drift"
    labels = LabelTable(rows.select("id", "y"), ["id"])
    assert measure_window(MONITOR, window, references()[1], labels, with_drift=False).drift is None
    with pytest.raises(DataError, match="needs the column 'y' of 'training_set/examples'"):
        measure_window(MONITOR, window, references()[1], LabelTable(rows.select("id"), ["id"]))
