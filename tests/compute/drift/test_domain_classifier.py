"""The domain classifier finds changed joint distributions that no other view shows, names their columns, and says when it is blind."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from mlops_assets.compute.drift.column_drift import ColumnDrift
from mlops_assets.compute.drift.domain_classifier import (
    DOMAIN_CLASSIFIER,
    MAX_THRESHOLD,
    MIN_ROWS,
    ClassifierReference,
    convert_auc,
    encode_rows,
    evaluate_by_classifier,
)
from mlops_assets.compute.drift.drift_report import NO_CLASSIFIER, DriftReport, measure_drift
from mlops_assets.compute.drift.profile import CLASSIFIERS, build_profile
from mlops_assets.compute.drift.statistic_changes import MIN_HISTORY
from mlops_assets.values.drift import PSI

DAYS, ROWS, MAX_ROWS = 20, 200, 200


def day(rng: np.random.Generator, *, rows: int = ROWS, turned: bool = False) -> pl.DataFrame:
    """The sign of ``c`` is nearly always the product of those of ``a`` and ``b``, or its opposite; each pair is independent."""
    a, b, c = rng.normal(size=(3, rows))
    expected = np.sign(a * b) * np.where(rng.random(rows) < 0.95, 1, -1) * (-1 if turned else 1)
    return pl.DataFrame(
        {
            "a": a,
            "b": b,
            "c": np.abs(c) * expected,
            "place": rng.choice(["inn", "bar", "cafe"], rows),
            "wind": pl.Series(rng.normal(size=rows)).set(pl.Series(rng.random(rows) < 0.1), None),
            "today": np.full(rows, rng.normal()),
        }
    )


def days(count: int = DAYS) -> tuple[pl.DataFrame, pl.Series]:
    rng = np.random.default_rng(0)
    at = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=d) for d in range(count) for _ in range(ROWS)]
    return pl.concat([day(rng) for _ in range(count)]), pl.Series(at)


VARYING = ("a", "b", "c", "place", "wind")


@cache
def profile() -> dict:
    built = build_profile(*days(), classifiers={VARYING: MAX_ROWS, (): MAX_ROWS})
    return json.loads(json.dumps(built, allow_nan=False, sort_keys=True))


def judge(window: pl.DataFrame, columns: tuple[str, ...] | None = VARYING, **options: float) -> DriftReport:
    return measure_drift(profile(), window, columns=columns, classifier=True, **options)


@pytest.mark.parametrize("seed", range(3))
def test_a_changed_dependence_of_three_columns_is_found_and_named(seed: int) -> None:
    window = day(np.random.default_rng(100 + seed), turned=True)
    assert measure_drift(profile(), window, columns=VARYING).drifted == ()
    report = judge(window)
    assert set(report.drifted) == {"a", "b", "c"}
    worst = report.columns[0]
    assert worst.statistic == DOMAIN_CLASSIFIER
    assert worst.value > worst.threshold
    assert worst.severity == pytest.approx(worst.value / worst.threshold)
    assert len(worst.reference_values) == DAYS
    assert f"AUC {worst.value:.3f}, threshold {worst.threshold:.3f}" in worst.why
    assert "; domain classifier AUC" in report.summary


def test_clean_windows_alarm_as_often_as_stated() -> None:
    rng = np.random.default_rng(1)
    windows = [day(rng, rows=rows) for rows in (120, 200, 500) for _ in range(8)]
    reports = [judge(window, false_alarm_rate=0.04) for window in windows]
    assert sum(bool(report.drifted) for report in reports) <= stats.binom(len(windows), 0.08).ppf(0.99)
    assert all(report.summary.startswith(("no drift in 5 columns; domain classifier AUC 0.", "drift in")) for report in reports)


def test_with_a_column_that_is_constant_in_a_window_the_report_says_that_the_view_is_blind() -> None:
    report = judge(day(np.random.default_rng(100), turned=True), None)
    assert report.drifted == ()
    assert "; domain classifier blind: it separates a window of the reference from the others with an AUC of 0.99" in report.summary
    assert float(report.summary.split("its threshold is ")[1].split(". ")[0]) >= MAX_THRESHOLD


def test_a_column_that_has_drifted_by_itself_keeps_its_reason() -> None:
    window = day(np.random.default_rng(3)).with_columns(pl.col("wind") + 3)
    report = judge(window)
    assert report.drifted == ("wind",)
    assert report.columns[0].statistic != DOMAIN_CLASSIFIER
    assert report.summary.endswith(", by wind")


def test_columns_with_fixed_thresholds_are_found_by_the_classifier() -> None:
    window = day(np.random.default_rng(100), turned=True)
    fixed = {name: PSI(5.0) for name in VARYING}
    assert measure_drift(profile(), window, columns=VARYING, fixed=fixed).drifted == ()
    report = measure_drift(profile(), window, columns=VARYING, fixed=fixed, classifier=True)
    assert set(report.drifted) == {"a", "b", "c"}
    assert {column.statistic for column in report.columns if column.drifted} == {DOMAIN_CLASSIFIER}


def test_of_columns_that_are_dispensable_alone_the_most_important_one_has_drifted() -> None:
    rng, names = np.random.default_rng(0), [f"x{n}" for n in range(12)]
    separations, rows = rng.normal(0, 0.05, DAYS), np.full(DAYS, ROWS)
    reference = ClassifierReference((), dict.fromkeys(names), rng.normal(size=(3 * ROWS, 12)), separations, rows, ROWS)
    window = pl.DataFrame(rng.normal(2.5, 1, size=(ROWS, 12)), schema=names).to_dict()
    columns, words = evaluate_by_classifier(reference, window, [ColumnDrift(name, "feature", "numeric") for name in names], 0.01, 0.1)
    [named] = [column for column in columns if column.drifted]
    assert words.endswith(f", by {named.name}")
    assert named.severity > 1
    assert "no column is needed by itself; shuffling this one has the largest effect on the AUC, 0.00" in named.why


@pytest.mark.parametrize("values", [0, 1, 5])
def test_a_column_with_few_values_is_classified(values: int) -> None:
    frame, at = days(MIN_HISTORY)
    rare = pl.int_range(pl.len()) % ROWS == 7
    X = frame.select("a", rare=pl.when(rare & (pl.int_range(pl.len()) < values * ROWS)).then(1.5))
    assert X["rare"].count() == values
    built = build_profile(X, at, classifiers={(): 100})
    report = measure_drift(built, X.head(ROWS), classifier=True)
    assert "domain classifier AUC 0." in report.summary
    empty = measure_drift(built, X.head(ROWS).with_columns(rare=pl.lit(None, dtype=pl.Float64)), classifier=True)
    assert "domain classifier AUC 0." in empty.summary


def test_what_cannot_be_classified_is_said() -> None:
    window = day(np.random.default_rng(4))
    assert measure_drift(profile(), window, columns=["a"], classifier=True).notes == (f"{DOMAIN_CLASSIFIER} {NO_CLASSIFIER}",)
    assert judge(window.drop("b")).notes == ("domain classifier not evaluated: b cannot be compared",)
    assert judge(window.head(MIN_ROWS - 1), min_rows=1).summary.endswith(f"not evaluated: {MIN_ROWS - 1} rows, {MIN_ROWS} are needed")
    frame, at = days()
    few = build_profile(frame, at, window=timedelta(days=5), classifiers={("a",): 200})
    assert few["windows"] >= 8  # windows are shortened where there would be too few
    texts = pl.DataFrame({"review": [f"text number {chr(97 + k % 26)} of {k}" for k in range(frame.height)]})
    assert "no column is a number" in measure_drift(build_profile(texts, at, classifiers={(): 200}), texts, classifier=True).summary
    one = build_profile(frame.head(200), at.head(200), classifiers={(): 200})
    assert "windows of the reference with 30 rows are needed" in measure_drift(one, window, classifier=True).summary


def test_a_threshold_is_not_below_the_minimum_effect() -> None:
    reference = ClassifierReference.from_json(profile()[CLASSIFIERS][1])
    below = replace(reference, separations=np.full(DAYS, -0.5))
    columns, words = evaluate_by_classifier(below, day(np.random.default_rng(9)).to_dict(), [], 0.01, 0.1)
    assert columns == []
    assert words.endswith(f"threshold {stats.norm.cdf(np.sqrt(0.1 / 2)):.3f}")


def test_without_event_times_windows_are_random() -> None:
    frame, _ = days()
    built = build_profile(frame.drop("today"), classifiers={(): MAX_ROWS})
    turned = day(np.random.default_rng(7), turned=True).drop("today")
    assert set(measure_drift(built, turned, classifier=True).drifted) == {"a", "b", "c"}
    assert measure_drift(built, day(np.random.default_rng(8)).drop("today"), classifier=True).drifted == ()


def test_a_reference_is_stored_whole() -> None:
    stored = profile()[CLASSIFIERS][1]
    reference = ClassifierReference.from_json(stored)
    assert reference.as_json() == stored
    assert reference.sample.shape == (3 * MAX_ROWS, len(VARYING))
    assert list(reference.columns) == list(VARYING)


def test_rows_are_encoded_with_the_digits_that_are_stored() -> None:
    frame = {"x": pl.Series([1234567.89, -0.000123456789, 0.0, None, float("inf")]), "s": pl.Series(["b", "z", None, "a", "b"])}
    encoded = encode_rows(frame | {"d": pl.Series([None, 1, 1, 1, 1])}, {"x": None, "s": ("a", "b"), "d": ()})
    np.testing.assert_array_equal(encoded[:, 0], [1234570.0, -0.000123457, 0.0, np.nan, np.nan])
    np.testing.assert_array_equal(encoded[:, 1], [1.0, 2.0, np.nan, 0.0, 1.0])
    np.testing.assert_array_equal(encoded[:, 2], [1, 0, 0, 0, 0])


def test_the_separation_is_the_distance_of_two_normal_distributions() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 200_000)
    assert convert_auc(roc_auc_score(y, rng.normal(size=len(y)) + 0.7 * y), 200_000) == pytest.approx(0.7, abs=0.01)
    assert np.isfinite(convert_auc(1.0, 100))
