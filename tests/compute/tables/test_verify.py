"""Rules on rows: each failure names the column, the first bad value and the rule."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import pandera.polars as pa
import polars as pl
import pytest

from mlops_assets.compute.tables.row_rules import find_key_violations
from mlops_assets.compute.tables.verify import check_names, verify
from mlops_assets.values.dataset import Table
from mlops_assets.values.window import TimeWindow

DAY = TimeWindow(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC))
NEXT = TimeWindow(DAY.end, DAY.end + timedelta(days=1))


class Row(pa.DataFrameModel):
    id: str = pa.Field(unique=True)
    at: Annotated[pl.Datetime, "us", "UTC"]
    origin: str = pa.Field(isin=["EWR", "JFK"])
    miles: int = pa.Field(ge=0)


GOOD = pl.DataFrame(
    {"id": ["a", "b"], "at": [DAY.start, DAY.start + timedelta(hours=1)], "origin": ["EWR", "JFK"], "miles": [1, 2]},
    schema_overrides={"at": pl.Datetime("us", "UTC")},
)


class Windows:
    def __init__(self) -> None:
        self.hourly = None


TABLE = Table(schema=Row, key=("id",), event_timestamp="at")


def outcomes(frame: pl.DataFrame, table: Table = TABLE, windows=(("2024-01-01", DAY),)):
    return {o.check: o for o in verify(frame, table, windows)}


def test_good_rows_pass_every_check_in_order() -> None:
    found = verify(GOOD, TABLE, [("2024-01-01", DAY)])
    assert [o.check for o in found] == list(check_names(TABLE)) == ["schema", "key", "event_time"]
    assert all(o.passed for o in found)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (GOOD.with_columns(miles=pl.Series([1, -5])), ["miles", "-5", "greater_than_or_equal_to"]),
        (GOOD.with_columns(origin=pl.Series(["EWR", "XXX"])), ["origin", "XXX", "isin"]),
        (GOOD.with_columns(id=pl.Series(["a", "a"])), ["id", "unique"]),
        (GOOD.drop("origin"), ["origin"]),
        (GOOD.with_columns(pl.col("miles").cast(pl.String)), ["miles"]),
        (GOOD.with_columns(origin=pl.Series(["EWR", None])), ["origin"]),
    ],
)
def test_a_broken_schema_names_column_value_and_rule(bad, words) -> None:
    found = outcomes(bad)["schema"]
    assert not found.passed
    assert [word for word in words if word not in found.message] == []
    assert found.hint


def test_pandera_counts_no_values_that_hashes_prove_distinct(monkeypatch) -> None:
    counted = []
    validate = pa.DataFrameSchema.validate
    monkeypatch.setattr(
        pa.DataFrameSchema,
        "validate",
        lambda schema, *args, **kwargs: counted.append(schema.columns["id"].unique) or validate(schema, *args, **kwargs),
    )
    assert outcomes(GOOD)["schema"].passed
    assert not outcomes(GOOD.with_columns(id=pl.lit("a")))["schema"].passed
    assert counted == [False, True]
    assert Row.to_schema().columns["id"].unique


class Rounded(Row):
    id: int = pa.Field(unique=True, coerce=True)  # type: ignore[assignment]


def test_values_that_are_distinct_until_they_are_coerced_are_not_unique() -> None:
    fractions = GOOD.with_columns(id=pl.Series([1.25, 1.5]))
    assert "unique" in outcomes(fractions, Table(schema=Rounded))["schema"].message
    assert "unique" in outcomes(GOOD.with_columns(id=pl.Series(["1", "01"])), Table(schema=Rounded))["schema"].message


@pytest.mark.parametrize(("key", "distinct"), [(("id",), False), (("id", "miles"), True), (("origin", "miles"), False)])
def test_a_key_of_several_columns_is_distinct_if_one_of_them_differs(key, distinct) -> None:
    frame = pl.DataFrame({"id": ["a", "a", "b"], "miles": [1, None, 1], "origin": ["JFK", "JFK", "JFK"]})
    assert any("is on 2 rows" in v.message for v in find_key_violations(frame, key)) is not distinct


def test_keys_are_whole_and_identify_one_row() -> None:
    assert "null in 1 row" in outcomes(GOOD.with_columns(id=pl.Series(["a", None])))["key"].message
    assert "{'id': 'a'} is on 2 rows" in outcomes(GOOD.with_columns(id=pl.Series(["a", "a"])))["key"].message
    assert "'id' is missing" in outcomes(GOOD.drop("id"))["key"].message


def test_event_times_lie_in_their_partition_and_in_utc() -> None:
    assert (
        "outside of partition(s) '2024-01-01'; the first at 2024-01-03"
        in outcomes(GOOD.with_columns(pl.col("at") + timedelta(days=2)))["event_time"].message
    )
    assert "not a time in UTC" in outcomes(GOOD.with_columns(pl.col("at").dt.replace_time_zone(None)))["event_time"].message
    assert "null in 1 row" in outcomes(GOOD.with_columns(at=pl.when(pl.col("id") == "a").then("at")))["event_time"].message
    end = GOOD.with_columns(at=pl.lit(DAY.end).cast(pl.Datetime("us", "UTC")))
    assert not outcomes(end)["event_time"].passed  # the end of a window is not in it
    assert outcomes(end, windows=[("1", DAY), ("2", NEXT)])["event_time"].passed


def test_an_empty_partition_is_named_unless_it_is_allowed() -> None:
    import dagster as dg

    daily = dg.DailyPartitionsDefinition("2024-01-01")
    table = Table(partitions=daily, event_timestamp="at")
    found = outcomes(GOOD, table, [("2024-01-01", DAY), ("2024-01-02", NEXT)])["not_empty"]
    assert not found.passed
    assert "partition '2024-01-02' has no row" in found.message
    assert outcomes(GOOD, Table(partitions=daily, event_timestamp="at", allow_empty=True), [("1", DAY), ("2", NEXT)])["not_empty"].passed


def test_repeated_keys_are_listed_with_iso_times() -> None:
    table = Table(key=("at",), event_timestamp="at")
    one = outcomes(GOOD.with_columns(at=pl.lit(DAY.start).cast(pl.Datetime("us", "UTC"))), table)["key"].message
    assert one == (
        "the key {'at': '2024-01-01T00:00:00+00:00'} is on 2 rows; "
        "the first bad row is number 1 (at='2024-01-01T00:00:00+00:00'), partition '2024-01-01'"
    )
    rows = pl.concat([GOOD] * 3)
    assert "is on 3 rows, and 1 other key(s) are duplicate too: 6 rows in total" in outcomes(rows, table)["key"].message


def test_the_number_of_a_bad_row_counts_within_its_partition() -> None:
    days = pl.concat([GOOD, GOOD.with_columns(pl.col("at") + timedelta(days=1), miles=pl.Series([3, -1]), id=pl.Series(["c", "d"]))])
    found = outcomes(days, windows=[("2024-01-01", DAY), ("2024-01-02", NEXT)])["schema"].message
    assert found.endswith(
        "(1 of 4 rows); the first bad row is number 2 (id='d'), partition '2024-01-02', which has 1 of 1 such rows in 2 partitions"
    )


def test_empty_partitions_are_reported_with_their_range() -> None:
    import dagster as dg

    windows = [(f"{n}", TimeWindow(DAY.start + timedelta(days=n), DAY.end + timedelta(days=n))) for n in range(9)]
    table = Table(partitions=dg.DailyPartitionsDefinition("2024-01-01"), event_timestamp="at")
    assert "partition '1' has no row, nor have 7 others up to '8'" in outcomes(GOOD, table, windows)["not_empty"].message


def test_a_schema_check_that_fails_in_polars_is_reported_without_the_query_plan() -> None:
    class Checked(pa.DataFrameModel):
        miles: int

        @pa.check("miles")
        def is_short(cls, data: pa.PolarsData) -> pl.LazyFrame:  # noqa: N805  (pandera's form)
            return data.lazyframe.select(pl.col("mile") < 9)

    found = outcomes(GOOD, Table(schema=Checked))["schema"]
    assert "breaks is_short: the check raised ColumnNotFoundError" in found.message
    assert "PROJECT" not in found.message
    assert "FAILED HERE" not in found.message
    assert "did you mean 'miles'?" in found.hint
