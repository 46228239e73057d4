"""Tables of the lake read without Dagster: whole or by partition, of a snapshot, and compared with what was recorded."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition

BASE = datetime(2024, 1, 1, tzinfo=UTC)
TABLE = "dataset/orders"
PARTS = [Partition(f"2024-01-0{day + 1}", ml.TimeWindow(BASE + timedelta(days=day), BASE + timedelta(days=day + 1))) for day in range(4)]


@ml.dataset(partitions=dg.DailyPartitionsDefinition("2024-01-01"), key="id", event_timestamp="at")
def orders(window: ml.TimeWindow) -> pl.DataFrame:
    """Three orders a day."""
    at = [window.start + timedelta(hours=hour) for hour in range(3)]
    return pl.DataFrame({"id": range(3), "at": pl.Series(at, dtype=pl.Datetime("us", "UTC")), "amount": [1.0, 2.0, 3.0]})


@pytest.fixture
def platform(tmp_path) -> ml.Platform:
    made = ml.Platform.at(tmp_path)
    lake = DuckLake.open(made.lake)
    for part in PARTS:
        lake.write(TABLE, orders(part.window), [part], event_timestamp="at", key=["id"])
    lake.write("dataset/shops", pl.DataFrame({"shop": ["a", "b"]}), [Partition("")], key=["shop"])
    return made


def days(frame: pl.DataFrame) -> list[int]:
    return sorted(frame["at"].dt.day().unique().to_list())


def test_a_table_is_read_whole_by_partition_and_by_column(platform) -> None:
    assert ml.read_table("dataset/shops", platform=platform)["shop"].to_list() == ["a", "b"]
    assert days(ml.read_table(TABLE, platform=platform)) == [1, 2, 3, 4]
    assert days(ml.read_table(TABLE, "2024-01-02", platform=platform)) == [2]
    few = ml.read_table(TABLE, ["2024-01-04", "2024-01-01", "2024-01-02"], columns=["amount", "at"], platform=platform)
    assert (days(few), few.columns, few["at"].is_sorted()) == ([1, 2, 4], ["amount", "at"], True)


def test_a_dataset_stands_for_its_table(platform) -> None:
    assert ml.read_table(orders, platform=platform).equals(ml.read_table(TABLE, platform=platform))
    assert days(ml.read_table(orders, "2024-01-03", platform=platform)) == [3]


def test_a_snapshot_keeps_its_rows(platform) -> None:
    lake = DuckLake.open(platform.lake)
    before = lake.snapshot()
    lake.write(TABLE, orders(PARTS[0].window).head(1), [PARTS[0]], event_timestamp="at", key=["id"])
    assert ml.read_table(TABLE, "2024-01-01", platform=platform).height == 1
    assert ml.read_table(TABLE, "2024-01-01", snapshot=before, platform=platform).height == 3


def test_an_expired_snapshot_is_named(platform) -> None:
    lake = DuckLake.open(platform.lake)
    before = lake.snapshot()
    lake.write(TABLE, orders(PARTS[0].window).head(1), [PARTS[0]], event_timestamp="at", key=["id"])
    lake.maintain([], older_than=timedelta(0))
    with pytest.raises(ml.errors.LakeError, match=f"'{TABLE}' cannot be read: snapshot {before} has expired"):
        ml.read_table(TABLE, snapshot=before, platform=platform)


def test_altered_rows_are_an_error_and_only_of_their_partition(platform) -> None:
    cursor = DuckLake.open(platform.lake).connections.cursor()
    cursor.execute("""UPDATE lake."dataset"."orders" SET amount = 9 WHERE id = 1 AND "at" >= '2024-01-02' AND "at" < '2024-01-03'""")
    cursor.execute("""UPDATE lake."dataset"."shops" SET shop = 'c' WHERE shop = 'a'""")
    assert days(ml.read_table(TABLE, ["2024-01-01", "2024-01-03"], platform=platform)) == [1, 3]
    for arguments in ((TABLE,), (TABLE, "2024-01-02"), (orders, "2024-01-02"), ("dataset/shops",)):
        with pytest.raises(ml.errors.ArtifactError, match="does not hold what was recorded"):
            ml.read_table(*arguments, platform=platform)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"table": "dataset/order"}, ml.errors.LakeError, "no table 'dataset/order' in snapshot 5\nHint: did you mean 'dataset/orders'"),
        (
            {"table": TABLE, "partitions": "2024-01-05"},
            ml.errors.LakeError,
            "has no partition '2024-01-05'\nHint: .*it has 2024-01-01 to 2024-01-04",
        ),
        ({"table": "dataset/shops", "partitions": "a"}, ml.errors.LakeError, "has no partition 'a'\nHint: it is not partitioned"),
        (
            {"table": TABLE, "snapshot": 999},
            ml.errors.LakeError,
            f"'{TABLE}' cannot be read: the lake has no snapshot 999\nHint: read the newest snapshot, 5;",
        ),
        ({"table": TABLE, "partitions": []}, ml.DefinitionError, "was given no partition"),
        ({"table": TABLE, "columns": ["amuont"]}, ml.DataError, "has no column 'amuont'\nHint: did you mean 'amount'"),
    ],
)
def test_what_is_not_there_is_named(platform, call, error, message) -> None:
    with pytest.raises(error, match=message):
        ml.read_table(**call, platform=platform)


def test_a_table_of_an_earlier_version_is_read_by_its_declaration(platform) -> None:
    cursor = DuckLake.open(platform.lake).connections.cursor()
    records = cursor.execute('SELECT partition, hashed FROM lake."_mlops"."partitions" WHERE table_name = ?', [TABLE]).fetchall()
    for partition, hashed in records:
        old = json.dumps({name: value for name, value in json.loads(hashed).items() if name in {"key", "columns", "types"}})
        cursor.execute('UPDATE lake."_mlops"."partitions" SET hashed = ? WHERE table_name = ? AND partition = ?', [old, TABLE, partition])
    with pytest.raises(ml.errors.LakeError, match="does not record the span of its partition '2024-01-01'"):
        ml.read_table(TABLE, platform=platform)
    assert days(ml.read_table(orders, ["2024-01-02", "2024-01-04"], platform=platform)) == [2, 4]
