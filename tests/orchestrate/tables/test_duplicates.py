"""Which row of a key counts: the first, the last, or by a column; the others are counted."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlops_assets as ml
from mlops_assets.compute.tables.duplicates import drop_duplicates
from mlops_assets.errors import DataError, DefinitionError
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import metadata

AT = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = pl.DataFrame({"id": [1, 2, 1, 1], "updated_at": [AT, AT, AT + timedelta(days=2), AT + timedelta(days=1)], "x": ["a", "b", "c", "d"]})


def made(run, platform, rows: pl.DataFrame, **declared):
    @ml.dataset(key="id", **declared)
    def orders() -> pl.DataFrame:
        return rows

    return run(ml.build_definitions([orders], platform=platform))


@pytest.mark.parametrize(
    ("declared", "kept"),
    [
        ({"keep": "first"}, ["a", "b"]),
        ({"keep": "last"}, ["d", "b"]),
        ({"order_by": "updated_at"}, ["c", "b"]),
        ({"order_by": "updated_at", "keep": "first"}, ["a", "b"]),
    ],
)
def test_the_row_that_is_declared_counts_and_the_others_are_counted(run, platform, declared, kept) -> None:
    result = made(run, platform, ROWS, **declared)("dataset/orders")
    assert open_stores(platform).lake.read("dataset/orders").sort("id")["x"].to_list() == kept
    assert metadata(result, "dataset/orders")["duplicates"].startswith("2 of 4 rows dropped: only the ")


def test_without_a_declaration_a_key_twice_is_refused_and_a_null_key_is_in_any_case(run, platform) -> None:
    assert "the key {'id': 1} is on 3 rows" in made(run, platform, ROWS).error("dataset/orders")
    torn = ROWS.with_columns(id=pl.when(pl.col("x") != "b").then("id"))
    assert "column 'id' is part of the key and null in 1 row(s)" in made(run, platform, torn, keep="last").error("dataset/orders")


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 3))), max_size=20), st.sampled_from(["first", "last"]))
def test_one_row_of_each_key_is_kept_as_a_plain_loop_keeps_it(pairs, keep) -> None:
    frame = pl.DataFrame(
        [(*pair, row) for row, pair in enumerate(pairs)], schema={"id": pl.Int64, "at": pl.Int64, "row": pl.Int64}, orient="row"
    )
    ranked = sorted(range(len(pairs)), key=lambda row: (-1 if pairs[row][1] is None else pairs[row][1], row))
    wanted = {pairs[row][0]: row for row in (ranked if keep == "last" else reversed(ranked))}
    rows, count = drop_duplicates(frame, ["id"], keep, "at")
    assert rows["row"].to_list() == sorted(wanted.values())
    assert count == len(pairs) - len(wanted)


def test_keys_that_are_one_in_microseconds_are_one() -> None:
    frame = pl.DataFrame({"at": pl.Series([0, 800]).cast(pl.Datetime("ns", "UTC")), "x": [1, 2]})
    assert drop_duplicates(frame, ["at"], "last")[0]["x"].to_list() == [2]


def test_what_cannot_be_declared_is_refused_with_a_hint() -> None:
    with pytest.raises(DefinitionError, match="declares no key"):
        ml.dataset(keep="last")(lambda_like)
    with pytest.raises(DefinitionError, match='keep="first" or keep="last"'):
        ml.dataset(key="id", keep="newest")(lambda_like)
    with pytest.raises(DataError, match="did you mean 'updated_at'"):
        drop_duplicates(ROWS, ["id"], "last", "updated")


def lambda_like() -> pl.DataFrame:
    return ROWS
