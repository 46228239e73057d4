"""Limits and quarantine in a whole project: what is committed, what the UI shows, what a repair brings back."""

import json

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.compute.tables import verify as verify_module
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import records
from tests.projects import meters

READINGS, QUARANTINE, LIMITS = "dataset/readings", "quarantine/readings", "quality/readings"


@pytest.fixture
def world() -> meters.World:
    return meters.World()


def read(platform, table: str) -> pl.DataFrame:
    return open_stores(platform).lake.read(table)


def check(result: dg.ExecuteInProcessResult, name: str):
    return next(e for e in result.get_asset_check_evaluations() if e.check_name == name)


def shown(instance: dg.DagsterInstance, key: str, partition: str | None = None) -> dict:
    """Return what the UI shows of an asset's latest materialisation."""
    event = instance.get_latest_materialization_event(asset_key(key))
    found = event.asset_materialization
    assert found.partition == partition
    return {name: value.value for name, value in found.metadata.items()}


def test_bad_rows_are_set_aside_with_their_reason_and_the_good_ones_committed(run, platform, world, instance) -> None:
    world.spoil(1, 5, value=-3.0)
    world.spoil(1, 7, meter="west")
    runner = run(meters.build(platform, world, quarantine=0.1))
    result = runner(READINGS, partitions="2024-01-01...2024-01-03")
    assert read(platform, READINGS).height == 3 * 24 - 2
    refused = read(platform, QUARANTINE).sort("row")
    assert refused.select("partition", "column", "reason").rows() == [
        ("2024-01-02", "value", "schema: value = -3.0 breaks greater_than_or_equal_to(0)"),
        ("2024-01-02", "meter", "schema: meter = 'west' breaks isin(['north', 'south', 'east'])"),
    ]
    assert json.loads(refused["row"][0]) == {"reading": "1-5", "at": "2024-01-02 05:00:00+00:00", "meter": "south", "value": -3.0}
    assert refused["run_id"].unique().to_list() == [result.run_id]
    found = check(result, "no_quarantined_rows")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "2 row(s) were quarantined in 'quarantine/readings'" in found.description
    assert "mlops quarantine replay readings" in found.description
    assert json.loads(found.metadata["by reason"].value) == {
        "meter: isin(['north', 'south', 'east'])": 1,
        "value: greater_than_or_equal_to(0)": 1,
    }
    assert "1-5" in found.metadata["preview"].value
    assert all(e.passed for e in result.get_asset_check_evaluations() if e.check_name != "no_quarantined_rows")
    assert shown(instance, QUARANTINE, "2024-01-03")["dagster/row_count"] == 0
    spec = next(s for s in runner.definitions.resolve_all_asset_specs() if s.key == asset_key(QUARANTINE))
    assert [d.asset_key.to_user_string() for d in spec.deps] == [READINGS]
    assert spec.partitions_def == meters.DAILY


def test_the_same_rows_again_change_nothing_and_a_repair_empties_the_quarantine(run, platform, world) -> None:
    world.spoil(1, 5, value=-3.0)
    runner = run(meters.build(platform, world, quarantine=True))
    runner(READINGS, partitions="2024-01-01...2024-01-03")
    before, snapshot = read(platform, QUARANTINE), open_stores(platform).lake.snapshot()
    runner(READINGS, partitions="2024-01-01...2024-01-03")
    assert open_stores(platform).lake.snapshot() == snapshot
    assert read(platform, QUARANTINE).equals(before)
    world.days.clear()
    result = runner(READINGS, partitions="2024-01-02")
    assert read(platform, QUARANTINE).is_empty()
    assert check(result, "no_quarantined_rows").passed
    assert read(platform, READINGS).height == 3 * 24


def test_too_many_bad_rows_refuse_the_write_and_leave_both_tables(run, platform, world) -> None:
    runner = run(meters.build(platform, world, quarantine=True))
    runner(READINGS, partitions="2024-01-01")
    before = (records(platform, READINGS), records(platform, QUARANTINE))
    world.spoil(0, 5, value=-3.0)
    world.spoil(0, 6, value=-4.0)
    message = runner.error(READINGS, partitions="2024-01-01")
    assert "'dataset/readings' partition '2024-01-01': partition '2024-01-01': 2 of 24 rows (8.33%) break a rule on rows" in message
    assert "more than the 5.00% that quarantine= allows; most often value: greater_than_or_equal_to" in message
    assert "Nothing was committed; the earlier data stay readable" in message
    assert "Hint:" in message
    assert (records(platform, READINGS), records(platform, QUARANTINE)) == before


def test_what_no_row_is_guilty_of_refuses_the_write_in_spite_of_a_quarantine(run, platform, world) -> None:
    @ml.dataset(schema=meters.Reading, partitions=meters.DAILY, key="reading", event_timestamp="at", quarantine=1.0)
    def readings(window: ml.TimeWindow) -> pl.DataFrame:
        return meters.as_frame(meters.good(0)).with_columns(pl.col("value").cast(pl.String))

    runner = run(ml.build_definitions([readings], platform=platform))
    assert "column 'value' breaks dtype('Float64')" in runner.error(READINGS, partitions="2024-01-01")


def test_an_unpartitioned_table_has_a_quarantine_too(run, platform) -> None:
    @ml.dataset(schema=meters.Reading, key="reading", quarantine=True)
    def readings() -> pl.DataFrame:
        rows = meters.good(0)
        rows[3] = {**rows[3], "value": -1.0}
        return meters.as_frame(rows)

    runner = run(ml.build_definitions([readings], platform=platform))
    runner(READINGS)
    assert read(platform, QUARANTINE)["partition"].to_list() == [""]
    assert read(platform, READINGS).height == 23


def test_limits_are_learned_recorded_shown_and_held_against_later_partitions(run, platform, world, instance) -> None:
    runner = run(meters.build(platform, world, quality=meters.QUALITY))
    runner(READINGS, partitions="2024-01-01...2024-01-02")
    assert LIMITS.split("/")[1] not in str(open_stores(platform).lake.records(LIMITS))  # two of three: nothing is learned yet
    runner(READINGS, partitions="2024-01-03")
    learned = read(platform, LIMITS).filter(pl.col("column") == "value", rule="range").row(0, named=True)
    assert (learned["low"], learned["high"]) == (-5.75, 28.75)
    assert "-5.75 to 28.75 (learned from 3 partition(s) '2024-01-01' to '2024-01-03', margin 25%)" in shown(instance, LIMITS)["limits"]
    snapshot = open_stores(platform).lake.snapshot()
    world.spoil(4, 2, value=40.0)
    message = runner.error(READINGS, partitions="2024-01-05")
    assert "'dataset/readings' partition '2024-01-05': column 'value' is 40.0 in the first of 1 row(s), outside of the range" in message
    assert "-5.75 to 28.75 (learned from 3 partition(s) '2024-01-01' to '2024-01-03', margin 25%)" in message
    assert "the first bad row is number 3 (reading='4-2'), partition '2024-01-05'" in message
    assert "Hint: correct the source; if the data is right, declare the limit" in message
    assert open_stores(platform).lake.snapshot() == snapshot
    world.days[4] = meters.good(4)[:10]
    assert "partition '2024-01-05' has 10 rows, not 18 to 30 (learned from" in runner.error(READINGS, partitions="2024-01-05")
    world.days.clear()
    runner(READINGS, partitions="2024-01-05")
    assert read(platform, LIMITS).filter(pl.col("column") == "value", rule="range").row(0, named=True) == learned


def test_one_run_over_everything_learns_first_and_judges_the_rest(run, platform, world) -> None:
    world.spoil(7, 2, value=40.0)
    runner = run(meters.build(platform, world, quality=meters.QUALITY))
    assert "partition '2024-01-08'" in runner.error(READINGS, partitions=meters.ALL)
    aside = run(meters.build(platform, world, quality=meters.QUALITY, quarantine=True))
    result = aside(READINGS, partitions=meters.ALL)
    assert read(platform, QUARANTINE)["partition"].to_list() == ["2024-01-08"]
    assert check(result, "quality").passed
    assert "learned from 3 partition(s)" in check(result, "quality").metadata["limits"].value


def test_a_warning_commits_and_other_reference_data_teach_other_limits(run, platform, world) -> None:
    quality = ml.Quality(learn_from=("2024-01-01", "2024-01-03"), severity="warn")
    runner = run(meters.build(platform, world, quality=quality))
    runner(READINGS, partitions="2024-01-01...2024-01-02")
    world.spoil(4, 2, value=40.0)
    result = runner(READINGS, partitions="2024-01-05")
    found = check(result, "quality")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert read(platform, READINGS)["value"].max() == 40.0
    world.spoil(0, 2, value=60.0)  # the reference itself is corrected: it teaches anew
    runner(READINGS, partitions="2024-01-01")
    assert read(platform, LIMITS).filter(pl.col("column") == "value", rule="range")["high"].to_list() == [75.0]
    assert check(runner(READINGS, partitions="2024-01-05"), "quality").passed
    stricter = run(meters.build(platform, world, quality=ml.Quality(learn_from=("2024-01-02", "2024-01-03"), severity="warn")))
    assert not check(stricter(READINGS, partitions="2024-01-05"), "quality").passed  # declared otherwise: learned from what the lake holds


def test_feature_views_have_limits_of_their_own(run, platform, world) -> None:
    [readings] = meters.nouns(world)
    view = ml.FeatureView(
        name="readings",
        source=readings,
        entity=ml.Entity("meter"),
        event_timestamp="at",
        features={"value": float},
        quality=ml.Quality(learn_from=1),
    )
    runner = run(ml.build_definitions([readings, view], platform=platform))
    runner(READINGS, "features/readings", partitions="2024-01-01")
    assert read(platform, "quality/readings_features").filter(rule="range")["column"].to_list() == ["value"]
    world.spoil(1, 2, value=1e6)
    message = runner.error(READINGS, "features/readings", partitions="2024-01-02")
    assert "'features/readings' partition '2024-01-02': column 'value' is 1000000.0" in message


def test_declarations_that_cannot_work_are_refused(platform, world) -> None:
    with pytest.raises(ml.DefinitionError, match="dataset 'x' learns its quality limits from partitions, but has none"):
        ml.dataset(quality=ml.Quality(learn_from=3))(_named("x"))
    with pytest.raises(ml.DefinitionError, match="dataset 'x': quarantine=1.5 is invalid"):
        ml.dataset(quarantine=1.5)(_named("x"))
    with pytest.raises(ml.DefinitionError, match="quality names the column 'valu', which its schema Reading lacks"):
        meters.nouns(world, quality=ml.Quality(nulls={"valu": 0.1}))
    with pytest.raises(ml.DefinitionError, match="external dataset 'x' cannot learn its quality limits"):
        ml.ExternalDataset("x", partitions=meters.DAILY, event_timestamp="at", quality=ml.Quality(learn_from=3))


def test_limits_of_a_period_without_partitions_say_which_there_are(run, platform, world) -> None:
    runner = run(meters.build(platform, world, quality=ml.Quality(learn_from=("2023-01-01", "2023-02-01"))))
    message = runner.error(READINGS, partitions="2024-01-01")
    assert "learns its quality limits from ('2023-01-01', '2023-02-01'), where it has no partition" in message
    assert "its partitions are 2024-01-01 to 2024-01-10" in message


def _named(name: str):
    def function() -> pl.DataFrame:
        return pl.DataFrame()

    function.__name__ = name
    return function


def test_a_refused_write_says_that_nothing_was_set_aside(run, platform) -> None:
    daily = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-04")

    @ml.dataset(partitions=daily, key="id", event_timestamp="at", quality=ml.Quality(rows=(4, None), ranges={"x": (0, 9)}), quarantine=True)
    def numbers(window: ml.TimeWindow) -> pl.DataFrame:
        rows = 30 if window.start.day == 1 else 2
        made = [{"id": f"{window.start:%d}-{n}", "at": window.start, "x": 99 if n == 29 else 1} for n in range(rows)]
        return pl.DataFrame(made, schema_overrides={"at": pl.Datetime("us", "UTC")})

    result = run(ml.build_definitions([numbers], platform=platform))("dataset/numbers", partitions="2024-01-01...2024-01-02", ok=False)
    (said,) = [e.description for e in result.get_asset_check_evaluations() if e.check_name == "no_quarantined_rows"]
    assert said.startswith("1 row(s) break a rule on rows: ")
    assert "nothing was written or quarantined" in said
    assert "were quarantined" not in said
    assert records(platform, "quarantine/numbers") == {}


@pytest.mark.parametrize(("spoilt", "times"), [((), 1), ({"value": -1.0}, 2)])
def test_rows_are_examined_once_and_good_ones_again_only_where_bad_ones_were_set_aside(run, platform, monkeypatch, spoilt, times) -> None:
    examined = []
    examine = verify_module.find_schema_violations
    monkeypatch.setattr(
        verify_module, "find_schema_violations", lambda frame, schema: examined.append(frame.height) or examine(frame, schema)
    )
    world = meters.World()
    world.days[0] = [{**row, **(spoilt if row["reading"] == "0-3" else {})} for row in meters.good(0)] if spoilt else meters.good(0)
    run(meters.build(platform, world, quarantine=True))("dataset/readings", partitions=meters.day_of(0))
    assert examined == [meters.HOURS, meters.HOURS - 1][:times]
