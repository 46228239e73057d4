"""Embedding columns: clean windows stay quiet, shifts and rotations are found, and profiles store no embedding."""

import json
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy import stats

from mlops_assets.compute.drift.drift_report import measure_drift
from mlops_assets.compute.drift.embeddings import COMPONENT, NORM, RESIDUAL, SHIFT, EmbeddingSpace, find_size
from mlops_assets.compute.drift.profile import FORMAT, build_profile
from mlops_assets.values.drift import PSI

DAYS, ROWS, SIZE = 60, 300, 32
SPREADS = 3 / np.sqrt(np.arange(1, SIZE + 1))
MIXED = np.linalg.qr(np.random.default_rng(7).normal(size=(SIZE, SIZE)))[0]


def draw(seed: int, rows: int = ROWS) -> np.ndarray:
    """Embeddings whose principal components have decreasing spreads."""
    return (np.random.default_rng(seed).normal(size=(rows, SIZE)) * SPREADS) @ MIXED + 1


def frame(embeddings: np.ndarray | list) -> pl.DataFrame:
    lists = [None if each is None else [float(value) for value in each] for each in embeddings]
    return pl.DataFrame({"picture": pl.Series(lists, dtype=pl.List(pl.Float64)), "stars": np.arange(len(lists)) % 5})


@cache
def rows() -> tuple[pl.DataFrame, pl.Series]:
    at = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=d) for d in range(DAYS) for _ in range(ROWS)]
    return frame(np.concatenate([draw(1_000 + d) for d in range(DAYS)])), pl.Series(at)


@cache
def reference(*, times: bool = True) -> dict:
    X, at = rows()
    return json.loads(json.dumps(build_profile(X, at if times else None), allow_nan=False))


@pytest.mark.parametrize("times", [True, False])
def test_clean_windows_alarm_as_often_as_stated(times: bool) -> None:
    windows = [frame(draw(seed, count)) for count in (150, 300, 700) for seed in range(50)]
    alarms = sum(bool(measure_drift(reference(times=times), window, false_alarm_rate=0.02).drifted) for window in windows)
    assert alarms <= stats.binom(len(windows), 0.04).ppf(0.99)


@pytest.mark.parametrize("times", [True, False])
def test_a_shift_of_half_a_standard_deviation_is_found_in_any_direction(times: bool) -> None:
    for seed in range(8):
        direction = np.random.default_rng(100 + seed).normal(size=SIZE)
        direction /= np.linalg.norm(direction)
        spread = np.linalg.norm(direction @ MIXED.T * SPREADS)
        report = measure_drift(reference(times=times), frame(draw(seed) + 0.5 * spread * direction))
        assert report.drifted == ("picture",)
        assert f"picture: {report.columns[0].measure}: " in report.summary
        assert [column.name for column in report.columns] == ["picture", "stars"]


ROTATION = np.linalg.qr(np.random.default_rng(9).normal(size=(SIZE, SIZE)))[0]
CHANGES = {
    "rotated about their mean": (lambda numbers: (numbers - 1) @ ROTATION + 1, RESIDUAL),
    "all equal": (lambda numbers: np.repeat(numbers[:1], len(numbers), axis=0), ""),
    "of twice the length": (lambda numbers: 2 * numbers, ""),
    "shifted along the first component": (lambda numbers: numbers + 2 * MIXED[0], ""),
}


@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_the_report_has_one_row_for_embeddings_that_changed(name: str, times: bool) -> None:
    change, measure = CHANGES[name]
    for seed in range(3):
        report = measure_drift(reference(times=times), frame(change(draw(seed))))
        assert report.drifted == ("picture",)
        assert measure in (report.columns[0].measure, "")


def test_a_profile_holds_the_mean_and_components_only() -> None:
    space = reference()["columns"]["picture"]["space"]
    assert np.shape(space["components"]) == (4, SIZE)
    assert len(json.dumps(space)) < 3_000
    # The components span the directions with the largest spreads.
    assert np.linalg.norm(np.array(space["components"]) @ MIXED[:4].T, axis=1).min() > 0.9


def test_nulls_and_other_lengths_are_null_and_noted() -> None:
    whole = list(draw(1))
    nulls = measure_drift(reference(), frame([None if n % 4 == 0 else each for n, each in enumerate(whole)]))
    assert nulls.drifted == ("picture",)
    assert nulls.columns[0].null_rate == pytest.approx(0.25)
    short = measure_drift(reference(), frame([each[:16] if n % 4 == 0 else each for n, each in enumerate(whole)]))
    assert short.drifted == ("picture",)
    assert short.columns[0].null_rate == pytest.approx(0.25)
    assert short.summary.endswith("picture: 75 of 300 rows have embeddings of another length than 32, e.g. 16; they count as null")
    broken = measure_drift(reference(), frame([[np.nan, *each[1:]] if n % 4 == 0 else each for n, each in enumerate(whole)]))
    assert broken.columns[0].null_rate == pytest.approx(0.25)
    clean = measure_drift(reference(), frame(whole))
    assert clean.notes == ()


def test_a_column_without_embeddings_or_of_another_type_has_drifted() -> None:
    window = frame(draw(2))
    for empty in (pl.lit(None, pl.List(pl.Float64)), pl.lit(None), pl.lit([], pl.List(pl.Null)), pl.lit([], pl.List(pl.Float32))):
        assert measure_drift(reference(), window.with_columns(picture=empty)).drifted == ("picture",)
    for other in (pl.lit("a"), pl.lit(1.5), pl.lit(["a"], pl.List(pl.String))):
        assert "but List(Float64) in the reference" in measure_drift(reference(), window.with_columns(picture=other)).columns[0].why


def test_arrays_and_32_bits_are_compared_as_lists() -> None:
    window = frame(draw(3))
    arrays = window.with_columns(pl.col("picture").cast(pl.Array(pl.Float32, SIZE)))
    lists, same = (measure_drift(reference(), each) for each in (window, arrays.lazy()))
    assert same.drifted == ()
    assert same.columns[0].severity == pytest.approx(lists.columns[0].severity, rel=0.01)
    assert build_profile(arrays)["columns"]["picture"]["kind"] == "embedding"


def test_measures_equal_those_computed_by_hand() -> None:
    space = EmbeddingSpace(np.zeros(3), np.eye(3)[:1], np.array([2.0]), 0.5, 10)
    measures = space.measure(pl.Series([[2.0, 3.0, 4.0], [4.0, 0.0, 0.5], None, [1.0]]))
    assert measures[NORM].values.to_list() == [pytest.approx(29**0.5, abs=1e-4), pytest.approx(16.25**0.5, abs=1e-4), None, None]
    assert measures[f"{COMPONENT}1"].values.to_list() == [1, 2, None, None]
    assert measures[RESIDUAL].values.to_list() == [10, 1, None, None]
    shift = (2 / 3) ** 0.5 * (1 * 2 + 8 * 1)  # (1, 6, 8) and (2, 0, 1) in units of the standard deviations
    assert measures[SHIFT].values.to_list() == [pytest.approx(shift, abs=1e-3)] * 2 + [None] * 2


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series([[0.5, 1.5]] * 99 + [None, [1.0, 2.0]]), 2),
        (pl.Series([[0.5, 1.5]] * 99), None),  # few rows
        (pl.Series([[0.5] * (n % 3 + 2) for n in range(200)]), None),  # several lengths
        (pl.Series([[0.5]] * 200), None),
        (pl.Series([[0.5, float("nan")]] * 200), None),
        (pl.Series([[1, 2]] * 200), None),
        (pl.Series([["a", "b"]] * 200), None),
        (pl.Series([[[0.5, 1.5]]] * 200), None),
        (pl.Series([1.5] * 200), None),
    ],
)
def test_embeddings_are_lists_of_floats_with_one_length(column: pl.Series, expected: int | None) -> None:
    assert find_size(column) == expected


def test_constant_sparse_and_huge_embeddings_can_be_compared() -> None:
    constant = build_profile(frame(np.ones((500, 4))))
    assert measure_drift(constant, frame(np.ones((200, 4)))).drifted == ()
    assert measure_drift(constant, frame(np.ones((200, 4)) + np.eye(4)[2])).drifted == ("picture",)
    X, at = rows()
    sparse = build_profile(X.with_columns(picture=pl.when(pl.int_range(pl.len()) % 100 == 0).then("picture")), at)
    assert sparse["columns"]["picture"]["kind"] == "embedding"
    assert measure_drift(sparse, frame([None] * ROWS)).rows == ROWS
    huge = measure_drift(reference(), frame(draw(1) * 1e300))
    assert huge.drifted == ("picture",)


def test_a_profile_of_format_3_compares_nulls_only() -> None:
    X, at = rows()
    before = build_profile(X.with_columns(picture=pl.lit(["a"])), at)
    stored = before["columns"]["picture"] | {"dtype": "List(Float64)"}
    profile = before | {"format": FORMAT - 1, "columns": before["columns"] | {"picture": stored}}
    assert measure_drift(profile, frame(draw(1) + 5)).drifted == ()
    assert measure_drift(profile, frame([None] * ROWS)).drifted == ("picture",)


def test_an_embedding_column_with_a_fixed_threshold_is_judged_by_calibrated_measures_and_the_report_says_so() -> None:
    report = measure_drift(reference(), frame(draw(1) + 5), fixed={"picture": PSI(0.2)})
    assert report.drifted == ("picture",)
    assert "fixed thresholds not used, because texts and embeddings are tested by calibrated measures: picture: PSI(0.2)" in report.notes
