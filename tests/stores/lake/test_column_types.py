"""The lake gives back what it is given: the types that it takes, those that it refuses, and what becomes of a table's columns."""

from __future__ import annotations

import decimal
import itertools
from datetime import UTC, date, datetime, time, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from polars.testing.parametric import dataframes

from mlops_assets.compute.tables.stored_types import cast_to_stored, count_truncated_times, normalize
from mlops_assets.errors import DataError, LakeError
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.lake.verified_reads import read_verified
from mlops_assets.values.window import TimeWindow

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
KEYS = [f"2024-01-0{day}" for day in (1, 2, 3)]
PARTS = [Partition(key, TimeWindow(START + i * DAY, START + (i + 1) * DAY)) for i, key in enumerate(KEYS)]
WHOLE = [Partition("")]
NAMES = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
NUMBERS = itertools.count()

SCALARS = [
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64),
    *(pl.Boolean, pl.String, pl.Binary, pl.Date, pl.Datetime("us"), pl.Datetime("us", "UTC"), pl.Decimal(38, 2), pl.Null),
    *(pl.Datetime("ns", "UTC"), pl.Datetime("ms"), pl.Datetime("us", "Europe/Berlin"), pl.Categorical, pl.Enum(["a", "b"])),
]
REFUSED = [pl.Time, pl.Duration("us"), pl.Int128, pl.UInt128, pl.Float16, pl.Array(pl.Int64, 2), pl.Struct({}), pl.Object]


def nested(dtype: pl.DataType) -> list[pl.DataType]:
    """Return a type inside of lists and structs."""
    return [pl.List(dtype), pl.Struct({"a": dtype, "b": pl.Int64}), pl.List(pl.List(dtype)), pl.List(pl.Struct({"a": pl.List(dtype)}))]


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> DuckLake:
    return DuckLake.open(tmp_path_factory.mktemp("lake"))


def rows(day: int, **columns: object) -> pl.DataFrame:
    """Return rows of one day, at as many times as the columns have values."""
    frame = pl.DataFrame(columns)
    return frame.with_columns(
        at=pl.Series([START + day * DAY + timedelta(minutes=i) for i in range(frame.height)], dtype=pl.Datetime("us", "UTC"))
    )


@pytest.fixture
def table() -> str:
    return f"dataset/t_{next(NUMBERS)}"


def write(lake: DuckLake, table: str, days: list[int], frame: pl.DataFrame):
    return lake.write(table, frame, [PARTS[day] for day in days], event_timestamp="at", key=[])


def verified(lake: DuckLake, table: str) -> pl.DataFrame:
    return read_verified(lake, table, PARTS, window=None, event_timestamp="at", snapshot=lake.snapshot())


def comes_back(lake: DuckLake, frame: pl.DataFrame) -> None:
    """Write a frame as a table and read it again: names, types and values are those that were normalised, and the hash is that recorded."""
    table, numbered = f"dataset/round_{next(NUMBERS)}", frame.with_row_index("number of the row")
    lake.write(table, numbered, WHOLE)
    read = read_verified(lake, table, WHOLE, window=None, event_timestamp=None, snapshot=lake.snapshot())
    assert_frame_equal(read.sort("number of the row"), normalize(numbered))


def test_an_empty_frame_of_every_allowed_type_comes_back_at_any_depth(lake) -> None:
    kinds = [kind for dtype in SCALARS for kind in (dtype, *nested(dtype))]
    comes_back(lake, pl.DataFrame(schema={f"c{i}": kind for i, kind in enumerate(kinds)}))
    comes_back(lake, pl.DataFrame({f"c{i}": pl.Series([None, None], dtype=kind) for i, kind in enumerate(kinds)}))


ALLOWED = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64, pl.Boolean]
ALLOWED += [pl.Binary, pl.Date, pl.Datetime, pl.Decimal, pl.Null, pl.List, pl.Struct, pl.Categorical, pl.String]


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    dataframes(
        max_cols=10,
        max_size=5,
        allowed_dtypes=ALLOWED,
        excluded_dtypes=[pl.Datetime("ns"), pl.Duration, pl.Time, pl.Array],
        allow_null=True,
    )
)
def test_frames_of_allowed_types_come_back_as_they_were_given(lake, frame) -> None:
    try:
        normalize(frame)
    except DataError as error:
        assert "NUL" in error.message or "Decimal" in error.message  # noqa: PT017  (values of other kinds must be stored)
        return
    comes_back(lake, frame)


def test_lists_of_categories_of_zoned_times_of_nulls_and_empty_lists_come_back(lake) -> None:
    berlin = pl.Series([[START], []], dtype=pl.List(pl.Datetime("us", "UTC"))).cast(pl.List(pl.Datetime("us", "Europe/Berlin")))
    frame = pl.DataFrame(
        {
            "categories": pl.Series([["a", None], []], dtype=pl.List(pl.Categorical)),
            "zoned": berlin,
            "nulls": pl.Series([[None], []], dtype=pl.List(pl.Null)),
            "inside": pl.Series([{"x": ["a"]}, None], dtype=pl.Struct({"x": pl.List(pl.Categorical)})),
            "decimals": [[decimal.Decimal("1.50")], None],
            "days": [[date(2024, 1, 1)], []],
        }
    )
    comes_back(lake, frame)


@pytest.mark.parametrize(
    "dtype", [kind for refused in REFUSED for kind in (refused, pl.List(refused), pl.Struct({"a": pl.List(refused)}))], ids=str
)
def test_every_other_type_is_refused_with_the_column_and_a_cast(dtype) -> None:
    if dtype == pl.List(pl.Object) or (isinstance(dtype, pl.Struct) and "Object" in str(dtype)):
        pytest.skip("polars has no such column")
    frame = pl.DataFrame(schema={"good": pl.Int64, "bad": dtype})
    with pytest.raises(DataError, match=r"column 'bad' has type .*which the lake cannot hold") as caught:
        normalize(frame)
    assert any(word in caught.value.hint for word in ("cast", "store", "give", "build"))


def test_a_time_of_day_is_refused_and_the_process_lives(lake) -> None:
    with pytest.raises(DataError, match=r"'dataset/clock': column 'opens' has type Time") as caught:
        lake.write("dataset/clock", pl.DataFrame({"opens": [time(8, 30)]}), WHOLE)
    assert "pl.col('opens').cast(pl.String)" in caught.value.hint
    comes_back(lake, pl.DataFrame({"x": [1]}))


def test_names_that_differ_only_in_case_are_refused_at_any_depth(lake) -> None:
    with pytest.raises(DataError, match="'temp' and 'Temp' differ only in case"):
        lake.write("dataset/case", pl.DataFrame({"temp": [1], "Temp": [2]}), WHOLE)
    with pytest.raises(DataError, match="'B' and 'b' differ only in case"):
        normalize(pl.DataFrame({"x": [1], "B": [1], "Y": [1], "b": [1], "y": [1]}))
    with pytest.raises(DataError, match="column 's' has type Struct"):
        normalize(pl.DataFrame({"s": [{"a": 1, "A": 2}]}))
    assert lake.schema("dataset/case") == {}


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(NAMES, min_size=1, max_size=12), min_size=20, max_size=40, unique_by=str.lower))
def test_columns_of_any_name_are_stored_under_it(lake, names) -> None:
    comes_back(lake, pl.DataFrame({name: [1] for name in names}))


def test_text_with_a_nul_is_found_inside_of_lists_and_structs() -> None:
    for bad in ([["ok"], ["a", "b\x00"]], [{"x": "ok"}, {"x": "b\x00"}], ["ok", "b\x00"], ["\\u0000", "b\x00"]):
        with pytest.raises(DataError, match="NUL character, first in row 2"):
            normalize(pl.DataFrame({"s": bad}))


def test_times_that_lose_digits_are_counted_at_any_depth() -> None:
    exact, cut = 1_700_000_000_000_001_000, 1_700_000_000_000_000_800
    ns = pl.Datetime("ns", "UTC")
    frame = pl.DataFrame(
        {
            "exact": pl.Series([exact, None]).cast(ns),
            "cut": pl.Series([cut, exact]).cast(ns),
            "lists": pl.Series([[cut, cut], []]).cast(pl.List(ns)),
        }
    )
    assert count_truncated_times(frame) == {"cut": 1, "lists": 2}
    assert count_truncated_times(cast_to_stored(frame)) == {}


# What becomes of a table's columns when rows of some partitions have others.


@pytest.mark.parametrize(
    ("old", "new", "stored"),
    [
        (pl.Int32, pl.Int64, pl.Int64),
        (pl.Int64, pl.Int8, pl.Int64),
        (pl.UInt32, pl.Int32, pl.Int64),
        (pl.Float32, pl.Float64, pl.Float64),
        (pl.Float64, pl.Int64, pl.Float64),
        (pl.Int64, pl.Float64, pl.Float64),
        (pl.List(pl.Int64), pl.List(pl.Int16), pl.List(pl.Int64)),
    ],
    ids=str,
)
def test_a_type_is_widened_where_no_value_is_lost_and_old_partitions_stay_what_was_recorded(lake, table, old, new, stored) -> None:
    one, three = ([[1]], [[3]]) if old.is_nested() else ([1], [3])
    write(lake, table, [0], rows(0, x=pl.Series(one, dtype=old)))
    before = lake.snapshot()
    commit = write(lake, table, [1], rows(1, x=pl.Series(three, dtype=new)))
    frame = verified(lake, table).sort("at")
    assert frame["x"].to_list() == [*one, *three]
    assert frame.schema["x"] == stored
    assert (commit.columns != ()) == (stored != old)
    assert lake.read(table, snapshot=before).schema["x"] == old


@pytest.mark.parametrize(
    ("old", "new"),
    [([2**60], [0.5]), ([0.5], [2**60 + 1]), ([1], ["a"]), (["a"], [1]), ([START], ["2024"]), ([[1]], [[0.5]]), ([True], [1])],
)
def test_a_type_that_would_lose_values_is_refused_and_nothing_changes(lake, table, old, new) -> None:
    write(lake, table, [0], rows(0, x=old))
    before = lake.snapshot()
    with pytest.raises(LakeError, match=r"column 'x' is .* in the lake and .* in the new rows") as caught:
        write(lake, table, [1], rows(1, x=new))
    assert "all recorded partitions at once" in caught.value.hint
    assert lake.snapshot() == before
    assert verified(lake, table)["x"].to_list() == old


def test_columns_without_any_value_take_the_type_of_the_first_one(lake, table) -> None:
    empty, values = [pl.Float64, pl.Null, pl.String, pl.Boolean, pl.List(pl.Int64)], [1, 0.5, "yes", True, ["a"]]
    pairs = dict(enumerate(itertools.product(empty, values)))
    write(lake, table, [0], rows(0, **{f"x{i}": pl.Series([None], dtype=dtype) for i, (dtype, _) in pairs.items()}))
    write(lake, table, [1], rows(1, **{f"x{i}": [value] for i, (_, value) in pairs.items()}))
    write(lake, table, [2], rows(2, **{f"x{i}": pl.Series([None], dtype=pl.Null) for i in pairs}))
    found = verified(lake, table).sort("at")
    assert [found[f"x{i}"].to_list() for i in pairs] == [[None, value, None] for _, value in pairs.values()]


def test_empty_partitions_bind_no_type(lake, table) -> None:
    write(lake, table, [0], rows(0, x=[0.5]).clear())
    write(lake, table, [1], rows(1, x=["yes"]))
    assert verified(lake, table)["x"].to_list() == ["yes"]


def test_a_type_is_replaced_when_all_recorded_partitions_are_written_at_once(lake, table) -> None:
    write(lake, table, [0, 1], pl.concat([rows(0, x=[2**40]), rows(1, x=[2])]))
    before = lake.snapshot()
    commit = write(lake, table, [0, 1, 2], pl.concat([rows(0, x=["a"]), rows(1, x=["b"]), rows(2, x=["c"])]))
    assert commit.columns == ("column 'x' was Int64 and is now String",)
    assert verified(lake, table).sort("at")["x"].to_list() == ["a", "b", "c"]
    assert lake.read(table, snapshot=before).sort("at")["x"].to_list() == [2**40, 2]


def test_partitions_that_did_not_change_survive_when_the_table_is_replaced(lake, table) -> None:
    write(lake, table, [0, 1], pl.concat([rows(0, x=pl.Series([1], dtype=pl.Int64)), rows(1, x=pl.Series([-1], dtype=pl.Int64))]))
    write(lake, table, [0, 1], pl.concat([rows(0, x=pl.Series([1], dtype=pl.UInt64)), rows(1, x=pl.Series([2**63], dtype=pl.UInt64))]))
    assert verified(lake, table).sort("at")["x"].to_list() == [1, 2**63]


def test_new_and_missing_columns_are_announced(lake, table) -> None:
    assert write(lake, table, [0], rows(0, x=[1])).columns == ()
    assert write(lake, table, [1], rows(1, x=[1], y=[2])).columns == ("column 'y' is new; earlier partitions have no value in it",)
    assert write(lake, table, [2], rows(2, y=[2])).columns == ("column 'x' is missing in the new rows and null there",)
    assert verified(lake, table).sort("at").select("x", "y").rows() == [(1, None), (1, 2), (None, 2)]


def test_a_column_whose_name_differs_in_case_from_the_tables_is_refused(lake, table) -> None:
    write(lake, table, [0], rows(0, temp=[1]))
    with pytest.raises(LakeError, match="column 'Temp' is named 'temp' in the lake"):
        write(lake, table, [1], rows(1, Temp=[2]))
    assert list(lake.schema(table)) == ["temp", "at"]


def test_a_table_that_would_give_back_another_type_is_rolled_back(lake, monkeypatch) -> None:
    monkeypatch.setattr("mlops_assets.stores.lake.rows.normalize", lambda frame: frame)
    before = lake.snapshot()
    with pytest.raises(DataError, match=r"column 'x' of type List\(Null\) would be stored as List\(Int32\)"):
        lake.write("dataset/u", pl.DataFrame({"x": pl.Series([[None]], dtype=pl.List(pl.Null))}), WHOLE)
    with pytest.raises(DataError, match="column 'Temp' of type Int64 would be stored under another name"):
        lake.write("dataset/u", pl.DataFrame({"temp": [1], "Temp": [2]}), WHOLE)
    assert (lake.snapshot(), lake.schema("dataset/u")) == (before, {})
