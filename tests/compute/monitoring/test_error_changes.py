"""The error of a version is compared with that of its own earlier windows, whatever the order and number of reports."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from mlops_assets.compute.estimation.estimator import PerformanceEstimator
from mlops_assets.compute.monitoring.error_changes import ErrorStream, add_error_verdict, read_errors
from mlops_assets.compute.monitoring.performance import PerformanceReport, measure_performance
from mlops_assets.compute.tables.own_columns import PREDICTION, PROBABILITY
from mlops_assets.errors import DefinitionError
from mlops_assets.values.expectations.error_change import ErrorChange
from mlops_assets.values.monitoring import Performance

BEGIN, ROWS = datetime(2024, 1, 1, tzinfo=UTC), 200
EXPECTED = ErrorChange()


def start_of(day: int) -> datetime:
    return BEGIN + timedelta(days=day)


def report_of(day: int, rate: float, labelled: int = ROWS, *, shares: bool = False) -> PerformanceReport:
    """Return the report of a day in which a share ``rate`` of the predictions is wrong."""
    rng = np.random.default_rng(day)
    y, wrong = rng.integers(0, 2, ROWS), rng.random(ROWS) < rate
    predictions = {
        "id": np.arange(ROWS),
        "at": [start_of(day) + timedelta(minutes=n) for n in range(ROWS)],
        PREDICTION: np.where(wrong, 1 - y, y),
    }
    if shares:
        predictions[PROBABILITY] = np.where(predictions[PREDICTION] == 1, 0.9, 0.1)
    labels = pl.DataFrame({"id": np.arange(labelled), "y": y[:labelled]})
    return measure_performance(
        pl.DataFrame(predictions), labels, key=["id"], label="y", metrics=(), classes=[0, 1], event_timestamp="at", error_change=EXPECTED
    )


def rate_of(day: int) -> float:
    return 0.1 if day < 20 else 0.3


def judge(stream: ErrorStream, day: int, **options):
    return add_error_verdict(report_of(day, rate_of(day), **options), EXPECTED, start_of(day), stream).verdicts[-1]


def test_the_verdict_says_from_which_error_to_which_and_when():
    stream = ErrorStream(EXPECTED.delta)
    verdicts = [judge(stream, day) for day in range(24)]
    assert [v.state for v in verdicts[:20]] == ["good"] * 20
    first = next(v for v in verdicts if v.state == "breach")
    assert verdicts.index(first) in (20, 21)
    assert [v.state for v in verdicts[verdicts.index(first) :]] == ["breach"] * (24 - verdicts.index(first))
    assert (first.bound, first.value) == (pytest.approx(0.1, abs=0.02), pytest.approx(0.3, abs=0.08))
    assert first.reason.startswith(f"mean error {first.bound:.3g} before 2024-01-2")
    assert "without an increase" in verdicts[19].reason


def test_reports_in_any_order_and_twice_end_with_the_same_verdicts():
    ordered, shuffled = ErrorStream(EXPECTED.delta), ErrorStream(EXPECTED.delta)
    expected = [judge(ordered, day) for day in range(24)]
    for day in np.random.default_rng(0).permutation(24).tolist():
        judge(shuffled, day)
    assert [judge(shuffled, day) for day in range(24)] == expected
    assert [judge(ordered, day) for day in reversed(range(24))][::-1] == expected


def test_labels_that_arrive_late_count_from_the_next_report_on():
    stream = ErrorStream(EXPECTED.delta)
    for day in range(20):
        judge(stream, day)
    late = [judge(stream, day, labelled=50) for day in range(20, 24)]
    assert {v.state for v in late} == {"not enough data"}
    assert late[0].reason == "25.0% of 200 predictions have a label, 50.0% are needed"
    assert judge(stream, 23).state in ("good", "breach")
    assert [judge(stream, day).state for day in range(20, 24)][-1] == "breach"


def test_stored_sums_are_read_as_they_were():
    errors = report_of(0, 0.2, shares=True).errors
    stored = read_errors(errors.as_text)
    read = stored.chunks
    assert stored.loss == "probability"
    for name in ("counts", "sums", "squares", "starts"):
        assert getattr(read, name).tolist() == getattr(errors.chunks, name).tolist()
    assert len(read) == 16
    assert read.mean == pytest.approx(0.1 + 0.8 * report_of(0, 0.2).errors.chunks.mean)


def test_probabilities_from_a_later_window_on_are_no_increase():
    stream, verdicts = ErrorStream(EXPECTED.delta), []
    for day in range(30):
        report = report_of(day, 0.1, shares=day >= 20)
        verdicts.append(add_error_verdict(report, EXPECTED, start_of(day), stream).verdicts[-1])
    assert {v.state for v in verdicts} == {"good"}
    assert "of 2000 predictions since 2024-01-21" in verdicts[-1].reason


def test_a_window_without_predictions_or_in_training_data_is_not_judged():
    stream = ErrorStream(EXPECTED.delta)
    empty = measure_performance(pl.DataFrame(), pl.DataFrame(), key=["id"], label="y", metrics=())
    assert add_error_verdict(empty, EXPECTED, start_of(0), stream).state == "not enough data"
    fitted = measure_performance(pl.DataFrame(), pl.DataFrame(), key=["id"], label="y", metrics=(), rows_in_training=5)
    assert add_error_verdict(fitted, EXPECTED, start_of(0), stream).state == "in training data"


def report_numbers(estimator: PerformanceEstimator | None, *expectations: Performance) -> PerformanceReport:
    y = np.arange(100.0)
    at = [BEGIN + timedelta(minutes=n) for n in range(100)]
    predictions = pl.DataFrame({"id": range(100), "at": at, PREDICTION: y + np.where(y < 50, 1.0, 8.0)})
    labels = pl.DataFrame({"id": range(100), "y": y})
    return measure_performance(
        predictions,
        labels,
        key=["id"],
        label="y",
        metrics=(),
        expectations=expectations,
        event_timestamp="at",
        estimator=estimator,
        error_change=EXPECTED,
        measure_intervals="below bound",
    )


def test_the_error_of_a_number_is_scaled_by_the_holdout_and_cut_off_at_one():
    chunks = report_numbers(PerformanceEstimator(100, 1.0, scale=4.0)).errors.chunks
    assert chunks.mean == pytest.approx((0.25 + 1) / 2)


def test_a_regressor_without_stored_errors_cannot_be_judged():
    report = add_error_verdict(report_numbers(None), EXPECTED, BEGIN, ErrorStream(EXPECTED.delta))
    assert report.state == "cannot be measured"
    assert "no scale of errors is stored with the version: train again, on a holdout of 100 rows or more" in report.summary
    older = add_error_verdict(report_numbers(PerformanceEstimator(100, 1.0)), EXPECTED, BEGIN, ErrorStream(EXPECTED.delta))
    assert older.summary.endswith("no scale of errors is stored with the version: it was trained before versions had one, train again")


@pytest.mark.parametrize(("bound", "state"), [(-10.0, "good"), (-1.0, "breach")])
def test_an_error_change_that_cannot_be_measured_leaves_the_state_to_other_expectations(bound, state):
    expected = Performance("neg_mean_absolute_error", at_least=bound, min_labels=10)
    report = add_error_verdict(report_numbers(PerformanceEstimator(100, 1.0), expected), EXPECTED, BEGIN, ErrorStream(EXPECTED.delta))
    assert (report.state, report.verdicts[-1].state) == (state, "cannot be measured")
    assert "error_change cannot be measured: no scale of errors" in report.summary


@pytest.mark.parametrize("options", [{"delta": 0.0}, {"delta": 1.0}, {"min_coverage": 1.5}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(DefinitionError, match="out of range"):
        ErrorChange(**options)
