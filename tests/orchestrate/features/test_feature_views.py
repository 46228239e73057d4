"""Feature views however they are computed: the same rows, every type of feature, and a changed definition that makes history anew."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.tables.automation import find_stale
from mlops_assets.stores.platform.offline import training_batches
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata, open_dagster, records
from tests.projects import routes

WHOLE = f"{routes.DAYS[0]}...{routes.DAYS[-1]}"
VIEWS = ("features/by_polars", "features/by_pandas", "features/by_duckdb", "features/by_sql")


@pytest.fixture
def world() -> routes.World:
    return routes.World()


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """The home and the events of a project whose views are made."""
    folder = tmp_path_factory.mktemp("template")
    with open_dagster(folder / "dagster") as instance:
        Runner(routes.build(ml.Platform.at(folder / "home"), routes.World()), instance)("dataset/trips", *VIEWS, partitions=WHOLE)
    return folder


@pytest.fixture
def made(template, tmp_path, platform, world):
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    with open_dagster(tmp_path / "dagster") as instance:
        yield Runner(routes.build(platform, world), instance)


def trips() -> pl.DataFrame:
    return routes.rows(ml.TimeWindow(routes.START, routes.START + timedelta(days=12)))


def window_mean(day: int, column: pl.Expr) -> pl.DataFrame:
    """The mean over three days before a day, by route: written again, from the raw rows."""
    end = routes.START + timedelta(days=day)
    near = trips().filter((pl.col("at") < end) & (pl.col("at") >= end - timedelta(days=3)))
    return near.group_by("origin", "dest").agg(value=column.mean(), n=pl.len()).sort("origin", "dest")


def test_sql_and_polars_see_the_window_of_each_partition(made, platform) -> None:
    lake = open_stores(platform).lake
    sql, polars = lake.read("features/by_sql"), lake.read("features/by_polars")
    for day in range(1, 12):
        at = routes.START + timedelta(days=day)
        late = sql.filter(pl.col("as_of") == at).sort("origin", "dest")
        wanted = window_mean(day, pl.col("late").cast(pl.Float64))
        assert late["late_share"].to_list() == pytest.approx(wanted["value"].to_list())
        assert late["trips"].to_list() == wanted["n"].to_list()
        minutes = polars.filter(pl.col("as_of") == at).sort("origin", "dest")
        assert minutes["polars_minutes"].to_list() == pytest.approx(window_mean(day, pl.col("minutes"))["value"].to_list())


def test_one_partition_at_a_time_is_the_same(made, platform, run, tmp_path) -> None:
    other = ml.Platform.at(tmp_path / "other")
    runner = run(routes.build(other, routes.World()))
    for day in routes.DAYS:
        runner("dataset/trips", *VIEWS, partitions=day)
    for view in VIEWS:
        assert records(other, view) == records(platform, view)


def test_every_type_of_feature_comes_back_by_a_composite_key(made, platform, world) -> None:
    views = routes.declared(world)
    at = routes.START + timedelta(days=5, hours=23)
    spine = pl.DataFrame({"origin": ["a", "b", "a", None], "dest": ["x", "y", "y", "x"], "t": [at, at, at, at]})
    spine = spine.cast({"t": pl.Datetime("us", "UTC")})
    joined = ml.training_frame(spine, list(views.values()), event_timestamp="t", platform=platform)
    of_day = (
        trips()
        .filter((pl.col("at") >= at.replace(hour=0)) & (pl.col("origin") == "a") & (pl.col("dest") == "x"))
        .filter(pl.col("at") < at + timedelta(hours=1))
    )
    first = joined.row(0, named=True)
    assert first["all_minutes"] == sorted(of_day["minutes"])
    assert first["shape"] == [float(of_day["minutes"].min()), float(of_day["minutes"].max())]
    assert first["pandas_minutes"] == of_day["minutes"].mean()
    assert first["busy"] is (of_day["minutes"].mean() > 25)
    assert first["longest"] == of_day["trip"].max()
    assert first["last_at"] == of_day["at"].max()
    assert joined.row(3, named=True)["longest"] is None
    assert joined.schema["last_at"] == pl.Datetime("us", "UTC")


def test_a_changed_definition_rebuilds_history_in_one_run(made, platform, world) -> None:
    before = {view: records(platform, view) for view in VIEWS}
    project = Project.from_items([*routes.declared(world).values()])
    assert len({view.version() for view in project.select(ml.FeatureView)}) == 4
    same = routes.build(platform, routes.World())
    assert stale_partitions(same, platform) == {view: [] for view in VIEWS}
    changed = routes.World(query=routes.LATE_SHARE.replace("avg(late::DOUBLE)", "2 * avg(late::DOUBLE)"))
    definitions = routes.build(platform, changed)
    wanted = stale_partitions(definitions, platform)
    assert wanted["features/by_sql"] == routes.DAYS
    assert [view for view in VIEWS if wanted[view]] == ["features/by_sql"]
    result = Runner(definitions, made.instance)("features/by_sql", partitions=WHOLE)
    assert stale_partitions(definitions, platform) == {view: [] for view in VIEWS}
    after = records(platform, "features/by_sql")
    # The first day has no day before it: it is empty both times.
    assert [day for day in after if after[day] != before["features/by_sql"][day]] == routes.DAYS[1:]
    declared = routes.declared(changed)["by_sql"]
    assert metadata(result, "features/by_sql")["version"] == declared.version() != routes.declared(world)["by_sql"].version()
    spaced = routes.World(query=routes.LATE_SHARE.replace("\n", "\n\n  "))
    assert routes.declared(spaced)["by_sql"].version() == routes.declared(world)["by_sql"].version()


def stale_partitions(definitions: dg.Definitions, platform: ml.Platform) -> dict[str, list[str]]:
    """Return what the default condition would ask for."""
    from mlops_assets.orchestrate.compiler.build import compiled_projects

    project = compiled_projects()[-1].project
    return {view.key: sorted(find_stale(project.node(view), platform)) for view in project.select(ml.FeatureView)}


def one_view(features: dict, function, **more) -> ml.FeatureView:
    return ml.feature_view(entity=ml.Entity("k"), event_timestamp="at", features=features, **more)(function)


NOW = datetime(2024, 1, 1, tzinfo=UTC)
BASE = pl.DataFrame({"k": ["a", "b"], "at": [NOW, NOW]}).cast({"at": pl.Datetime("us", "UTC")})
BAD = {
    "text for a number": ({"f": float}, pl.Series("f", ["1", "2"]), "column 'f' has type String, but the feature is declared as float"),
    "floats for whole numbers": (
        {"f": int},
        pl.Series("f", [1.0, 2.5]),
        "column 'f' has type Float64, but the feature is declared as int.*Int64",
    ),
    "a naive time": ({"f": datetime}, pl.Series("f", [NOW.replace(tzinfo=None)] * 2), "declared as datetime.*give it a time zone"),
    "a short embedding": (
        {"f": Annotated[list[float], 3]},
        pl.Series("f", [[1.0, 2.0, 3.0], [1.0, 2.0]]),
        "'features/broken', column 'f': row 1 has 2 items, but an embedding of 3 is declared",
    ),
    "a list of the wrong items": ({"f": list[int]}, pl.Series("f", [["a"], ["b"]]), r"declared as list\[int\]"),
    "too large": ({"f": int}, pl.Series("f", [2**70, 1], dtype=pl.Int128), "a value does not fit Int64"),
    "a missing column": ({"g": int}, pl.Series("f", [1, 2]), "needs the column 'g', which its function lacks"),
}


@pytest.mark.parametrize("name", BAD)
def test_columns_of_another_type_are_refused(name, run, platform) -> None:
    features, column, message = BAD[name]

    def broken() -> pl.DataFrame:
        return BASE.with_columns(column)

    runner = run(ml.build_definitions([one_view(features, broken)], platform=platform))
    import re

    assert re.search(message, runner.error("features/broken").replace("\n", " "))
    assert records(platform, "features/broken") == {}


def test_what_no_store_can_keep_is_refused_when_it_is_declared() -> None:
    def view() -> pl.DataFrame:
        return BASE

    with pytest.raises(ml.DefinitionError, match="feature 'f' of 'view' is declared as dict"):
        one_view({"f": dict}, view)
    with pytest.raises(ml.DefinitionError, match=r"the default of 'f' is a list, the feature a list\[float\] of 3"):
        one_view({"f": Annotated[list[float], 3]}, view, defaults={"f": [1.0]})
    with pytest.raises(ml.DefinitionError, match="over a query has no name"):
        ml.FeatureView(source=ml.Sql("SELECT 1"), entity=ml.Entity("k"), event_timestamp="at", features={"f": float})
    with pytest.raises(ml.DefinitionError, match="empty query"):
        ml.Sql("  ")


def query(text: str, **more) -> ml.FeatureView:
    return ml.FeatureView(name="q", source=ml.Sql(text, **more), entity=ml.Entity("k"), event_timestamp="at", features={"f": float})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT * FROM nobody", "the query of 'features/q' reads the table 'nobody', which no item of the project makes"),
        ("SELECT * FROM q", "the query of 'features/q' reads itself"),
        ("DELETE FROM trips", "is not one SELECT"),
        ("SELEC 1", "cannot be parsed"),
        ("SELECT 1; SELECT 2", "is not one SELECT"),
    ],
)
def test_queries_that_cannot_work_are_refused_before_dagster_sees_them(text, message, platform) -> None:
    with pytest.raises(ml.DefinitionError, match=message):
        ml.build_definitions([query(text)], platform=platform)


def test_a_query_that_fails_is_named(run, platform) -> None:
    runner = run(ml.build_definitions([query("SELECT 'a' AS k, error('boom') AS f")], platform=platform))
    assert "the query of 'features/q' fails" in runner.error("features/q")


def test_both_versions_can_be_read_until_one_is_removed(made, platform, world) -> None:
    old = routes.declared(world)["by_sql"]
    changed = routes.World(query=routes.LATE_SHARE.replace("late_share, count(*) AS trips", "late_share, 7 AS trips"))
    new = routes.declared(changed)["by_sql"]
    spine = pl.DataFrame({"origin": ["a", "b"], "dest": ["x", "y"], "t": [routes.START + timedelta(days=6, hours=1)] * 2})
    spine = spine.cast({"t": pl.Datetime("us", "UTC")})

    def trips_of(view: ml.FeatureView) -> list[int]:
        frame = ml.training_frame(spine, [view], event_timestamp="t", platform=platform)
        assert pl.concat(training_batches(spine.lazy(), [view], event_timestamp="t", platform=platform)).equals(frame)
        return frame["trips"].to_list()

    first = trips_of(old)
    assert 7 not in first
    runner = Runner(routes.build(platform, changed), made.instance)
    runner("features/by_sql", partitions=routes.DAYS[0])  # the backfill has only begun
    assert trips_of(new.at(old.version())) == first
    runner("features/by_sql", partitions=WHOLE)
    assert trips_of(new) == [7, 7]
    assert trips_of(new.at(old.version())) == first
    store = open_stores(platform)
    assert [each.version for each in store.view_versions.list_versions("by_sql")] == [new.version(), old.version()]
    pins = store.view_versions.pinned_snapshots()
    assert len(pins) == 1
    store.lake.maintain(pins, older_than=timedelta(0))
    assert trips_of(new.at(old.version())) == first
    with pytest.raises(ml.RegistryError, match=f"version '{new.version()}' of 'features/by_sql' is the current version"):
        store.view_versions.remove("by_sql", new.version())
    assert store.view_versions.remove("by_sql", old.version()) == 1
    assert store.view_versions.pinned_snapshots() == set()
    with pytest.raises(ml.RegistryError, match=f"has no version '{old.version()}'(.|\n)*there are {new.version()}"):
        trips_of(new.at(old.version()))


def test_two_training_sets_share_a_view_that_is_computed_once(run, platform, world) -> None:
    views = routes.declared(world)

    @ml.dataset(partitions=routes.DAILY, key="trip", event_timestamp="at")
    def trips(window: ml.TimeWindow) -> pl.DataFrame:
        return routes.rows(window)

    def training_set(name: str, label: str) -> ml.types.TrainingSet:
        def spine(trips: pl.LazyFrame) -> pl.LazyFrame:
            return trips

        spine.__name__ = name
        split = ml.TimeSplit(validation=timedelta(days=2), holdout=timedelta(days=2))
        return ml.training_set(features=[views["by_polars"]], label=label, event_timestamp="at", split=split)(spine)

    first, second = training_set("first", "late"), training_set("second", "minutes")
    runner = run(ml.build_definitions([trips, views["by_polars"], first, second], platform=platform))
    runner("dataset/trips", "features/by_polars", partitions=WHOLE)
    runner("training_set/first", "training_set/second")
    assert world.calls == ["by_polars"]
    lake = open_stores(platform).lake
    shared = [lake.read(f"training_set/{name}").sort("trip")["polars_minutes"] for name in ("first", "second")]
    assert shared[0].equals(shared[1])
    assert shared[0].null_count() < shared[0].len()
