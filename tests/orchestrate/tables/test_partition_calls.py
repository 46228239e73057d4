"""A function is called once for each partition; one call for a range is asked for by name and loses no partition."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlops_assets as ml
from mlops_assets.errors import DataError, DefinitionError
from mlops_assets.orchestrate.tables import backfill
from mlops_assets.orchestrate.tables.partition_calls import stack_frames
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import metadata, records

DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-10")
DAYS = list(DAILY.get_partition_keys())
WHOLE = f"{DAYS[0]}...{DAYS[-1]}"
TIMES = pl.Datetime("us", "UTC")


def one_row_a_shop(window: ml.TimeWindow) -> pl.DataFrame:
    """Return what a function that was written for one day returns."""
    made = [{"shop": shop, "as_of": window.start, "visits": window.start.day} for shop in "abc"]
    return pl.DataFrame(made, schema_overrides={"as_of": TIMES})


def rows_of(platform: ml.Platform, table: str) -> dict[str, int]:
    return {key: record.rows for key, record in open_stores(platform).lake.records(table).items()}


@pytest.mark.parametrize("allow_empty", [True, False])
def test_a_function_written_for_a_day_makes_each_day_of_a_range(run, platform, allow_empty) -> None:
    @ml.dataset(partitions=DAILY, key=("shop", "as_of"), event_timestamp="as_of", allow_empty=allow_empty)
    def shops(window: ml.TimeWindow) -> pl.DataFrame:
        return one_row_a_shop(window)

    @ml.feature_view(entity=ml.Entity("shop"), event_timestamp="as_of", features={"visits": int}, partitions=DAILY)
    def busy(window: ml.TimeWindow) -> pl.DataFrame:
        return one_row_a_shop(window)

    runner = run(ml.build_definitions([shops, busy], platform=platform))
    runner("dataset/shops", "features/busy", partitions=WHOLE)
    assert rows_of(platform, "dataset/shops") == rows_of(platform, "features/busy") == dict.fromkeys(DAYS, 3)


def test_a_range_and_single_partitions_make_the_same_content(run, tmp_path) -> None:
    before = dg.TimeWindowPartitionMapping(start_offset=-2, end_offset=0)
    made = []
    for partitions in ([f"{DAYS[0]}...{DAYS[4]}"], DAYS[:5]):
        platform = ml.Platform.at(tmp_path / str(len(partitions)))

        @ml.dataset(partitions=DAILY, key=("shop", "as_of"), event_timestamp="as_of")
        def shops(window: ml.TimeWindow) -> pl.DataFrame:
            return one_row_a_shop(window)

        @ml.dataset(partitions=DAILY, key=("shop", "as_of"), event_timestamp="as_of", partition_mappings={"shops": before})
        def recent(window: ml.TimeWindow, shops: pl.DataFrame) -> pl.DataFrame:
            return shops.group_by("shop").agg(visits=pl.col("visits").sum()).with_columns(as_of=pl.lit(window.start, TIMES))

        runner = run(ml.build_definitions([shops, recent], platform=platform))
        for keys in partitions:
            runner("dataset/shops", partitions=keys)
        for keys in partitions:
            runner("dataset/recent", partitions=keys)
        made.append(records(platform, "dataset/recent"))
    assert made[0] == made[1]
    assert len(made[0]) == 5


def test_one_call_for_a_range_that_loses_days_is_refused(run, platform) -> None:
    days = {"day": True}

    @ml.dataset(partitions=DAILY, key=("shop", "as_of"), event_timestamp="as_of", allow_empty=True, call_per="range")
    def shops(window: ml.TimeWindow) -> pl.DataFrame:
        count = (window.end - window.start).days if days["day"] else 1
        return pl.concat([one_row_a_shop(ml.TimeWindow(window.start + timedelta(days=d), window.end)) for d in range(count)])

    runner = run(ml.build_definitions([shops], platform=platform))
    whole = runner("dataset/shops", partitions=f"{DAYS[0]}...{DAYS[9]}")
    assert metadata(whole, "dataset/shops")["dagster/row_count"] == 30
    before, days["day"] = records(platform, "dataset/shops"), False
    message = runner.error("dataset/shops", partitions=f"{DAYS[0]}...{DAYS[9]}")
    assert "partition '2024-01-02' has 3 row(s) and would have none" in message
    assert "8 other partition(s), the last '2024-01-10'" in message
    assert "call_per='range'" in message
    assert records(platform, "dataset/shops") == before
    runner("dataset/shops", partitions=DAYS[1])


def test_one_call_for_a_range_of_a_view_that_loses_days_is_refused(run, platform, monkeypatch) -> None:
    monkeypatch.setattr(backfill, "CHUNK_SIZE", 5)
    every = [True]

    @ml.feature_view(entity=ml.Entity("shop"), event_timestamp="as_of", features={"visits": int}, partitions=DAILY, call_per="range")
    def busy(window: ml.TimeWindow) -> pl.DataFrame:
        count = (window.end - window.start).days if every[0] else 1
        return pl.concat([one_row_a_shop(ml.TimeWindow(window.start + timedelta(days=d), window.end)) for d in range(count)])

    runner = run(ml.build_definitions([busy], platform=platform))
    runner("features/busy", partitions=f"{DAYS[0]}...{DAYS[9]}")
    every[0] = False
    message = runner.error("features/busy", partitions=f"{DAYS[0]}...{DAYS[9]}")
    assert "partition '2024-01-02' has 3 row(s) and would have none" in message
    assert rows_of(platform, "features/busy") == dict.fromkeys(DAYS[:10], 3)


def test_a_row_of_another_partition_of_the_run_is_refused_as_in_a_run_of_one(run, platform) -> None:
    @ml.dataset(partitions=DAILY, key=("shop", "as_of"), event_timestamp="as_of")
    def shops(window: ml.TimeWindow) -> pl.DataFrame:
        late = timedelta(days=window.start.day == 3)
        return one_row_a_shop(window).with_columns(as_of=pl.col("as_of") + late)

    runner = run(ml.build_definitions([shops], platform=platform))
    for partitions in (DAYS[2], f"{DAYS[0]}...{DAYS[5]}"):
        message = runner.error("dataset/shops", partitions=partitions)
        assert "3 row(s) lie outside of partition(s) '2024-01-03'; the first at 2024-01-04T00:00:00+00:00" in message
    assert records(platform, "dataset/shops") == {}


def test_a_row_of_another_partition_is_set_aside_for_the_partition_of_its_call(run, platform) -> None:
    @ml.dataset(partitions=DAILY, key=("shop", "as_of"), event_timestamp="as_of", quarantine=0.5)
    def shops(window: ml.TimeWindow) -> pl.DataFrame:
        stray = (pl.col("shop") == "b") & (pl.lit(window.start.day) == 3)
        return one_row_a_shop(window).with_columns(as_of=pl.when(stray).then(pl.col("as_of") + timedelta(days=1)).otherwise("as_of"))

    runner = run(ml.build_definitions([shops], platform=platform))
    runner("dataset/shops", partitions=f"{DAYS[0]}...{DAYS[5]}")
    assert rows_of(platform, "dataset/shops") == {**dict.fromkeys(DAYS[:6], 3), DAYS[2]: 2}
    assert rows_of(platform, "quarantine/shops") == {**dict.fromkeys(DAYS[:6], 0), DAYS[2]: 1}


def test_inputs_are_read_once_for_a_chunk_and_committed_once(run, platform, monkeypatch) -> None:
    @ml.dataset(partitions=DAILY, key=("shop", "as_of"), event_timestamp="as_of", call_per="range")
    def shops(window: ml.TimeWindow) -> pl.DataFrame:
        count = (window.end - window.start).days
        return pl.concat([one_row_a_shop(ml.TimeWindow(window.start + timedelta(days=d), window.end)) for d in range(count)])

    calls = []

    @ml.feature_view(entity=ml.Entity("shop"), event_timestamp="as_of", features={"visits": int}, partitions=DAILY)
    def busy(window: ml.TimeWindow, shops: pl.LazyFrame) -> pl.LazyFrame:
        calls.append(window.start)
        return shops

    runner = run(ml.build_definitions([shops, busy], platform=platform))
    runner("dataset/shops", partitions=WHOLE)
    lake = open_stores(platform).lake
    reads, snapshots = [], lake.snapshot()
    read = type(lake).read
    monkeypatch.setattr(type(lake), "read", lambda self, table, **more: reads.append(table) or read(self, table, **more))
    runner("features/busy", partitions=WHOLE)
    assert len(calls) == len(DAYS)
    assert reads.count("dataset/shops") <= 2
    assert lake.snapshot() - snapshots == 2


@pytest.mark.parametrize(
    ("given_", "message"),
    [({"call_per": "ranges", "partitions": DAILY}, "did you mean 'range'"), ({"call_per": "range"}, "call_per='range' but no partitions")],
)
def test_call_per_is_checked_where_it_is_declared(given_, message) -> None:
    with pytest.raises(DefinitionError, match=message):

        @ml.dataset(event_timestamp="as_of", **given_)
        def shops() -> pl.DataFrame:
            return pl.DataFrame()

    with pytest.raises(DefinitionError, match=message):

        @ml.feature_view(entity=ml.Entity("shop"), event_timestamp="as_of", features={"visits": int}, **given_)
        def busy() -> pl.DataFrame:
            return pl.DataFrame()


@given(heights=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_stacking_keeps_every_row_in_order(heights) -> None:
    made = [
        (f"{n}", pl.DataFrame({"a": [n] * height}, schema={"a": pl.Int64 if height else pl.String})) for n, height in enumerate(heights)
    ]
    assert stack_frames(made, "'dataset/x'")["a"].to_list() == [n for n, height in enumerate(heights) for _ in range(height)]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"b": [1], "a": ["x"]}, "column 'a' is Int64 in partition 'one' and String in partition 'two'"),
        ({"a": [1]}, "column 'b' is in partition 'one' and not in partition 'two'"),
        ({"a": [1], "b": [1], "c": [1]}, "column 'c' is in partition 'two' and not in partition 'one'"),
    ],
)
def test_partitions_of_different_shapes_are_refused_by_name(second, message) -> None:
    with pytest.raises(DataError, match=message):
        stack_frames([("one", pl.DataFrame({"a": [1], "b": [1]})), ("two", pl.DataFrame(second))], "'dataset/x'")


def test_a_column_without_values_takes_the_type_of_the_others() -> None:
    made = [("one", pl.DataFrame({"a": [None]})), ("two", pl.DataFrame({"a": [datetime(2024, 1, 1, tzinfo=UTC)]}))]
    assert stack_frames(made, "'dataset/x'").schema["a"] == TIMES
