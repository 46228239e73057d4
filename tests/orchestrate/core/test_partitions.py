"""The keys of partitions, listed once until time adds one."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from mlops_assets.orchestrate.core.partitions import list_partition_keys

NEW_YORK = "America/New_York"


@pytest.mark.parametrize(
    "definition",
    [
        dg.DailyPartitionsDefinition("2024-01-01"),
        dg.DailyPartitionsDefinition("2024-01-01", end_offset=1),
        dg.DailyPartitionsDefinition("2024-01-01", end_offset=-2, timezone=NEW_YORK),
        dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-01"),
        dg.DailyPartitionsDefinition("2024-01-01", exclusions=[datetime(2024, 3, 9, tzinfo=UTC)]),
        dg.HourlyPartitionsDefinition("2024-03-09-00:00", timezone=NEW_YORK),
        dg.WeeklyPartitionsDefinition("2024-01-01", day_offset=2),
        dg.MonthlyPartitionsDefinition("01-2023", fmt="%m-%Y"),
        dg.DailyPartitionsDefinition("2030-01-01"),
        dg.StaticPartitionsDefinition(["a", "b"]),
    ],
    ids=lambda definition: type(definition).__name__,
)
def test_keys_are_those_of_dagster_as_time_passes(definition) -> None:
    start = datetime(2024, 3, 9, 3, 30, tzinfo=UTC)  # New York's clocks change on the tenth
    for hours in (0, 1, 21, 28, 29, 45, 24 * 30):
        with freeze_time(start + timedelta(hours=hours)):
            assert list(list_partition_keys(definition)) == list(definition.get_partition_keys())


def test_a_table_without_partitions_has_one_empty_key() -> None:
    assert list_partition_keys(None) == [""]
