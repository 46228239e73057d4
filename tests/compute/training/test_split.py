"""Three parts that never share a row, a group, or a label known too late."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlops_assets as ml
from mlops_assets.compute.tables.own_columns import SPLIT
from mlops_assets.compute.training.split import (
    apply_choice,
    assign_parts,
    choose_refit_rows,
    choose_rows,
    sort_canonically,
    split_by_group,
    split_by_time,
)
from mlops_assets.errors import DataError

BASE = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def times(hours) -> pl.Series:
    return pl.Series([BASE + timedelta(hours=h) for h in hours], dtype=pl.Datetime("us", "UTC"))


def test_the_last_days_judge_and_the_days_before_tune() -> None:
    split = split_by_time(times(range(0, 240, 12)), None, validation=2 * DAY, holdout=DAY)
    assert split.to_list() == ["train"] * 14 + ["validation"] * 4 + ["holdout"] * 2


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)), min_size=40, max_size=80))
def test_no_label_is_used_before_it_is_known(rows) -> None:
    rows = [*rows, (0, 0), (400 - 36, 0), (400, 0)]
    at, known = times(r[0] for r in rows), times(r[0] + r[1] for r in rows)
    split = split_by_time(at, known, validation=2 * DAY, holdout=DAY)
    frame = pl.DataFrame({"at": at, "known": known, "split": split})
    for earlier, later in (("train", "validation"), ("validation", "holdout"), ("train", "holdout")):
        first = frame.filter(split=later)["at"].min()
        assert (frame.filter(split=earlier)["known"].max() or BASE) < first + (timedelta(0) if later == "holdout" else 2 * DAY)
        assert frame.filter(split=earlier)["at"].max() < first


def test_an_empty_part_is_an_error() -> None:
    with pytest.raises(DataError, match="the train part is empty"):
        split_by_time(times([0, 1, 30]), None, validation=DAY, holdout=DAY)
    with pytest.raises(DataError, match="no row"):
        split_by_time(times([]), None, validation=DAY, holdout=DAY)


def test_a_group_is_in_one_part_and_always_in_the_same() -> None:
    groups = pl.Series([f"g{i % 90}" for i in range(900)])
    split = split_by_group(groups, validation=0.2, holdout=0.2, seed=0)
    assert pl.DataFrame({"g": groups, "s": split}).group_by("g").agg(pl.col("s").n_unique())["s"].max() == 1
    assert split.equals(split_by_group(groups, validation=0.2, holdout=0.2, seed=0))
    assert not split.equals(split_by_group(groups, validation=0.2, holdout=0.2, seed=1))
    shares = split.value_counts(normalize=True)
    assert dict(shares.iter_rows())["train"] == pytest.approx(0.6, abs=0.15)
    more = split_by_group(pl.concat([groups, pl.Series(["new"])]), validation=0.2, holdout=0.2, seed=0)
    assert more[:900].equals(split)  # more data moves no group


def test_without_a_validation_part_its_rows_train() -> None:
    split = split_by_time(times(range(0, 240, 12)), None, validation=None, holdout=DAY)
    assert split.to_list() == ["train"] * 18 + ["holdout"] * 2


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.one_of(st.none(), st.integers(1, 3)), st.lists(st.integers(0, 60), min_size=240, max_size=240))
def test_a_rolling_window_trains_on_rows_of_its_span_alone(train, validation, delays) -> None:
    at, known = times(range(240)), times(hour + delay for hour, delay in zip(range(240), delays, strict=True))
    tunes = None if validation is None else validation * DAY
    whole = split_by_time(at, known, validation=tunes, holdout=DAY)
    rolling = split_by_time(at, known, validation=tunes, holdout=DAY, train=train * DAY)
    first = at.max() + timedelta(microseconds=1) - DAY - (tunes or timedelta(0)) - train * DAY
    expected = [None if part in ("train", "gap") and time < first else part for part, time in zip(whole, at, strict=True)]
    assert rolling.to_list() == expected
    assert (validation is None) is ("validation" not in set(rolling))


def test_a_training_window_without_rows_is_an_error_that_names_the_spans() -> None:
    with pytest.raises(DataError, match="the train part is empty with train=1 day, 0:00:00, holdout=1 day, 0:00:00"):
        split_by_time(times([0, 200, 201]), None, validation=None, holdout=DAY, train=DAY)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 12)), st.integers(0, 2)), min_size=1, max_size=8), st.booleans())
def test_rows_are_sorted_by_time_and_then_by_every_column(rows, distinct) -> None:
    hours = range(len(rows), 0, -1) if distinct else [0 if hour is None else hour for hour, _ in rows]
    at = (
        times(hours)
        if distinct
        else times(hours).zip_with(pl.Series([h is not None for h, _ in rows]), pl.Series([None], dtype=pl.Datetime("us", "UTC")))
    )
    frame = pl.DataFrame({"b": [number for _, number in rows], "at": at, "a": [str(number) for number in range(len(rows))]})
    assert sort_canonically(frame, "at").equals(frame.sort("at", "a", "b"))


def test_a_training_window_ends_with_the_newest_training_row_where_labels_arrive_late() -> None:
    @ml.training_set(columns=["x"], features=[], label="y", event_timestamp="at", label_known_at="known", split=ml.TimeSplit(holdout=DAY))
    def examples(events: pl.LazyFrame) -> pl.LazyFrame:
        return events

    at = times(range(0, 24 * 120, 24)).alias("at")
    rows = pl.DataFrame([at, at.dt.offset_by("30d").alias("known")]).with_columns(pl.lit("train").alias(SPLIT))
    found, facts = choose_rows(rows, examples, window=7 * DAY, judge_on=15 * DAY, with_validation=False, with_refit=False)
    train, holdout = (found.filter(pl.col(SPLIT) == part)["at"] for part in ("train", "holdout"))
    assert train.max() + 30 * DAY <= holdout.min()
    assert (train.len(), train.max() - train.min()) == (7, 6 * DAY)
    assert apply_choice(rows, "at", facts).equals(found)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 60), min_size=400, max_size=400), st.integers(2, 3), st.one_of(st.none(), st.integers(1, 5)))
def test_a_stored_split_costs_candidates_and_refits_no_row(delays, judged, window) -> None:
    @ml.training_set(
        columns=["x"], features=[], label="y", event_timestamp="at", label_known_at="known", split=ml.TimeSplit(holdout=4 * DAY)
    )
    def examples(events: pl.LazyFrame) -> pl.LazyFrame:
        return events

    at = times(range(400)).alias("at")
    rows = pl.DataFrame([at, times(hour + delay for hour, delay in zip(range(400), delays, strict=True)).alias("known")])
    stored = rows.with_columns(assign_parts(rows, examples).alias(SPLIT)).drop_nulls(SPLIT)
    span = None if window is None else window * DAY
    found, facts = choose_rows(stored, examples, window=span, judge_on=judged * DAY, with_validation=False, with_refit=True)
    end = at.max() + timedelta(microseconds=1)
    usable = rows.filter(pl.col("known") < end - judged * DAY)["at"]  # so that the holdout judges
    usable = usable if span is None else usable.filter(usable > usable.max() - span)
    assert found.filter(pl.col(SPLIT) == "train")["at"].to_list() == usable.to_list()
    refitted = choose_refit_rows(stored, "at", facts)["at"]
    newest = at if span is None else at.filter(at >= end - span)
    assert refitted.to_list() == newest.to_list()


def test_a_row_whose_label_is_not_known_is_in_no_part_and_ends_no_holdout() -> None:
    at = times(range(0, 240, 12))
    known = pl.Series([None if number % 3 == 0 or number > 17 else time for number, time in enumerate(at)], dtype=at.dtype)
    split = split_by_time(at, known, validation=None, holdout=DAY)
    assert [part is None for part in split] == [time is None for time in known]
    assert split.to_list()[14:18] == ["train", None, "holdout", "holdout"]


def test_a_refit_that_was_recorded_by_the_earlier_rule_has_its_rows_again() -> None:
    rows = pl.DataFrame([times(range(0, 240, 12)).alias("at"), pl.Series(SPLIT, ["train"] * 16 + ["gap"] * 2 + ["holdout"] * 2)])
    first = rows["at"][10].isoformat()
    assert choose_refit_rows(rows, "at", {"train_from": first, "train_window": 86400.0})["at"].to_list() == [
        *rows["at"][10:16],
        *rows["at"][18:],
    ]
    assert choose_refit_rows(rows, "at", {}).equals(rows)
