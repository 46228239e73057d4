"""Each version knows the rows that it was fitted on."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from mlops_assets.compute.training.fitted_rows import FITTED, FittedRows
from mlops_assets.values.evaluation import Split

BASE = datetime(2024, 1, 1, tzinfo=UTC)


def part(first: int, last: int) -> Split:
    rows = pl.DataFrame({"at": [BASE + timedelta(days=day) for day in range(first, last)]})
    return Split(pl.DataFrame({"x": np.zeros(last - first)}), np.zeros(last - first), rows)


SPLITS = {"train": part(0, 20), "validation": part(20, 23), "holdout": part(23, 30)}


def test_a_version_without_a_refit_was_fitted_on_the_parts_that_its_function_received() -> None:
    fitted = FittedRows.from_splits(SPLITS, ("train",), "at", by_time=True)
    assert (fitted.rows, fitted.first, fitted.last) == (20, BASE, BASE + timedelta(days=19))
    both = FittedRows.from_splits(SPLITS, ("train", "validation"), "at", by_time=True)
    assert (both.rows, both.last) == (23, BASE + timedelta(days=22))


def test_fitted_rows_survive_a_manifest_round_trip() -> None:
    fitted = FittedRows.from_splits(SPLITS, ("train",), "at", by_time=True)
    assert FittedRows.from_manifest({FITTED: fitted.as_json()}) == fitted
    assert FittedRows.from_manifest({}) is None
    timeless = FittedRows.from_splits(SPLITS, ("train",), None, by_time=False)
    assert FittedRows.from_manifest({FITTED: timeless.as_json()}) == timeless


def test_times_up_to_the_last_fitted_row_are_in_training() -> None:
    fitted = FittedRows.from_splits(SPLITS, ("train",), "at", by_time=True)
    times = pl.Series([BASE - timedelta(days=1), BASE, BASE + timedelta(days=19), BASE + timedelta(days=20), None])
    assert fitted.mask_fitted_times(times).to_list() == [False, True, True, False, False]
