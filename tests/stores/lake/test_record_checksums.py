"""Each record of the lake has a checksum: a changed run id or number of rows is found, and older lakes are read."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.upkeep.doctor_stores import check_records
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.platform.stores import Stores

PEOPLE = pl.DataFrame({"id": [1, 2]})
TABLE, BASE = "dataset/numbers", datetime(2024, 1, 1, tzinfo=UTC)
PARTS = [Partition(f"2024-01-0{day + 1}", ml.TimeWindow(BASE + timedelta(days=day), BASE + timedelta(days=day + 1))) for day in range(3)]


@ml.dataset(key="id")
def people() -> pl.DataFrame:
    """Two rows."""
    return PEOPLE


def write(lake: DuckLake, day: int, value: int = 0) -> None:
    rows = pl.DataFrame({"id": [1], "at": [BASE + timedelta(days=day)], "value": [value]})
    lake.write(TABLE, rows, [PARTS[day]], event_timestamp="at", key=["id"], run_id=f"run-{day}")


@pytest.fixture
def lake(platform) -> DuckLake:
    made = Stores(platform).lake
    for day in range(3):
        write(made, day)
    return made


def change(lake: DuckLake, statement: str) -> None:
    lake.connections.cursor().execute(statement.replace("RECORDS", 'lake."_mlops"."partitions"'))


def test_records_that_nothing_has_changed_are_whole(lake) -> None:
    report = lake.examine_records()
    assert (report.altered, report.intact, report.without_checksum) == ((), 3, 0)


@pytest.mark.parametrize(
    "column",
    [
        "run_id = 'run-9'",
        "row_count = 2",
        "inputs = 'x'",
        "content_hash = 'x'",
        "snapshot = 77",
        "recorded_at = recorded_at + INTERVAL 1 MICROSECOND",
        "hashed = '{}'",
        "checksum = 'x'",
        "checksum = NULL",
    ],
)
def test_an_altered_column_of_one_record_is_found_with_its_file(lake, column) -> None:
    change(lake, f"UPDATE RECORDS SET {column} WHERE partition = '2024-01-02'")
    (found,) = lake.examine_records().altered
    assert (found.record.table, found.record.partition, found.is_latest) == (TABLE, "2024-01-02", True)
    assert found.file.endswith(".parquet")


def test_the_doctor_names_an_altered_record_and_its_fix_has_the_partition_made_again(lake, platform) -> None:
    project = Project.from_items([people])
    lake.write("dataset/people", PEOPLE, [Partition("")], key=["id"])
    change(lake, "UPDATE RECORDS SET run_id = 'other' WHERE table_name = 'dataset/people'")
    (found,) = [finding for finding in check_records(Stores(platform), [project]) if finding.state == "failure"]
    assert found.text.startswith("the record of 'dataset/people' of 20")
    assert ".parquet'" in found.text
    assert "marked the partition of 'dataset/people' as damaged" in found.fix()
    assert lake.records("dataset/people")[""].damaged
    lake.write("dataset/people", PEOPLE, [Partition("")], key=["id"])
    assert [(f.state, "a later record replaces it" in f.text) for f in check_records(Stores(platform), [project])] == [("warning", True)]


def test_an_altered_record_of_a_table_that_is_not_declared_is_a_failure_without_a_fix(lake, platform) -> None:
    change(lake, "UPDATE RECORDS SET run_id = 'other' WHERE partition = '2024-01-02'")
    (found,) = check_records(Stores(platform), [])
    assert (found.state, found.fix, found.advice) == ("failure", None, "restore the file from a backup")


def test_records_of_a_lake_from_before_checksums_are_counted_and_new_ones_have_one(lake, platform) -> None:
    change(lake, "ALTER TABLE RECORDS DROP COLUMN checksum")
    before = lake.records(TABLE)
    report = lake.examine_records()
    assert (report.altered, report.intact, report.without_checksum) == ((), 0, 3)
    write(lake, 0, value=1)
    report = lake.examine_records()
    assert (report.altered, report.intact, report.without_checksum) == ((), 1, 3)
    assert [f.text for f in check_records(Stores(platform), [])] == ["1 record(s) are what was written; 3 older one(s) have no checksum"]
    assert lake.records(TABLE)["2024-01-02"] == before["2024-01-02"]


def test_a_lake_without_records_has_none_that_is_altered(platform) -> None:
    assert Stores(platform).lake.examine_records().intact == 0
