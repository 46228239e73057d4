"""Damaged files: a flipped bit that DuckDB reads without a word is found, named, and written anew."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from mlops_assets.compute.tables import content_hash
from mlops_assets.errors import ArtifactError, LakeError
from mlops_assets.stores.lake import verified_reads
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.lake.rows import sql_name
from mlops_assets.stores.lake.verified_reads import read_verified
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.window import TimeWindow
from tests.projects import visits as project

BASE = datetime(2024, 1, 1, tzinfo=UTC)
TABLE = "dataset/numbers"
PARTS = [Partition(f"2024-01-0{day + 1}", TimeWindow(BASE + timedelta(days=day), BASE + timedelta(days=day + 1))) for day in range(3)]


def rows(day: int) -> pl.DataFrame:
    values = np.random.default_rng(day).normal(size=5000)
    times = pl.Series([BASE + timedelta(days=day, seconds=i) for i in range(5000)], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"id": range(5000), "at": times, "value": values})


def flip(file: Path, offsets=range(4000, 60_000, 997)) -> None:
    """Flip one bit in each of many bytes of the data pages."""
    data = bytearray(file.read_bytes())
    for offset in offsets:
        if offset < len(data) - 2000:  # the footer stays as it is
            data[offset] ^= 0x10
    file.write_bytes(data)


def one_bit(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 0x01
    file.write_bytes(data)


@pytest.fixture
def lake(tmp_path) -> DuckLake:
    made = DuckLake.open(tmp_path / "lake")
    for day, part in enumerate(PARTS):
        made.write(TABLE, rows(day), [part], event_timestamp="at", key=["id"])
    return made


def read(lake: DuckLake, parts=PARTS) -> pl.DataFrame:
    return read_verified(lake, TABLE, parts, window=None, event_timestamp="at", snapshot=lake.snapshot())


def file_of(lake: DuckLake, day: int) -> Path:
    query = 'SELECT DISTINCT filename FROM lake."dataset"."numbers" WHERE "at" >= ? AND "at" < ?'
    window = PARTS[day].window
    [(name,)] = lake.connections.cursor().execute(query, [window.start, window.end]).fetchall()
    return Path(name)


def value_position(file: Path) -> int:
    """Return where one value of the incompressible column lies: its bytes are looked up in the file."""
    wanted = rows(1)["value"].to_numpy()[2500].tobytes()
    return file.read_bytes().index(wanted)


def test_undamaged_files_are_read_as_ever(lake) -> None:
    assert read(lake).sort("at").equals(pl.concat([rows(day) for day in range(3)]))
    assert read(lake, parts=[*PARTS, Partition("2024-01-09", PARTS[0].window)]).height == 15_000


def test_one_flipped_bit_is_found_where_the_lake_itself_sees_none_and_making_the_partition_again_repairs_it(lake) -> None:
    file, before = file_of(lake, 1), lake.records(TABLE)
    one_bit(file, value_position(file))
    lake = DuckLake.open(file.parents[3])  # a connection that has cached nothing
    seen = lake.read(TABLE, window=PARTS[1].window, event_timestamp="at").sort("id")
    assert (seen["value"] != rows(1)["value"]).sum() == 1  # read without an error, and wrong
    with pytest.raises(ArtifactError) as error:
        read(lake)
    assert "'dataset/numbers' partition '2024-01-02' does not hold what was recorded when it was written" in error.value.message
    assert str(file) in error.value.message
    assert error.value.hint.endswith("mlops run --select 'key:\"dataset/numbers\"' --partitions 2024-01-02")
    assert lake.records(TABLE)["2024-01-02"].content_hash == f"damaged:{before['2024-01-02'].content_hash}"
    assert read(lake, parts=[PARTS[0], PARTS[2]]).height == 15_000
    assert lake.write(TABLE, rows(1), [PARTS[1]], event_timestamp="at", key=["id"]).changed == ("2024-01-02",)
    assert read(lake).sort("at").equals(pl.concat([rows(day) for day in range(3)]))
    assert {k: r.content_hash for k, r in lake.records(TABLE).items()} == {k: r.content_hash for k, r in before.items()}


def test_the_hint_names_the_asset_of_a_damaged_feature_view(lake, tmp_path) -> None:
    view = "features/numbers"
    lake.write(view, rows(0), [PARTS[0]], event_timestamp="at", key=["id"])
    [file] = lake.partition_files(view, PARTS[0].window, "at", lake.snapshot())
    Path(file).unlink()
    lake = DuckLake.open(tmp_path / "lake")
    with pytest.raises(ArtifactError) as error:
        read_verified(lake, view, PARTS[:1], window=None, event_timestamp="at", snapshot=lake.snapshot())
    assert error.value.hint.endswith("mlops run --select 'key:\"features/numbers_features\"' --partitions 2024-01-01")


def test_damage_of_a_dropped_table_is_reported_and_not_recorded(lake) -> None:
    before, file = lake.snapshot(), file_of(lake, 1)
    lake.drop(TABLE)
    one_bit(file, value_position(file))
    lake = DuckLake.open(file.parents[3])
    with pytest.raises(ArtifactError, match="partition '2024-01-02'"):
        read_verified(lake, TABLE, PARTS, window=None, event_timestamp="at", snapshot=before)
    assert lake.records(TABLE) == {}


def test_damage_in_an_older_state_leaves_the_newer_one_in_peace(lake) -> None:
    before = lake.snapshot()
    file = file_of(lake, 1)
    lake.write(TABLE, rows(1).head(10), [PARTS[1]], event_timestamp="at", key=["id"])
    one_bit(file, value_position(file))
    lake = DuckLake.open(file.parents[3])
    with pytest.raises(ArtifactError, match="partition '2024-01-02'"):
        read_verified(lake, TABLE, PARTS, window=None, event_timestamp="at", snapshot=before)
    assert not any(record.damaged for record in lake.records(TABLE).values())
    assert read(lake).height == 10_010


@pytest.mark.parametrize("how", ["truncated", "lost", "garbage", "flipped"])
def test_a_file_that_cannot_be_read_is_named_by_its_partition(lake, how) -> None:
    file = file_of(lake, 1)
    match how:
        case "truncated":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        case "lost":
            file.unlink()
        case "garbage":
            file.write_bytes(b"PAR1" + b"\0" * (file.stat().st_size - 8) + b"PAR1")
        case "flipped":
            flip(file)
    lake = DuckLake.open(file.parents[3])
    with pytest.raises(ArtifactError, match=r"'dataset/numbers' partition '2024-01-02' does not hold what was recorded"):
        read(lake)
    lake.write(TABLE, rows(1), [PARTS[1]], event_timestamp="at", key=["id"])
    assert read(lake).height == 15_000


def test_an_unreadable_table_says_so_also_where_nothing_is_compared(lake) -> None:
    file_of(lake, 1).unlink()
    with pytest.raises(LakeError, match=r"(?s)'dataset/numbers' cannot be read: .*Hint: a file of the lake is damaged or missing"):
        DuckLake.open(lake.connections.folder).read(TABLE)


def test_columns_that_came_later_or_do_not_count_are_no_damage(lake) -> None:
    lake.write(TABLE, rows(2).with_columns(extra=pl.lit("x")), [PARTS[2]], event_timestamp="at", key=["id"], unhashed_columns=["value"])
    assert read(lake).height == 15_000
    lake.write(TABLE, rows(0).with_columns(extra=pl.lit(None)), [PARTS[0]], event_timestamp="at", key=["id"])
    assert read(lake)["extra"].null_count() == 10_000


def test_a_lake_from_before_hashes_were_explained_is_read_and_gets_them_with_the_next_write(lake) -> None:
    cursor = lake.connections.cursor()
    for column in ("hashed", "checksum"):
        cursor.execute(f'ALTER TABLE lake."_mlops"."partitions" DROP COLUMN {column}')
    assert {r.hashed for r in lake.records(TABLE).values()} == {""}
    assert read(lake).height == 15_000
    lake.write(TABLE, rows(1).head(10), [PARTS[1]], event_timestamp="at", key=["id"])
    assert [bool(r.hashed) for r in lake.records(TABLE).values()] == [False, True, False]
    assert read(lake).height == 10_010


@pytest.fixture
def queried_tables(monkeypatch) -> list[str]:
    """The tables whose rows DuckDB has read."""
    tables, stored = [], DuckLake.read
    monkeypatch.setattr(DuckLake, "read", lambda lake, table, **where: tables.append(table) or stored(lake, table, **where))
    return tables


def test_files_that_hold_exactly_what_was_recorded_are_read_without_duckdb(lake, queried_tables) -> None:
    expected = lake.read(TABLE)
    queried_tables.clear()
    assert_frame_equal(read(lake), expected)
    assert_frame_equal(read(lake, PARTS[1:]), expected)  # without a record of every row, DuckDB reads
    assert queried_tables == [TABLE]


def test_few_rows_of_many_files_are_read_by_duckdb_which_opens_only_the_files_of_the_window(lake, queried_tables, monkeypatch) -> None:
    monkeypatch.setattr(verified_reads, "_MIN_ROWS_PER_FILE", 5_000)
    where = {"event_timestamp": "at", "snapshot": lake.snapshot()}
    assert read_verified(lake, TABLE, PARTS, window=None, **where).height == 15_000
    assert queried_tables == []
    assert read_verified(lake, TABLE, PARTS[:1], window=PARTS[0].window, **where).height == 5_000
    assert queried_tables == [TABLE]


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM {} WHERE id < 10",
        "ALTER TABLE {} ADD COLUMN later DOUBLE",
        "ALTER TABLE {} DROP COLUMN value; ALTER TABLE {} ADD COLUMN value DOUBLE",
    ],
)
def test_a_table_that_differs_from_its_files_is_read_by_duckdb(lake, queried_tables, change) -> None:
    for statement in change.format(sql_name(TABLE), sql_name(TABLE)).split(";"):
        lake.connections.cursor().execute(statement)
    lake.record(TABLE, PARTS, event_timestamp="at", key=["id"])
    expected = lake.read(TABLE)
    queried_tables.clear()
    assert_frame_equal(read(lake), expected)
    assert queried_tables == [TABLE]


def test_partitions_that_were_verified_before_are_compared_again_when_files_are_read(lake, queried_tables) -> None:
    where = {"window": None, "event_timestamp": "at", "snapshot": lake.snapshot()}
    assert read_verified(lake, TABLE, PARTS[:1], **where, verified=PARTS[1:]).height == 15_000
    assert queried_tables == []
    one_bit(file_of(lake, 1), value_position(file_of(lake, 1)))
    assert read_verified(lake, TABLE, PARTS[:1], **where, verified=PARTS[1:]).height == 15_000
    assert queried_tables == [TABLE]


@pytest.fixture
def sorted_rows(monkeypatch) -> list[int]:
    """The numbers of rows that were sorted to hash them."""
    sizes, sort = [], content_hash._sort_rows
    monkeypatch.setattr(content_hash, "_sort_rows", lambda frame, *more: sizes.append(frame.height) or sort(frame, *more))
    return sizes


def test_rows_in_the_order_in_which_they_were_written_are_verified_without_a_sort(lake, sorted_rows) -> None:
    assert read(lake).height == 15_000
    assert sorted_rows == []
    flip(file_of(lake, 1))
    with pytest.raises(ArtifactError, match="'dataset/numbers' partition '2024-01-02' does not hold what was recorded"):
        read(lake)


@pytest.mark.parametrize("reader", ["read", "read_files"])
def test_rows_that_a_lake_returns_in_another_order_are_sorted_and_verified(lake, sorted_rows, monkeypatch, reader) -> None:
    stored = getattr(DuckLake, reader)
    monkeypatch.setattr(DuckLake, "read_files", lambda *_, **__: None)
    monkeypatch.setattr(
        DuckLake, reader, lambda *args, **kwargs: stored(*args, **kwargs).with_columns(pl.col("at").dt.truncate("1d"))[::-1]
    )
    for day, part in enumerate(PARTS):
        lake.write(TABLE, rows(day).with_columns(pl.col("at").dt.truncate("1d")), [part], event_timestamp="at", key=["id"])
    sorted_rows.clear()
    assert read(lake).height == 15_000
    assert sorted_rows == [15_000]


def test_only_the_changed_partition_of_a_write_is_sorted(lake, sorted_rows) -> None:
    before = lake.records(TABLE)
    changed = rows(1).with_columns(value=pl.lit(0.5))
    commit = lake.write(TABLE, pl.concat([rows(0), changed, rows(2)]), PARTS, event_timestamp="at", key=["id"])
    assert commit.changed == (PARTS[1].key,)
    assert sorted_rows == [5000]
    again = lake.write(TABLE, pl.concat([rows(2), changed, rows(0)]), PARTS, event_timestamp="at", key=["id"])
    assert again.changed == ()
    assert sorted_rows == [5000]
    after = lake.records(TABLE)
    assert {key: after[key].content_hash == before[key].content_hash for key in after} == {
        "2024-01-01": True,
        "2024-01-02": False,
        "2024-01-03": True,
    }


def test_another_key_is_hashed_again_and_new_inputs_keep_the_order_of_the_stored_rows(lake, sorted_rows) -> None:
    lake.write(TABLE, rows(0), [PARTS[0]], event_timestamp="at", key=["value"])
    assert sorted_rows == [5000]
    assert lake.records(TABLE)[PARTS[0].key].coverage["key"] == ["value"]
    stored = lake.records(TABLE)[PARTS[1].key].coverage["stored_order"]
    same_time = rows(1).with_columns(pl.lit(BASE + timedelta(days=1)).alias("at"))
    lake.write(TABLE, same_time, [PARTS[1]], event_timestamp="at", key=["id"])
    written = lake.records(TABLE)[PARTS[1].key]
    assert written.coverage["stored_order"] != stored
    lake.write(TABLE, same_time[::-1], [replace(PARTS[1], inputs="others")], event_timestamp="at", key=["id"])
    kept = lake.records(TABLE)[PARTS[1].key]
    assert (kept.inputs, kept.content_hash, kept.coverage) == ("others", written.content_hash, written.coverage)
    sorted_rows.clear()
    assert read(lake).height == 15_000
    assert sorted_rows == []


def test_a_damaged_content_hash_in_a_record_is_found_although_the_rows_are_in_order(lake) -> None:
    other = "f" * 64
    lake.connections.cursor().execute(
        f"UPDATE lake.\"_mlops\".\"partitions\" SET content_hash = '{other}' WHERE partition = '{PARTS[1].key}'"
    )
    with pytest.raises(ArtifactError, match="partition '2024-01-02' does not hold what was recorded"):
        read(lake)


def test_a_partition_that_is_marked_as_damaged_is_rebuilt_from_the_same_rows(lake, sorted_rows) -> None:
    lake.mark_damaged([lake.records(TABLE)[PARTS[1].key]])
    assert lake.write(TABLE, rows(1), [PARTS[1]], event_timestamp="at", key=["id"]).changed == (PARTS[1].key,)
    assert sorted_rows == [5000]
    assert read(lake).height == 15_000


def test_no_training_set_and_no_model_is_made_from_a_damaged_file(run, platform) -> None:
    world = project.World()
    runner = run(project.build(platform, world))
    runner(*project.DATA, *project.TRAIN, partitions=project.MONTH)
    folder = Path(platform.lake) / "data"
    [file] = (folder / "dataset" / "visits").glob("*.parquet")
    good = file.read_bytes()
    label = next(place for place in range(200, len(good)) if _changes_one_value(platform, "dataset/visits", file, place))
    one_bit(file, label)
    forget(platform)
    message = runner.error("training_set/examples")
    assert "'dataset/visits' partition '2024-01-" in message
    assert str(file) in message
    file.write_bytes(good)
    runner("dataset/visits", "training_set/examples", partitions=project.MONTH)
    [file] = (folder / "training_set" / "examples").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    forget(platform)
    assert "'training_set/examples' does not hold what was recorded" in runner.error(
        "model/buys", config={"model__buys_candidate": {"C": 0.5}}
    )
    assert world.trained == 1


def test_no_layout_of_a_view_is_made_from_a_damaged_file(run, platform) -> None:
    shop_shares = project.nouns(project.World())[2]
    run(project.build(platform, project.World()))(*project.DATA, partitions=project.MONTH)
    [file] = (Path(platform.lake) / "data" / "features" / "shop_shares").glob("*.parquet")
    good = file.read_bytes()
    one_bit(file, next(p for p in range(200, len(good)) if _changes_one_value(platform, "features/shop_shares", file, p)))
    forget(platform)
    with pytest.raises(ArtifactError, match="'features/shop_shares' partition '2024-01-"):
        open_stores(platform).layouts.load(shop_shares)


def forget(platform) -> None:
    """Read files anew, as another process would: a connection keeps what it has read."""
    vars(open_stores(platform).lake.connections._local).clear()


def _changes_one_value(platform, table: str, file: Path, place: int) -> bool:
    """Whether a flipped bit at a place is read as other rows without an error, by a fresh connection."""
    good = file.read_bytes()
    before = DuckLake.open(platform.lake).read(table)
    one_bit(file, place)
    try:
        return not DuckLake.open(platform.lake).read(table).equals(before)
    except LakeError:
        return False
    finally:
        file.write_bytes(good)
