"""A training set gives each row one label, by the rule by which monitors find labels."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.training.training_labels import ONE_LABEL
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import metadata

START = datetime(2024, 1, 1, tzinfo=UTC)
RIDES = pl.DataFrame({"ride": range(40), "at": [START + timedelta(hours=i) for i in range(40)], "km": [i % 7 for i in range(40)]})
HOURS = timedelta(hours=8)
DECLARED = {"label": "late", "columns": ["km"], "split": ml.TimeSplit(HOURS, HOURS), "event_timestamp": "at"}


@ml.dataset(key="ride", event_timestamp="at")
def rides() -> pl.DataFrame:
    return RIDES


def result_of(run, platform, spine: pl.DataFrame, *more, ok: bool = True):
    """Make a training set of a spine, and return what the check found."""

    @ml.training_set(**DECLARED)
    def examples(rides: pl.DataFrame) -> pl.DataFrame:
        return spine

    runner = run(ml.build_definitions([rides, examples, *more], platform=platform))
    result = runner("dataset/rides", "training_set/examples", ok=ok)
    check = next(e for e in result.get_asset_check_evaluations() if e.check_name == ONE_LABEL)
    assert check.passed is ok
    return check, result


LABELLED = RIDES.with_columns(late=pl.col("km") > 3)
DOUBLED = RIDES.join(pl.DataFrame({"ride": [*range(40), 5, 9], "late": [False] * 40 + [True, True]}), on="ride")


def test_a_join_that_gives_a_key_two_labels_is_refused_and_nothing_is_written(run, platform) -> None:
    check, _ = result_of(run, platform, DOUBLED, ok=False)
    assert "2 key(s) have more than one label 'late'; the first: {'ride': 5} has False and True" in check.description
    assert "a join duplicates rows" in check.description
    assert open_stores(platform).lake.schema("training_set/examples") == {}


def test_repeated_rows_with_one_label_are_counted(run, platform) -> None:
    check, result = result_of(run, platform, pl.concat([LABELLED, LABELLED.head(3)]))
    assert (check.metadata["repeated rows"].value, check.metadata["keys"].value) == (3, 40)
    assert metadata(result, "training_set/examples")["repeated rows"] == 3


def test_a_spine_without_the_key_says_that_it_was_not_judged(run, platform) -> None:
    check, _ = result_of(run, platform, LABELLED.drop("ride"))
    assert "key column 'ride'" in check.metadata["not judged"].value


@pytest.mark.parametrize("doubled", [False, True])
def test_snapshots_of_one_customer_at_several_times_have_a_label_each(run, platform, doubled) -> None:
    @ml.dataset(key="customer")
    def customers() -> pl.DataFrame:
        return pl.DataFrame({"customer": ["a", "b"], "km": [1, 2]})

    @ml.training_set(**DECLARED)
    def examples(customers: pl.DataFrame) -> pl.DataFrame:
        months = RIDES.select("at", late=pl.col("km") > 3)
        rows = customers.join(months, how="cross")
        return pl.concat([rows, rows.head(1).with_columns(late=~pl.col("late"))]) if doubled else rows

    runner = run(ml.build_definitions([customers, examples], platform=platform))
    runner("dataset/customers", "training_set/examples", ok=not doubled)
