"""Databases of Dagster that stay open: fewer connections, and the same files for every other process."""

from datetime import UTC, datetime

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as db
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, AssetEventTagsTable, AssetKeyTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from sqlalchemy.engine import Engine

import mlops_assets as ml
from mlops_assets.orchestrate.core.dagster_files import open_instance, prepare_dagster_home
from mlops_assets.orchestrate.core.event_storage import PooledEventLog, open_pooled_instance

DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-31")
KEY = dg.AssetKey(["dataset", "numbers"])


@ml.dataset(partitions=DAILY, key="at", event_timestamp="at", call_per="range")
def numbers(window: ml.TimeWindow) -> pl.DataFrame:
    days = range((window.end - window.start).days)
    return pl.DataFrame({"at": [datetime(2024, 1, 1 + day, tzinfo=UTC) for day in days]})


@pytest.fixture
def home(platform, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE", raising=False)
    return prepare_dagster_home(platform)


def materialise(instance: dg.DagsterInstance, platform: ml.Platform) -> dg.ExecuteInProcessResult:
    job = ml.build_definitions([numbers], platform=platform).resolve_implicit_global_asset_job_def()
    tags = {"dagster/asset_partition_range_start": "2024-01-01", "dagster/asset_partition_range_end": "2024-01-30"}
    loggers = {"console": {"config": {"log_level": "CRITICAL"}}}
    return job.execute_in_process(instance=instance, asset_selection=[KEY], tags=tags, run_config={"loggers": loggers})


def events(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    return [record.event_log_entry.dagster_event.event_type_value for record in instance.get_records_for_run(run_id).records]


def test_a_run_over_many_partitions_opens_each_database_once(home, platform) -> None:
    opened = []
    with open_instance(platform) as instance:
        db.event.listen(Engine, "connect", count := lambda *_: opened.append(1))
        try:
            run_id = materialise(instance, platform).run_id
        finally:
            db.event.remove(Engine, "connect", count)
        assert len(opened) < 15  # with a connection for each event there are some 200
        told = events(instance, run_id)
    assert told.count("ASSET_MATERIALIZATION") == told.count("ASSET_MATERIALIZATION_PLANNED") == 30
    with dg.DagsterInstance.from_config(str(home)) as plain:  # as the web server opens it
        assert events(plain, run_id) == told
        assert plain.get_materialized_partitions(KEY) == set(DAILY.get_partition_keys())
        again = materialise(plain, platform).run_id
        assert events(plain, again).count("ASSET_MATERIALIZATION") == 30
    with open_instance(platform) as instance:
        assert [run.run_id for run in instance.get_runs()] == [again, run_id]


def test_a_batch_that_fails_leaves_none_of_its_events(home, platform, monkeypatch) -> None:
    with open_instance(platform) as instance:
        log = instance.event_log_storage
        assert isinstance(log, PooledEventLog)
        run_id = materialise(instance, platform).run_id
        told = [record.event_log_entry for record in instance.get_records_for_run(run_id).records]
        monkeypatch.setattr(PooledEventLog, "_store_asset_event_tags", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            log.store_event_batch(told[:3])
        monkeypatch.undo()
        assert len(events(instance, run_id)) == len(told)
        log.store_event_batch(told[:3])
        assert len(events(instance, run_id)) == len(told) + 3


def rows(log: SqliteEventLogStorage, table: db.Table) -> list[tuple]:
    columns = [column for column in table.c if column.name not in {"id", "create_timestamp"}]
    with log.index_connection() as connection:
        return sorted(map(tuple, connection.execute(db.select(*columns)).fetchall()), key=str)


def test_a_batch_leaves_the_summaries_that_single_events_leave(home, platform, tmp_path) -> None:
    with open_instance(platform) as instance:
        run_id = materialise(instance, platform).run_id
        recorded = [record.event_log_entry for record in instance.get_records_for_run(run_id).records]
    batched, single = PooledEventLog(str(tmp_path / "batched")), SqliteEventLogStorage(str(tmp_path / "single"))
    batched.store_event_batch(recorded)
    for event in recorded:
        single.store_event(event)
    assert len(rows(batched, AssetKeyTable)) == 1
    assert rows(batched, AssetKeyTable) == rows(single, AssetKeyTable)
    assert len(rows(batched, AssetCheckExecutionsTable)) >= 30
    assert rows(batched, AssetCheckExecutionsTable) == rows(single, AssetCheckExecutionsTable)
    batched.dispose()


def tags(log: SqliteEventLogStorage) -> list[tuple]:
    columns = (AssetEventTagsTable.c.event_id, AssetEventTagsTable.c.value)
    with log.index_connection() as connection:
        return sorted(map(tuple, connection.execute(db.select(*columns)).fetchall()))


def test_events_of_assets_are_inserted_together_as_dagster_inserts_them_one_by_one(home, platform, tmp_path, monkeypatch) -> None:
    with open_instance(platform) as instance:
        run_id = materialise(instance, platform).run_id
        kinds = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED}
        recorded = [record.event_log_entry for record in instance.get_records_for_run(run_id, of_type=kinds).records]
    assert len(recorded) == 60
    batched, single = PooledEventLog(str(tmp_path / "batched")), SqliteEventLogStorage(str(tmp_path / "single"))
    for event in recorded:
        single.store_event(event)
    monkeypatch.setattr(SqliteEventLogStorage, "store_event", lambda *_: pytest.fail("an event was inserted alone"))
    batched.store_event_batch(recorded)
    for table in (SqlEventLogStorageTable, AssetKeyTable, AssetEventTagsTable):
        assert rows(batched, table) == rows(single, table)
        assert rows(batched, table)
    ordered = [[record.event_log_entry for record in log.get_records_for_run(run_id).records] for log in (batched, single)]
    assert ordered[0] == ordered[1] == recorded
    assert tags(batched) == tags(single)
    batched.dispose()


def test_migrations_are_read_only_for_a_database_without_a_revision(home, platform, monkeypatch) -> None:
    read = []
    from_config = ScriptDirectory.from_config
    monkeypatch.setattr(ScriptDirectory, "from_config", lambda config: read.append(1) or from_config(config))
    open_instance(platform).dispose()
    assert read, "a new home has no databases"
    read.clear()
    open_instance(platform).dispose()
    assert read == []
    schedules = db.create_engine(f"sqlite:///{home / 'schedules' / 'schedules.db'}")
    with schedules.begin() as connection:
        connection.execute(db.text("DELETE FROM alembic_version"))
    with open_instance(platform) as instance:
        assert read, "such as one whose creation was killed"
        assert instance.all_instigator_state() == []
    with schedules.begin() as connection:
        assert connection.execute(db.text("SELECT count(*) FROM alembic_version")).scalar() == 1


def test_another_storage_is_left_as_the_user_configured_it(home, platform) -> None:
    storage = (
        f"run_storage:\n  module: dagster._core.storage.runs\n  class: SqliteRunStorage\n  config: {{base_dir: {home / 'elsewhere'}}}\n"
    )
    (home / "dagster.yaml").write_text((home / "dagster.yaml").read_text() + storage)
    with open_pooled_instance(str(home)) as instance:
        assert not isinstance(instance.event_log_storage, PooledEventLog)
        assert (home / "elsewhere" / "runs.db").exists()


@pytest.mark.parametrize(("version", "pooled"), [("1.13.27", True), ("1.14.0", False), ("1.130.0", False)])
def test_an_untested_version_of_dagster_keeps_its_own_storage(home, platform, monkeypatch, version, pooled) -> None:
    monkeypatch.setattr(dg, "__version__", version)
    with open_instance(platform) as opened:
        assert isinstance(opened.event_log_storage, PooledEventLog) is pooled
        assert materialise(opened, platform).success
