"""Bad input: nothing half-written, the earlier data readable, and a message that names asset, partition, column, row and rule."""

import itertools
import os
import random
from datetime import UTC, datetime, timedelta

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.window import TimeWindow, window_of
from tests.commands import warm_context
from tests.conftest import metadata, records
from tests.projects import meters

READINGS = "dataset/readings"
DAY = "2024-01-02"
NEW_YORK = "America/New_York"


class Given:
    """One dataset whose function returns what a test says."""

    def __init__(self, run, platform, **declared) -> None:
        self.platform, self.rows = platform, meters.as_frame(meters.good(1))
        given = self

        @ml.dataset(**{"partitions": meters.DAILY, "key": "reading", "event_timestamp": "at"} | declared)
        def readings(window: ml.TimeWindow) -> pl.DataFrame:
            return given.rows(window) if callable(given.rows) else given.rows

        self.runner = run(ml.build_definitions([readings], platform=platform))
        self.runner(READINGS, partitions=DAY)
        self.good = open_stores(platform).lake.read(READINGS)

    def refusal(self, rows, partition: str = DAY) -> str:
        """Return the message with which rows are refused, after a look at what is left."""
        self.rows = rows
        lake = open_stores(self.platform).lake
        before, snapshot = records(self.platform, READINGS), lake.snapshot()
        message = self.runner.error(READINGS, partitions=partition)
        assert lake.snapshot() == snapshot
        assert records(self.platform, READINGS) == before
        assert lake.read(READINGS).equals(self.good)
        assert "'dataset/readings'" in message
        assert "Hint: " in message
        return message


@pytest.fixture
def given(run, platform) -> Given:
    return Given(run, platform)


def good(**change: pl.Expr) -> pl.DataFrame:
    return meters.as_frame(meters.good(1)).with_columns(**change)


def pandas(**change) -> pd.DataFrame:
    return good().to_pandas().assign(**change)


AT = pl.col("at")
NTH = pl.int_range(24)
CASES = {
    "a key twice": (
        lambda: good(reading=pl.when(NTH == 7).then(pl.lit("1-3")).otherwise("reading")),
        "partition '2024-01-02': the key {'reading': '1-3'} is on 2 rows; the first bad row is number 4 (reading='1-3'), partition '2024-01-02'",
        "deduplicate, or add the column that distinguishes them to key=",
    ),
    "no key": (
        lambda: good(reading=pl.when(NTH != 5).then("reading")),
        "column 'reading' is part of the key and null in 1 row(s); the first bad row is number 6",
        "drop or repair rows without a key",
    ),
    "a key through floats": (
        lambda: pandas(reading=[None, *map(float, range(23))]),
        "column 'reading' is part of the key and a float: whole numbers above 2^53 and leading zeros are lost in floats",
        "in pandas, as 'Int64' or 'string', which keep nulls without floats",
    ),
    "a time of another day": (
        lambda: good(at=AT + timedelta(hours=3)),
        "column 'at': 3 row(s) lie outside of partition(s) '2024-01-02'; the first at 2024-01-03T00:00:00+00:00; the first bad row is number 22 (reading='1-21')",
        "check the time zone of the partitions",
    ),
    "a time in the far future": (lambda: good(at=AT.dt.offset_by("900y")), "24 row(s) lie outside of partition(s) '2024-01-02'", "window"),
    "a time before 1900": (lambda: good(at=AT.dt.offset_by("-200y")), "24 row(s) lie outside of partition(s) '2024-01-02'", "window"),
    "no time": (
        lambda: good(at=pl.when(NTH != 5).then("at")),
        "column 'at' is null in 1 row(s); the first bad row is number 6",
        "drop or repair rows without a time",
    ),
    "a time without a zone": (lambda: good(at=AT.dt.replace_time_zone(None)), "column 'at' has type Datetime(time_unit='us', time_zone=None), not a time in UTC", "replace_time_zone"),
    "pandas times with and without a zone": (
        lambda: pandas(at=pd.Series([datetime(2024, 1, 2, tzinfo=UTC)] * 4 + [datetime(2024, 1, 2)] * 20, dtype=object)),
        "returned column 'at' whose row 5 is a time without a time zone (datetime.datetime(2024, 1, 2, 0, 0)), but row 1 is a time with a time zone",
        "pd.to_datetime(frame['at'], utc=True)",
    ),
    "pandas text among numbers": (
        lambda: pandas(value=pd.Series([1] * 20 + ["two"] * 4, dtype=object)),
        "returned column 'value' whose row 21 is text ('two'), but row 1 is a whole number",
        "pd.to_numeric(frame['value'])",
    ),
    "pandas bytes": (
        lambda: pandas(meter=pd.Series([b"caf\xe9"] * 24, dtype=object)),
        "returned column 'meter' whose row 1 is bytes: b'caf\\xe9'",
        ".str.decode('utf-8')",
    ),
    "pandas text that is not UTF-8": (
        lambda: pandas(meter=pd.Series(["north"] * 3 + [b"caf\xe9".decode("utf-8", "surrogateescape")] * 21, dtype=object)),
        "returned column 'meter' whose row 4 is text that is not UTF-8: 'caf\\udce9'",
        "read the file with its own encoding=",
    ),
    "pandas whole numbers above 2^53 that a null made floats": (
        lambda: pandas(value=[None, *[float(2**53 + i) for i in range(23)]]),
        "returned column 'value' whose row 2 is 9007199254740992 as a float: whole numbers above 2^53 lose their last digits",
        "read the column as 'Int64' or 'string'",
    ),
    "a pandas index with the key": (
        lambda: pandas().set_index("reading"),
        ": the pandas frame has an index of its own (Index named reading, the first value is '1-0'), which would be lost",
        ".reset_index()",
    ),
    "a pandas index of several columns": (lambda: pandas().groupby(["reading", "at"]).max(), "MultiIndex named reading, at", ".reset_index()"),
    "a pandas frame after a filter": (lambda: pandas().iloc[[4, 5, 9]], "Index without a name, the first value is 4", ".reset_index(drop=True)"),
    "two pandas columns of one name": (lambda: pd.concat([pandas(), pandas()[["value"]]], axis=1), "returned two columns named 'value'", "rename one"),
    "two SQL columns of one name": (lambda: duckdb.sql("SELECT 1 AS a, 2 AS b, 3 AS a"), "returned two columns named 'a'", "rename one of them in SELECT"),
    "a pandas column without a name": (lambda: pd.concat([pandas(), pd.Series([1] * 24)], axis=1), "returned a column named 0, which is not text", "name every"),
    "a renamed column": (lambda: good().rename({"reading": "readings"}), "column 'reading' is missing", "did you mean 'readings'?"),
    "an empty partition": (lambda: good().clear(), "partition '2024-01-02' has no row", "set allow_empty=True"),
    "a time of day": (lambda: good(opens=AT.dt.time()), "column 'opens' has type Time, which the lake cannot hold", "pl.col('opens').cast(pl.String)"),
    "a list of durations": (
        lambda: good(waits=pl.concat_list(AT - AT)),
        "column 'waits' has type List(Duration(time_unit='us')), which the lake cannot hold, because of the Duration(time_unit='us') inside it",
        "dt.total_seconds()",
    ),
    "a number of 128 bits": (lambda: good(value=pl.lit(1).cast(pl.Int128)), "column 'value' has type Int128", "pl.col('value').cast(pl.Int64)"),
    "names that differ in case": (lambda: good(Meter=pl.lit(1)), "the columns 'meter' and 'Meter' differ only in case", "rename one of them"),
    "two times that are one in microseconds": (
        lambda: good(reading=pl.lit("same"), at=AT.cast(pl.Datetime("ns", "UTC")).dt.truncate("1h").dt.offset_by("800ns")),
        "the key {'reading': 'same'} is on 24 rows",
        "deduplicate",
    ),
    "text with a NUL": (lambda: good(meter=pl.lit("a\x00b")), "column 'meter' holds text with a NUL character", "remove it"),
    "no frame": (lambda: 7, "returned int, not a frame", "return a polars, pandas or DuckDB frame"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_rows_are_refused_with_their_place_and_the_earlier_ones_stay(given, case) -> None:
    make, words, hint = CASES[case]
    message = given.refusal(make())
    assert words in message
    assert hint in message.split("Hint: ")[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": pl.lit("x")}, "column 'value' breaks dtype('Float64')"),
        ({"meter": pl.lit("west")}, "column 'meter' breaks isin(['north', 'south', 'east']): first bad value 'west' (24 of 24 rows)"),
        (
            {"value": -pl.col("value")},
            "greater_than_or_equal_to(0): first bad value -1.0 (23 of 24 rows); the first bad row is number 2 (reading='1-1')",
        ),
    ],
)
def test_a_broken_schema_names_the_first_bad_row(run, platform, change, words) -> None:
    assert words in Given(run, platform, schema=meters.Reading).refusal(good(**change))


def test_a_renamed_column_of_a_schema_is_guessed(run, platform) -> None:
    message = Given(run, platform, schema=meters.Reading).refusal(good().rename({"value": "Value"}))
    assert "column 'value' is missing" in message
    assert "did you mean 'Value'?" in message


def test_a_second_column_of_times_without_a_zone_is_refused(run, platform) -> None:
    late = Given(run, platform, created_timestamp="at")
    assert late.good.height == 24

    @ml.dataset(partitions=meters.DAILY, key="reading", event_timestamp="at", known_at={"value": "seen"})
    def readings(window: ml.TimeWindow) -> pl.DataFrame:
        return good(seen=AT.dt.replace_time_zone(None))

    message = run(ml.build_definitions([readings], platform=platform)).error(READINGS, partitions=DAY)
    assert "column 'seen' has type Datetime(time_unit='us', time_zone=None), not a time in UTC as the event time" in message


def test_two_feature_rows_of_one_time_are_refused_unless_one_became_known_later(run, platform) -> None:
    twice = pl.concat([good().head(2), good(value=pl.lit(5.0)).head(1)]).with_columns(seen=AT + pl.int_range(3) * timedelta(minutes=1))

    @ml.dataset(partitions=meters.DAILY, event_timestamp="at")
    def readings(window: ml.TimeWindow) -> pl.DataFrame:
        return twice

    def view(**more) -> ml.FeatureView:
        return ml.FeatureView(source=readings, entity=ml.Entity("meter"), event_timestamp="at", features={"value": float}, **more)

    runner = run(ml.build_definitions([readings, view()], platform=platform))
    message = runner.error(READINGS, "features/readings", partitions=DAY)
    assert "'features/readings' partition '2024-01-02': the key {'meter': 'north', 'at': '2024-01-02T00:00:00" in message
    assert "is on 2 rows; the first bad row is number 1" in message
    assert "or in a feature view to created_timestamp=: the row that became known last then counts" in message
    run(ml.build_definitions([readings, view(created_timestamp="seen")], platform=platform))("features/readings", partitions=DAY)


def test_rows_out_of_order_are_the_same_rows_and_late_ones_are_added(given, platform) -> None:
    before = records(platform, READINGS)
    rows = meters.good(1)
    random.Random(1).shuffle(rows)
    given.rows = meters.as_frame(rows)
    given.runner(READINGS, partitions=DAY)
    assert records(platform, READINGS) == before
    given.rows = pl.concat([meters.as_frame(rows), good(reading=pl.lit("late")).head(1)])
    given.runner(READINGS, partitions=DAY)
    assert open_stores(platform).lake.read(READINGS).height == 25


def test_times_of_an_unpartitioned_table_lie_after_1900_and_not_in_the_future(run, platform) -> None:
    given = {"at": datetime.now(UTC)}

    def declared(**more):
        @ml.dataset(key="id", event_timestamp="at", **more)
        def events() -> pl.DataFrame:
            return pl.DataFrame({"id": ["a"], "at": pl.Series([given["at"]], dtype=pl.Datetime("us", "UTC"))})

        return run(ml.build_definitions([events], platform=platform))

    declared()("dataset/events")
    snapshot = open_stores(platform).lake.snapshot()
    given["at"] = datetime(1899, 12, 31, tzinfo=UTC)
    message = declared().error("dataset/events")
    assert (
        "column 'at': 1 row(s) lie before 1900; the first at 1899-12-31T00:00:00+00:00; the first bad row is number 1 (id='a')" in message
    )
    assert "Hint: a missing time is null" in message
    given["at"] = datetime.now(UTC) + timedelta(days=2)
    assert "column 'at': 1 row(s) lie more than 1 day, 0:00:00 after now" in declared().error("dataset/events")
    assert "Hint: check the clock, the century" in declared().error("dataset/events")
    assert open_stores(platform).lake.snapshot() == snapshot
    declared(max_future=timedelta(days=3))("dataset/events")
    given["at"] = datetime(2999, 1, 1, tzinfo=UTC)
    declared(max_future=None)("dataset/events")


def test_columns_without_a_value_and_constant_ones_are_kept_with_their_type(given, platform) -> None:
    given.rows = good(value=pl.lit(None), meter=pl.lit("north"))
    given.runner(READINGS, partitions=DAY)
    assert open_stores(platform).lake.read(READINGS).schema == given.good.schema
    assert open_stores(platform).lake.read(READINGS)["value"].null_count() == 24


def test_a_column_that_began_without_a_value_takes_the_type_of_the_first_one(given, platform) -> None:
    given.rows = meters.as_frame(meters.good(2)).with_columns(note=pl.lit(None))
    given.runner(READINGS, partitions="2024-01-03")
    given.rows = good(note=pl.lit("text"))
    given.runner(READINGS, partitions=DAY)
    assert set(open_stores(platform).lake.read(READINGS)["note"].to_list()) == {None, "text"}


def test_a_type_that_has_changed_is_refused_unless_every_recorded_partition_is_made_again(given, platform) -> None:
    given.rows = meters.as_frame(meters.good(2))
    given.runner(READINGS, partitions="2024-01-03")
    given.good = open_stores(platform).lake.read(READINGS)
    change = pl.col("value").cast(pl.String)
    message = given.refusal(good(value=change))
    assert "column 'value' is Float64 in the lake and String in the new rows" in message
    assert "a run over all recorded partitions at once replaces the type" in message
    both = pl.concat([good(value=change), meters.as_frame(meters.good(2)).with_columns(value=change)])
    given.rows = lambda window: both.filter(pl.col("at").is_between(window.start, window.end, closed="left"))
    result = given.runner(READINGS, partitions=f"{DAY}...2024-01-03")
    assert metadata(result, READINGS)["columns changed"] == "column 'value' was Float64 and is now String"
    assert open_stores(platform).lake.read(READINGS).schema["value"] == pl.String


def test_keys_are_compared_in_microseconds_and_what_is_cut_is_counted(run, platform) -> None:
    at = pl.Series([0, 800, 2_000]).cast(pl.Datetime("ns", "UTC"))
    rows = [pl.DataFrame({"at": at[[0, 2]], "finer": at[[1, 2]]}), pl.DataFrame({"at": at, "finer": at})]

    @ml.dataset(key="at", event_timestamp="at")
    def ticks() -> pl.DataFrame:
        return rows.pop(0)

    runner = run(ml.build_definitions([ticks], platform=platform))
    assert metadata(runner("dataset/ticks"), "dataset/ticks")["times cut to microseconds"] == "1 in 'finer' (of 2 rows)"
    assert "the key {'at': '1970-01-01T00:00:00+00:00'} is on 2 rows" in runner.error("dataset/ticks")


def test_a_time_of_day_fails_its_own_asset_and_the_others_are_made(run, platform) -> None:
    @ml.dataset()
    def shops() -> duckdb.DuckDBPyRelation:
        return duckdb.sql("SELECT TIME '08:30' AS opens")

    @ml.dataset()
    def others() -> pl.DataFrame:
        return pl.DataFrame({"x": [1]})

    result = run(ml.build_definitions([shops, others], platform=platform))("dataset/shops", "dataset/others", ok=False)
    assert not result.success
    assert open_stores(platform).lake.read("dataset/others").rows() == [(1,)]
    assert open_stores(platform).lake.schema("dataset/shops") == {}


@pytest.mark.parametrize(
    "returned", [lambda frame: frame, lambda frame: frame.to_pandas(), lambda frame: duckdb.from_arrow(frame.to_arrow())]
)
def test_large_identifiers_and_leading_zeros_come_back_exactly_from_every_kind_of_frame(run, platform, returned) -> None:
    rows = pl.DataFrame({"id": [2**53 + 1, 2**63 - 1, -(2**53) - 1], "code": ["007", "0", "00"]})

    @ml.dataset(key="id")
    def codes() -> pd.DataFrame:
        return returned(rows)

    run(ml.build_definitions([codes], platform=platform))("dataset/codes")
    assert open_stores(platform).lake.read("dataset/codes").sort("id").equals(rows.sort("id"))


def test_nullable_pandas_integers_are_exact_and_floats_with_nulls_pass_where_nothing_was_lost(run, platform) -> None:
    frame = pd.DataFrame(
        {"id": ["a", "b", "c"], "n": pd.array([2**53 + 1, None, 1], dtype="Int64"), "x": [1.5, None, 1e300], "m": [None, 2.0, 3.0]}
    )

    @ml.dataset(key="id")
    def numbers() -> pd.DataFrame:
        return frame

    run(ml.build_definitions([numbers], platform=platform))("dataset/numbers")
    found = open_stores(platform).lake.read("dataset/numbers").sort("id")
    assert found["n"].to_list() == [2**53 + 1, None, 1]
    assert found["x"].to_list() == [1.5, None, 1e300]


def test_every_instant_of_the_days_on_which_clocks_change_lies_in_exactly_one_partition() -> None:
    for definition in (
        dg.DailyPartitionsDefinition("2024-03-08", end_date="2024-11-06", timezone=NEW_YORK),
        dg.HourlyPartitionsDefinition("2024-03-09-00:00", end_date="2024-11-05-00:00", timezone=NEW_YORK),
    ):
        windows = [window_of(definition, key) for key in definition.get_partition_keys()]
        assert all(before.end == after.start for before, after in itertools.pairwise(windows))
    lengths = {w.end - w.start for w in windows}
    assert lengths == {timedelta(hours=1)}


def test_the_hour_that_repeats_and_the_one_that_is_missing_lose_no_row(run, platform) -> None:
    daily = dg.DailyPartitionsDefinition("2024-03-09", end_date="2024-11-06", timezone=NEW_YORK)

    def instants(start: datetime, hours: int) -> pl.DataFrame:
        return pl.DataFrame(
            {"at": pl.Series([start + timedelta(minutes=30 * i) for i in range(2 * hours)], dtype=pl.Datetime("us", "UTC"))}
        )

    @ml.dataset(partitions=daily, key="at", event_timestamp="at")
    def ticks(window: ml.TimeWindow) -> pl.DataFrame:
        return instants(window.start, round((window.end - window.start) / timedelta(hours=1)))

    runner = run(ml.build_definitions([ticks], platform=platform))
    for day, hours in (("2024-03-10", 23), ("2024-11-03", 25), ("2024-11-04", 24)):
        runner("dataset/ticks", partitions=day)
        assert open_stores(platform).lake.records("dataset/ticks")[day].rows == 2 * hours
    local = open_stores(platform).lake.read("dataset/ticks")["at"].dt.convert_time_zone(NEW_YORK)
    assert local.filter((local.dt.date() == datetime(2024, 11, 3).date()) & (local.dt.hour() == 1)).len() == 4
    assert local.filter((local.dt.date() == datetime(2024, 3, 10).date()) & (local.dt.hour() == 2)).len() == 0


def test_local_times_of_the_hour_that_repeats_cannot_be_made_utc_by_a_guess() -> None:
    local = pl.Series([datetime(2024, 11, 3, 1, 30)])
    with pytest.raises(pl.exceptions.ComputeError, match="ambiguous"):
        local.dt.replace_time_zone(NEW_YORK)
    with pytest.raises(pl.exceptions.ComputeError, match="non-existent"):
        pl.Series([datetime(2024, 3, 10, 2, 30)]).dt.replace_time_zone(NEW_YORK)


def test_a_file_read_for_two_partitions_warns_of_the_keys_that_both_have(given, platform) -> None:
    given.rows = good(at=AT + timedelta(days=1))
    result = given.runner(READINGS, partitions="2024-01-03")
    found = next(e for e in result.get_asset_check_evaluations() if e.check_name == "key_across_partitions")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (
        "24 key(s) of partition(s) '2024-01-03' are in other partitions as well; the first: {'reading': '1-0'}, also at 2024-01-02"
        in found.description
    )
    assert "if a file was read twice" in found.description
    given.rows = good(reading="new-" + pl.col("reading"), at=AT + timedelta(days=1))
    again = given.runner(READINGS, partitions="2024-01-03")
    assert next(e for e in again.get_asset_check_evaluations() if e.check_name == "key_across_partitions").passed


def test_reading_a_missing_partition_names_it(run, platform) -> None:
    [readings] = meters.nouns(meters.World())

    @ml.dataset(partitions=meters.DAILY, key="at", event_timestamp="at")
    def hours(window: ml.TimeWindow, readings: pl.DataFrame) -> pl.DataFrame:
        return readings.select("at")

    runner = run(ml.build_definitions([readings, hours], platform=platform))
    assert "'dataset/hours' reads 'dataset/readings', which cannot be read: the lake has no table" in runner.error(
        "dataset/hours", partitions=DAY
    )
    runner(READINGS, partitions="2024-01-01")
    assert "'dataset/hours' partition '2024-01-02': partition '2024-01-02' has no row" in runner.error("dataset/hours", partitions=DAY)


WINDOW = TimeWindow(datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC))


def _write(folder: str, value: float, barrier) -> None:
    lake = DuckLake.open(folder)
    lake.snapshot()
    for round_ in range(6):
        barrier.wait(60)
        rows = good(value=pl.lit(value + round_), reading=pl.format("{}-{}", pl.lit(str(value)), NTH)).head(10 + int(value))
        lake.write(
            READINGS, rows, [Partition(DAY, WINDOW)], event_timestamp="at", key=["reading"], run_id=f"{value}-{round_}-{os.getpid()}"
        )


def test_two_writers_on_one_partition_both_end_and_one_whole_state_wins(tmp_path) -> None:
    folder, context = str(tmp_path / "lake"), warm_context()
    barrier = context.Barrier(2)
    writers = [context.Process(target=_write, args=(folder, value, barrier)) for value in (1.0, 3.0)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(240)
    assert [writer.exitcode for writer in writers] == [0, 0]
    lake = DuckLake.open(folder)
    rows, record = lake.read(READINGS), lake.records(READINGS)[DAY]
    assert rows["value"].n_unique() == 1
    winner = 1.0 if rows.height == 11 else 3.0
    assert rows.height == 10 + int(winner) == record.rows
    assert record.run_id.startswith(f"{winner}-5-")
    for snapshot in range(1, lake.snapshot() + 1):  # no state in between was mixed either
        seen = lake.read(READINGS, snapshot=snapshot)
        assert (seen["value"].n_unique(), seen.height in {11, 13}) == (1, True)
