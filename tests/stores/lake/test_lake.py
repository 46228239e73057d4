"""The lake: one transaction a write, time travel, readers beside writers."""

import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import duckdb
import polars as pl
import pytest

from mlops_assets.errors import DataError, InstallationError, LakeError
from mlops_assets.stores.lake.connection import LakeConnections, link_extensions
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.lake.record_reader import MAX_KEPT, RecordReader
from mlops_assets.values.window import TimeWindow
from tests.commands import warm_context

BASE = datetime(2024, 1, 1, tzinfo=UTC)
TABLE = "dataset/events"


def window(first: int, last: int | None = None) -> TimeWindow:
    return TimeWindow(BASE + timedelta(days=first), BASE + timedelta(days=(first if last is None else last) + 1))


def part(day: int, inputs: str = "") -> Partition:
    return Partition(f"2024-01-{day + 1:02d}", window(day), inputs)


def rows(*days: int, value: float = 1.0, n: int = 3) -> pl.DataFrame:
    return pl.DataFrame(
        [{"id": f"{day}-{i}", "at": BASE + timedelta(days=day, hours=i), "value": value} for day in days for i in range(n)],
        schema={"id": pl.String, "at": pl.Datetime("us", "UTC"), "value": pl.Float64},
    )


def write(lake, frame, parts, **more):
    return lake.write(TABLE, frame, parts, event_timestamp="at", key=["id"], **more)


@pytest.fixture
def lake(tmp_path):
    return DuckLake.open(tmp_path / "lake")


def test_a_write_replaces_exactly_its_windows(lake) -> None:
    write(lake, rows(0, 1, 2), [part(0), part(1), part(2)])
    done = write(lake, rows(1, value=9.0, n=2), [part(1)])
    assert done.changed == ("2024-01-02",)
    found = lake.read(TABLE).sort("id")
    assert found.equals(pl.concat([rows(0), rows(1, value=9.0, n=2), rows(2)]).sort("id"))
    assert lake.read(TABLE, window=window(1), event_timestamp="at", columns=["id"]).height == 2


def test_rows_are_read_by_the_values_of_a_column(lake) -> None:
    frame = rows(0, 1).with_columns(name=pl.Series(["a", "it's", "c"] * 2))
    write(lake, frame, [part(0), part(1)])

    def count(*names: str, **more) -> int:
        return lake.read(TABLE, values={"name": names}, **more).height

    assert (count("a"), count("a", "it's"), count("x"), count()) == (2, 4, 0, 0)
    assert count("a", "c", window=window(1), event_timestamp="at", columns=["id"]) == 2


def test_the_same_rows_again_make_no_snapshot(lake) -> None:
    first = write(lake, rows(0, 1), [part(0), part(1)])
    again = write(lake, rows(1, 0)[::-1], [part(0), part(1)])
    assert (again.snapshot, again.changed) == (first.snapshot, ())
    assert [r.content_hash for r in again.records] == [r.content_hash for r in first.records]


def test_other_inputs_of_the_same_rows_are_recorded_without_rewriting(lake) -> None:
    write(lake, rows(0), [part(0, "a")])
    done = write(lake, rows(0), [part(0, "b")])
    assert done.changed == ()
    assert lake.records(TABLE)["2024-01-01"].inputs == "b"


def test_columns_that_do_not_count_do_not_change_the_hash(lake) -> None:
    with_run = [rows(0).with_columns(run_id=pl.lit(name)) for name in ("one", "two")]
    write(lake, with_run[0], [part(0)], unhashed_columns=["run_id"])
    assert write(lake, with_run[1], [part(0)], unhashed_columns=["run_id"]).changed == ()


def test_a_snapshot_shows_every_table_as_it_was(lake) -> None:
    before = write(lake, rows(0), [part(0)]).snapshot
    lake.write("training_set/x", rows(0), [Partition("")])
    write(lake, rows(0, value=2.0), [part(0)])
    assert lake.read(TABLE, snapshot=before).equals(rows(0))
    assert lake.records(TABLE, snapshot=before)["2024-01-01"].content_hash != lake.records(TABLE)["2024-01-01"].content_hash
    with pytest.raises(LakeError, match=f"no table 'training_set/x' in snapshot {before}"):
        lake.read("training_set/x", snapshot=before)


def test_pinned_snapshots_survive_upkeep(lake) -> None:
    pins = {write(lake, rows(0, value=float(i)), [part(0)]).snapshot: float(i) for i in range(6)}
    kept = dict(list(pins.items())[1::2])
    report = lake.maintain(kept, older_than=timedelta(0))
    assert report.expired_snapshots > 0
    for snapshot, value in kept.items():
        assert lake.read(TABLE, snapshot=snapshot)["value"].unique().to_list() == [value]
    assert lake.read(TABLE)["value"].unique().to_list() == [5.0]
    lost = next(s for s in pins if s not in kept and s != max(pins))
    hint = f"Hint: read the newest snapshot, {lake.snapshot()}; `mlops gc` keeps only those that a version"
    for read in (lake.read, lake.records):
        with pytest.raises(LakeError, match=f"^'{TABLE}' cannot be read: snapshot {lost} has expired\n{hint}"):
            read(TABLE, snapshot=lost)


@pytest.mark.parametrize("snapshot", [-1, 999, 2**70])
def test_a_snapshot_that_never_was_is_not_called_damage(lake, snapshot) -> None:
    write(lake, rows(0), [part(0)])
    reads = [lambda: lake.read(TABLE, snapshot=snapshot), lambda: lake.records(TABLE, snapshot=snapshot)]
    reads.append(lambda: lake.find_keys(TABLE, rows(0).select("id"), outside=[window(0)], event_timestamp="at", snapshot=snapshot))
    for read in reads:
        with pytest.raises(
            LakeError, match=f"'{TABLE}' cannot be read: the lake has no snapshot {snapshot}\nHint: read the newest snapshot, "
        ):
            read()


def test_a_column_that_a_table_lacks_is_not_called_damage(lake) -> None:
    write(lake, rows(0), [part(0)])
    for unknown in ({"columns": ["valeu"]}, {"window": window(0), "event_timestamp": "valeu"}):
        with pytest.raises(LakeError, match=f"'{TABLE}' cannot be read: .*\"valeu\" not found.*\nHint: it has id, at, value$"):
            lake.read(TABLE, **unknown)


def test_rows_outside_of_their_partitions_are_refused_and_nothing_changes(lake) -> None:
    write(lake, rows(0, 1), [part(0), part(1)])
    before = lake.snapshot()
    with pytest.raises(DataError, match="rows lie outside of the partitions"):
        write(lake, rows(0, 3), [part(0)])
    with pytest.raises(LakeError, match="'dataset/events': column 'value' is Float64 in the lake and String"):
        write(lake, rows(0).with_columns(pl.col("value").cast(pl.String)), [part(0)])
    assert lake.snapshot() == before
    assert lake.read(TABLE).sort("at").equals(rows(0, 1).sort("at"))


def test_a_failure_between_delete_and_insert_leaves_the_earlier_rows(lake, monkeypatch) -> None:
    write(lake, rows(0), [part(0)])

    def broken(*_args):
        raise OSError("disk full")

    monkeypatch.setattr(lake, "_insert_rows", broken)
    with pytest.raises(OSError, match="disk full"):
        write(lake, rows(0, value=2.0), [part(0)])
    monkeypatch.undo()
    assert lake.read(TABLE).equals(rows(0))
    assert write(lake, rows(0, value=2.0), [part(0)]).changed == ("2024-01-01",)


def test_new_columns_are_added_and_whole_tables_change_their_shape(lake) -> None:
    write(lake, rows(0), [part(0)])
    write(lake, rows(1).with_columns(extra=pl.lit("x")), [part(1)])
    assert lake.read(TABLE).sort("id")["extra"].to_list() == [None] * 3 + ["x"] * 3
    lake.write("training_set/x", pl.DataFrame({"a": [1]}), [Partition("")])
    lake.write("training_set/x", pl.DataFrame({"b": ["x"]}), [Partition("")])
    assert lake.read("training_set/x").columns == ["b"]


def test_values_come_back_as_they_went(lake) -> None:
    frame = pl.DataFrame(
        {
            "i": [2**53 + 1, None],
            "u": [2**64 - 1, 0],
            "f": [float("nan"), None],
            "s": ["ü", ""],
            "b": [True, None],
            "l": [[1, None], []],
            "t": [BASE, None],
        },
        schema_overrides={"u": pl.UInt64, "t": pl.Datetime("us", "UTC")},
    )
    lake.write("dataset/types", frame, [Partition("")])
    assert lake.read("dataset/types").equals(frame, null_equal=True)
    lake.write("dataset/empty", frame.clear(), [Partition("")])
    assert lake.read("dataset/empty").schema == frame.schema
    assert lake.records("dataset/empty")[""].rows == 0


def test_a_missing_table_is_named_with_the_nearest(lake) -> None:
    write(lake, rows(0), [part(0)])
    with pytest.raises(LakeError, match="no table 'dataset/event'.*\n.*did you mean 'dataset/events'"):
        lake.read("dataset/event")
    with pytest.raises(LakeError, match="not a table's name"):
        lake.read('x"; drop table y/z')


def test_tables_that_others_write_are_recorded(lake) -> None:
    with lake.lock():
        lake.connections.cursor().execute('CREATE SCHEMA lake."dataset"; CREATE TABLE lake."dataset"."theirs" AS SELECT 1 AS id')
    first = lake.record("dataset/theirs", [Partition("")], key=["id"])
    assert first.changed == ("",)
    assert lake.record("dataset/theirs", [Partition("")], key=["id"]).changed == ()
    lake.connections.cursor().execute('INSERT INTO lake."dataset"."theirs" VALUES (2)')
    assert lake.record("dataset/theirs", [Partition("")], key=["id"]).records[0].rows == 2


def _write_in_a_process(folder, days) -> None:
    lake = DuckLake.open(folder)
    for day in days:
        write(lake, rows(day), [part(day)])


def test_cold_processes_write_at_once_while_this_one_reads(tmp_path, lake) -> None:
    write(lake, rows(30), [part(30)])
    context = warm_context()
    writers = [context.Process(target=_write_in_a_process, args=(tmp_path / "lake", range(i * 3, i * 3 + 3))) for i in range(4)]
    for process in writers:
        process.start()
    heights = []
    while any(process.is_alive() for process in writers):
        heights.append(lake.read(TABLE).height)
    for process in writers:
        process.join()
        assert process.exitcode == 0
    assert all(height % 3 == 0 for height in heights)
    assert lake.read(TABLE).height == 13 * 3
    assert len(lake.records(TABLE)) == 13


def test_threads_of_one_process_take_turns(lake) -> None:
    threads = [threading.Thread(target=write, args=(lake, rows(day), [part(day)])) for day in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lake.read(TABLE).height == 18


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallationError, match="cannot be written"):
        DuckLake.open(tmp_path / "file" / "lake")
    with pytest.raises(InstallationError, match="is not a folder"):
        DuckLake.open("postgres://x/y")


def test_the_extensions_are_found_without_a_network(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    lake = DuckLake.open(tmp_path / "lake")
    write(lake, rows(0), [part(0)])
    assert not list(tmp_path.rglob("*.duckdb_extension"))  # they are loaded from their wheels
    assert not (tmp_path / "home").exists()
    assert stat.S_ISREG((tmp_path / "lake" / "catalog.sqlite").stat().st_mode)
    assert duckdb.__version__.startswith("1.")


def test_a_program_that_loads_extensions_by_name_finds_the_installed_ones(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    lake = LakeConnections(tmp_path / "lake")
    write(DuckLake(lake), rows(0), [part(0)])
    for _ in range(2):  # the second time there is nothing to do; a link to another environment's file is replaced
        link_extensions(tmp_path / "extensions")
        [link] = (tmp_path / "extensions").rglob("ducklake.duckdb_extension")
        with duckdb.connect(config={"extension_directory": str(tmp_path / "extensions")}) as other:
            for name in ("ducklake", "sqlite_scanner"):
                other.install_extension(name)
                other.load_extension(name)
            other.execute(lake.attach_sql())
        link.unlink()
        link.symlink_to(tmp_path / "gone")


WRITE_AND_READ = """
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
import polars as pl
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.values.window import TimeWindow

lake, start = DuckLake.open(sys.argv[1]), datetime(2024, 1, 1, tzinfo=UTC)
days = [TimeWindow(start + timedelta(days=day), start + timedelta(days=day + 1)) for day in range(2)]
for value in (1, 1.5):
    frame = pl.DataFrame({"id": ["a", "b"], "at": [day.start for day in days], "value": [value, value]})
    lake.write("dataset/events", frame, [Partition(str(day.start.date()), day) for day in days], event_timestamp="at", key=["id"])
    assert lake.read("dataset/events", window=days[1], event_timestamp="at")["value"].to_list() == [value]
    keys = pl.DataFrame({"id": ["a"]})
    found = lake.find_keys("dataset/events", keys, outside=days[1:], event_timestamp="at", snapshot=lake.snapshot())
    assert found["id"].to_list() == ["a"]
print("pandas" in sys.modules)
"""


def test_rows_are_written_searched_and_read_without_pandas(tmp_path) -> None:
    ended = subprocess.run([sys.executable, "-c", WRITE_AND_READ, str(tmp_path / "lake")], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "False"), ended.stderr


def test_frozen_records_are_those_of_one_snapshot_for_every_table(lake) -> None:
    with lake.freeze_records():
        assert (lake.snapshot(), lake.records(TABLE)) == (0, {}), "an empty lake"
    first = write(lake, rows(0), [part(0)]).snapshot
    lake.write("training_set/x", rows(0), [Partition("")])
    newest = write(lake, rows(0, 1, value=2.0), [part(0), part(1)]).snapshot
    read = {table: lake.records(table) for table in (TABLE, "training_set/x", "dataset/none")}
    with lake.freeze_records():
        write(lake, rows(2), [part(2)])
        assert {table: lake.records(table) for table in read} == read
        assert (lake.snapshot(), lake.records(TABLE, snapshot=newest)) == (newest, read[TABLE])
        assert list(lake.records(TABLE, snapshot=first)) == ["2024-01-01"]
        with ThreadPoolExecutor(1) as other_thread:
            assert list(other_thread.submit(lake.records, TABLE).result()) == ["2024-01-01", "2024-01-02", "2024-01-03"]
    assert list(lake.records(TABLE)) == ["2024-01-01", "2024-01-02", "2024-01-03"]
    assert lake.snapshot() == newest + 1


def test_records_of_a_snapshot_are_queried_once_and_those_of_the_newest_each_time(tmp_path, monkeypatch) -> None:
    lake = DuckLake.open(tmp_path / "lake")
    lake.write("dataset/a", pl.DataFrame({"id": [1]}), [Partition("")])
    queried, query = [], RecordReader._query
    monkeypatch.setattr(RecordReader, "_query", lambda reader, *state: queried.append(state) or query(reader, *state))
    first = lake.snapshot()
    records = lake.records("dataset/a", snapshot=first)
    records.clear()
    assert lake.records("dataset/a", snapshot=first)[""].rows == 1
    lake.write("dataset/a", pl.DataFrame({"id": [1, 2]}), [Partition("")])
    assert lake.records("dataset/a", snapshot=first)[""].rows == 1
    assert lake.records("dataset/a")[""].rows == 2
    assert queried == [("dataset/a", first), ("dataset/a", None)]
    for number in range(first + 1):
        for table in ("dataset/a", "dataset/b", "dataset/c", "dataset/d", "dataset/e"):
            lake.records(table, snapshot=number)
    assert len(lake.connections.open_record_cache()) <= MAX_KEPT
