"""Plain Dagster beside ours: assets on both sides, merging, external tables, the four frame types."""

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, records
from tests.projects import visits as project


@dg.asset
def raw_by_hand() -> pd.DataFrame:
    return pd.DataFrame({"id": [1, 2], "x": [1.5, None]})


@ml.dataset(key="id")
def cleaned(raw_by_hand: pl.DataFrame) -> pl.DataFrame:
    """Ours, from a plain asset's pandas frame."""
    return raw_by_hand.drop_nulls()


SEEN: dict[str, object] = {}


@dg.asset(ins={"cleaned": dg.AssetIn(["dataset", "cleaned"])})
def counted(cleaned: pl.DataFrame) -> None:
    SEEN["polars"] = cleaned.height


@dg.asset(ins={"table": dg.AssetIn(["dataset", "cleaned"])})
def as_pandas(table: pd.DataFrame) -> None:
    SEEN["pandas"] = table


def test_a_plain_asset_upstream_and_downstream(run, platform) -> None:
    runner = run(ml.build_definitions([raw_by_hand, cleaned, counted, as_pandas], platform=platform))
    runner()
    assert SEEN["polars"] == 1
    assert isinstance(SEEN["pandas"], pd.DataFrame)
    assert open_stores(platform).lake.read("dataset/cleaned").rows() == [(1, 1.5)]
    runner("counted")  # alone: the table is read from the lake


def test_a_plain_asset_reads_the_partitions_it_maps_to(run, platform) -> None:
    seen = []

    @dg.asset(partitions_def=project.DAILY, ins={"visits": dg.AssetIn(["dataset", "visits"])})
    def of_a_day(visits: pl.LazyFrame) -> None:
        seen.append(visits.collect()["at"].dt.date().unique().to_list())

    @dg.asset(ins={"visits": dg.AssetIn(["dataset", "visits"])})
    def of_all(visits: pl.DataFrame) -> None:
        seen.append(visits.height)

    runner = run(project.build(platform, project.World(), [of_a_day, of_all]))
    runner("dataset/visits", partitions="2024-01-01...2024-01-03")
    runner("of_a_day", partitions="2024-01-02")
    runner("of_all")
    assert [len(seen[0]), seen[0][0].day, seen[1]] == [1, 2, 72]


def test_each_frame_type_is_given_as_annotated(run, platform) -> None:
    seen = []

    @ml.dataset()
    def source() -> duckdb.DuckDBPyRelation:
        return duckdb.connect().sql("SELECT 1 AS a")

    def reader(kind, name):
        def function(source) -> pd.DataFrame:
            seen.append(type(source))
            return pd.DataFrame({"a": [1]})

        function.__name__ = name
        function.__annotations__ = {"source": kind, "return": pd.DataFrame}
        return ml.dataset()(function)

    kinds = [pl.LazyFrame, pl.DataFrame, pd.DataFrame, duckdb.DuckDBPyRelation]
    run(ml.build_definitions([source, *(reader(kind, f"r{i}") for i, kind in enumerate(kinds))], platform=platform))()
    assert set(seen) == set(kinds)


def test_what_is_no_frame_is_refused(run, platform) -> None:
    @ml.dataset()
    def odd() -> pl.DataFrame:
        return [1]

    assert "'dataset/odd' returned list, not a frame" in run(ml.build_definitions([odd], platform=platform)).error("dataset/odd")


class Memory(dg.IOManager):
    def __init__(self) -> None:
        self.held = {}

    def handle_output(self, context, obj) -> None:
        self.held[context.asset_key] = obj

    def load_input(self, context):
        return self.held[context.asset_key]


class Source(dg.ConfigurableResource):
    rows: int

    def frame(self) -> pl.DataFrame:
        return pl.DataFrame({"id": list(range(self.rows))})


def test_merged_into_a_project_with_its_own_executor_and_io_manager(instance, platform, tmp_path) -> None:
    @dg.asset
    def theirs() -> int:
        return 41

    @dg.asset
    def theirs_too(theirs: int) -> int:
        return theirs + 1

    @ml.dataset(key="id")
    def ours(source: Source) -> pl.DataFrame:
        return source.frame()

    memory = Memory()
    host = dg.Definitions([theirs, theirs_too], resources={"io_manager": memory}, executor=dg.multiprocess_executor)
    merged = dg.Definitions.merge(
        host, ml.build_definitions([ours], platform=platform, executor=None, resources={"source": Source(rows=3)})
    )
    dg.Definitions.validate_loadable(merged)
    Runner(merged, instance)()
    assert memory.held[theirs_too.key] == 42
    assert ours.key not in {"/".join(key.path) for key in memory.held}
    assert open_stores(platform).lake.read("dataset/ours").height == 3
    assert merged.executor is dg.multiprocess_executor


def test_two_projects_merge(instance, platform) -> None:
    def one(name):
        def function() -> pl.DataFrame:
            return pl.DataFrame({"a": [1]})

        function.__name__ = name
        return ml.build_definitions([ml.dataset()(function)], platform=platform, executor=None)

    first, second = one("first"), one("second")
    kept = dg.Definitions(assets=second.assets)
    Runner(dg.Definitions.merge(first, kept), instance)()
    assert records(platform, "dataset/first") == records(platform, "dataset/second")


@pytest.fixture
def theirs(platform):
    lake = open_stores(platform).lake
    with lake.lock():
        lake.connections.cursor().execute(
            'CREATE SCHEMA lake."dataset"; CREATE TABLE lake."dataset"."bookings" AS SELECT i AS id, i % 2 AS shop FROM range(5) t(i)'
        )
    return lake.connections.cursor()


BOOKINGS = ml.ExternalDataset("bookings", key="id")


@ml.dataset(key="shop")
def per_shop(bookings: pl.LazyFrame) -> pl.LazyFrame:
    return bookings.group_by("shop").len()


def test_an_external_table_is_verified_recorded_and_followed(run, platform, theirs) -> None:
    definitions = ml.build_definitions([BOOKINGS, per_shop], platform=platform)
    runner = run(definitions)
    runner("dataset/per_shop")
    assert records(platform, "dataset/bookings")
    before = open_stores(platform).lake.records("dataset/per_shop")[""].inputs
    theirs.execute('INSERT INTO lake."dataset"."bookings" VALUES (9, 7)')
    runner("dataset/per_shop")
    assert open_stores(platform).lake.records("dataset/per_shop")[""].inputs != before
    theirs.execute('INSERT INTO lake."dataset"."bookings" VALUES (9, 7)')
    message = runner.error("dataset/per_shop")
    assert (
        "'dataset/per_shop' reads 'dataset/bookings', which is written outside of this project: the key {'id': 9} is on 2 rows" in message
    )


def test_the_sensor_records_external_tables(platform, theirs, instance) -> None:
    definitions = ml.build_definitions([BOOKINGS, per_shop], platform=platform)
    sensor = (
        definitions.resolve_sensor_def("mlops_external_datasets")
        if hasattr(definitions, "resolve_sensor_def")
        else definitions.get_sensor_def("mlops_external_datasets")
    )
    with dg.build_sensor_context(instance=instance) as context:
        assert "recorded dataset/bookings" in sensor(context).skip_message
        assert instance.get_latest_materialization_event(asset_key("dataset/bookings")) is not None
        cursor = context.cursor
    with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
        assert "nothing was written" in sensor(context).skip_message


def test_an_unmaterialised_upstream_says_how_to_make_it(run, platform) -> None:
    runner = run(ml.build_definitions([raw_by_hand, cleaned, _from_cleaned()], platform=platform))
    message = runner.error("dataset/again")
    assert "'dataset/again' reads 'dataset/cleaned', which cannot be read" in message
    assert "mlops run --select" in message
    assert DataError.__name__ == "DataError"


def test_a_partitioned_upstream_that_was_never_made_says_how_as_well(run, platform) -> None:
    message = run(project.build(platform, project.World())).error("dataset/shares", partitions="2024-01-05")
    assert "'dataset/shares' reads 'dataset/visits', which cannot be read" in message
    assert "mlops run --select" in message


def _from_cleaned():
    @ml.dataset()
    def again(cleaned: pl.DataFrame) -> pl.DataFrame:
        return cleaned

    return again
