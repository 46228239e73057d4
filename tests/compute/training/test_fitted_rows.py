"""Each version knows the rows that it was fitted on."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.compute.training.fitted_rows import FITTED, FittedRows

BASE, DAY = datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=1)
ROWS = pl.DataFrame({"at": [BASE + day * DAY for day in range(20)], "known": [BASE + (day + 3) * DAY for day in range(20)]})


def declare(event_timestamp: str | None = "at", label_known_at: str | None = None):
    split = ml.TimeSplit(holdout=7 * DAY) if event_timestamp else ml.GroupSplit("shop")

    @ml.training_set(columns=["x"], features=[], label="y", event_timestamp=event_timestamp, label_known_at=label_known_at, split=split)
    def examples(events: pl.LazyFrame) -> pl.LazyFrame:
        return events

    return examples


def test_fitted_rows_survive_a_manifest_round_trip() -> None:
    fitted = FittedRows.from_rows(ROWS, ("train",), declare(label_known_at="known"))
    assert (fitted.rows, fitted.first, fitted.last, fitted.labels_known) == (20, BASE, BASE + 19 * DAY, BASE + 22 * DAY)
    assert FittedRows.from_manifest({FITTED: fitted.as_json()}) == fitted
    assert FittedRows.from_manifest({}) is None
    timeless = FittedRows.from_rows(ROWS, ("train",), declare(None))
    assert FittedRows.from_manifest({FITTED: timeless.as_json()}) == timeless


def test_times_up_to_the_last_fitted_row_are_in_training() -> None:
    fitted = FittedRows.from_rows(ROWS, ("train",), declare())
    times = pl.Series([BASE - timedelta(days=1), BASE, BASE + timedelta(days=19), BASE + timedelta(days=20), None])
    assert fitted.mask_fitted_times(times).to_list() == [False, True, True, False, False]


@pytest.mark.parametrize(("label_known_at", "after"), [(None, 19), ("known", 22)])
def test_a_fit_precedes_rows_that_begin_after_its_labels_were_known(label_known_at, after) -> None:
    fitted = FittedRows.from_rows(ROWS, ("train",), declare(label_known_at=label_known_at))
    assert not fitted.precede(pl.Series([BASE + after * DAY, BASE + 40 * DAY]))
    assert fitted.precede(pl.Series([BASE + after * DAY + timedelta(seconds=1)]))
    assert not FittedRows.from_rows(ROWS, ("train",), declare(None)).precede(pl.Series([BASE + 99 * DAY]))


def test_labels_that_became_known_on_a_date_count_from_its_beginning() -> None:
    rows = ROWS.with_columns(pl.col("known").cast(pl.Date))
    assert FittedRows.from_rows(rows, ("train",), declare(label_known_at="known")).labels_known == BASE + 22 * DAY
