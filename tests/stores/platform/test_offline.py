"""Retrieval without Dagster: the definition, pinned, as of a day, in batches, in a process that never imports Dagster's engine."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.platform.offline import training_batches, write_training_frame
from tests.compute.features.worlds import START, UTC_TIME, World, agrees, expected
from tests.stores.lake.test_layouts import DAY, entity, rows_of, view, write

FIRST = START // 1_000_000 // DAY * DAY


def spine(count: int = 800, seed: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    at = FIRST + rng.integers(-DAY, 9 * DAY, count)
    return pl.DataFrame({"k": [entity(n) for n in rng.integers(0, 45, count)], "t": pl.Series(at * 1_000_000).cast(UTC_TIME)})


@pytest.fixture
def platform(tmp_path) -> ml.Platform:
    return ml.Platform.at(tmp_path)


def filled(platform: ml.Platform, days: int = 6) -> tuple[DuckLake, pl.DataFrame]:
    lake, rng = DuckLake.open(platform.lake), np.random.default_rng(2)
    held = {day: rows_of(rng, day, 120, day * 120) for day in range(days)}
    write(lake, held)
    return lake, pl.concat(held.values())


def test_the_definition_as_known_and_not(platform) -> None:
    _, held = filled(platform)
    world = World(held, spine(), ("k",), timedelta(days=1), "created")
    for as_known in (True, False):
        joined = ml.training_frame(world.spine, [view(world.ttl)], event_timestamp="t", as_known=as_known, platform=platform)
        assert agrees(joined, world, expected(world, as_known=as_known))
    pandas = ml.training_frame(world.spine.to_pandas(), [view(world.ttl)], event_timestamp="t", platform=platform)
    assert pandas["value"].equals(ml.training_frame(world.spine, [view(world.ttl)], event_timestamp="t", platform=platform)["value"])


def test_as_of_a_day_and_pinned_to_a_snapshot(platform) -> None:
    lake, held = filled(platform)
    world = World(held, spine(), ("k",), None, "created")
    limit = FIRST + 3 * DAY + 1234
    joined = ml.training_frame(world.spine, [view()], event_timestamp="t", as_of=datetime.fromtimestamp(limit, tz=UTC), platform=platform)
    assert agrees(joined, world, expected(world, as_known=True, known_by=limit - START // 1_000_000))
    pinned = lake.snapshot()
    before = ml.training_frame(world.spine, [view()], event_timestamp="t", platform=platform)
    write(lake, {2: rows_of(np.random.default_rng(9), 2, 50, 5000)})
    assert not ml.training_frame(world.spine, [view()], event_timestamp="t", platform=platform).equals(before)
    assert ml.training_frame(world.spine, [view()], event_timestamp="t", snapshot=pinned, platform=platform).equals(before)


def test_in_batches_it_is_the_same_and_nothing_is_there_until_all_is(platform, tmp_path) -> None:
    _, held = filled(platform)
    rows = spine(5000)
    world = World(held, rows, ("k",), None, "created")
    whole = ml.training_frame(rows, [view()], event_timestamp="t", platform=platform)
    assert agrees(whole, world, expected(world, as_known=True))
    rows.write_parquet(tmp_path / "spine.parquet", row_group_size=700)
    lazy = pl.scan_parquet(tmp_path / "spine.parquet")
    batches = list(training_batches(lazy, [view()], event_timestamp="t", platform=platform, rows=900))
    assert max(batch.height for batch in batches) <= 900
    assert pl.concat(batches).equals(whole)
    written = write_training_frame(tmp_path / "out.parquet", lazy, [view()], event_timestamp="t", platform=platform, rows=900)
    assert pl.read_parquet(written).equals(whole)
    bad = lazy.with_columns(t=pl.col("t").dt.replace_time_zone(None))
    with pytest.raises(ml.DataError, match="not a time in UTC"):
        write_training_frame(tmp_path / "bad.parquet", bad, [view()], event_timestamp="t", platform=platform)
    with pytest.raises(ml.DataError, match="the spine is empty"):
        write_training_frame(tmp_path / "bad.parquet", lazy.head(0), [view()], event_timestamp="t", platform=platform)
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == ["out.parquet", "spine.parquet"]


def test_what_cannot_be_asked_is_refused(platform) -> None:
    filled(platform)
    with pytest.raises(ml.DataError, match="names no time zone"):
        ml.training_frame(spine(), [view()], event_timestamp="t", as_of=datetime(2024, 3, 9), platform=platform)
    with pytest.raises(ml.DefinitionError, match="give one of them"):
        ml.training_frame(spine(), [view()], event_timestamp="t", as_of=datetime(2024, 3, 9, tzinfo=UTC), as_known=False, platform=platform)
    with pytest.raises(ml.DefinitionError, match="contains a str"):
        ml.training_frame(spine(), ["v"], event_timestamp="t", platform=platform)
    with pytest.raises(ml.DataError, match="needs the column 'event_timestamp', which the spine lacks"):
        ml.training_frame(spine(), [view()], platform=platform)


LARGE = """
import sys
from pathlib import Path
import polars as pl
import mlops_assets as ml
from mlops_assets.stores.platform.offline import write_training_frame
from tests.stores.platform.test_offline import view
folder = Path(sys.argv[1])
def memory(field):  # of this program alone: getrusage would count its parent's, from before it was started
    return next(int(line.split()[1]) * 1024 for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(field))
spine = pl.scan_parquet(folder / 'spine.parquet')
options = dict(event_timestamp='t', platform=ml.Platform.at(folder), rows=100_000)
write_training_frame(folder / 'warm.parquet', spine.head(100_000), [view()], **options)
before = memory('VmRSS')
write_training_frame(folder / 'out.parquet', spine, [view()], **options)
print(pl.scan_parquet(folder / 'out.parquet').select(pl.len()).collect().item(), memory('VmHWM') - before)
"""


def test_a_result_larger_than_what_is_held_in_memory(platform, tmp_path) -> None:
    filled(platform)
    part = spine(200_000)
    pl.concat([part] * 30).write_parquet(tmp_path / "spine.parquet", row_group_size=100_000)
    done = subprocess.run([sys.executable, "-c", LARGE, str(tmp_path)], capture_output=True, text=True, check=True)
    rows, grown = map(int, done.stdout.split())
    assert rows == 6_000_000
    whole = 6_000_000 * (8 + 8 + 8 + 16 + 24 + 8 + 1 + 8)  # bytes of the result as it would lie in memory
    assert grown < whole / 2


def test_an_unpartitioned_view_too(platform) -> None:
    held = rows_of(np.random.default_rng(4), 0, 300, 0)
    lake = DuckLake.open(platform.lake)
    source = ml.ExternalDataset("u", key=("k", "event", "created"), event_timestamp="event")
    declared = ml.FeatureView(
        source=source,
        entity=ml.Entity("k"),
        event_timestamp="event",
        created_timestamp="created",
        features=dict.fromkeys(("value", "text", "pair", "half", "even", "then"), float),
    )
    for rows in (held, held[:200]):
        lake.write("features/u", rows, [Partition("")], key=("k", "event", "created"))
        world = World(rows, spine(), ("k",), None, "created")
        assert agrees(
            ml.training_frame(world.spine, [declared], event_timestamp="t", platform=platform), world, expected(world, as_known=True)
        )
