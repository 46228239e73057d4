"""What a user's function raises in polars, pandas and DuckDB says where, and what to do about it."""

import traceback
from datetime import UTC, datetime

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression

from mlops_assets.compute.features.on_demand import apply_on_demand
from mlops_assets.compute.user_code.user_errors import shorten, translate_errors
from mlops_assets.errors import DataError

START = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = pl.DataFrame({"at": [datetime(2024, 1, 1)], "zoned": [START], "price": [1.0], "name": ["a"]})
PANDAS = ROWS.to_pandas()


def relation() -> duckdb.DuckDBPyRelation:
    return duckdb.connect().from_arrow(ROWS.to_arrow())


MISSING = {
    "polars, lazy": lambda: ROWS.lazy().filter(pl.col("prise") > 1).collect(),
    "polars, eager": lambda: ROWS["prise"],
    "polars, select": lambda: ROWS.select("prise"),
    "pandas": lambda: PANDAS["prise"],
    "pandas, several": lambda: PANDAS[["prise", "name"]],
    "pandas, dropped": lambda: PANDAS.drop(columns="prise"),
    "pandas, attribute": lambda: PANDAS.prise,
    "pandas, grouped": lambda: PANDAS.groupby("prise").sum(),
    "DuckDB": lambda: relation().filter("prise > 1"),
    "DuckDB, projected": lambda: relation().project("prise"),
}
NAIVE = {
    "polars, lazy": lambda: ROWS.lazy().filter(pl.col("at") >= START).collect(),
    "polars, between": lambda: ROWS.lazy().filter(pl.col("at").is_between(START, START)).collect(),
    "polars, series": lambda: ROWS.filter(ROWS["at"] >= START),
    "pandas": lambda: PANDAS[PANDAS["at"] >= START],
    "pandas, timestamp": lambda: PANDAS[PANDAS["at"] >= pd.Timestamp(START)],
}
ZONED = {
    "polars": lambda: ROWS.lazy().filter(pl.col("zoned") >= datetime(2024, 1, 1)).collect(),
    "pandas": lambda: PANDAS[PANDAS["zoned"] >= datetime(2024, 1, 1)],
}
TYPES = {
    "polars, compared": lambda: ROWS.filter(pl.col("name") > 1),
    "polars, multiplied": lambda: ROWS.lazy().select(pl.col("name") * pl.col("price")).collect(),
    "polars, joined": lambda: ROWS.join(ROWS, left_on="price", right_on="name"),
    "polars, cast": lambda: ROWS.select(pl.col("name").cast(pl.Int64)),
    "pandas": lambda: PANDAS[PANDAS["name"] > 1],
    "pyarrow": lambda: pa.array(["a", 1.0]),
    "DuckDB": lambda: relation().filter("name > 1").fetchall(),
    "DuckDB, subtracted": lambda: relation().project("name - price").fetchall(),
}


def raised(function) -> DataError:
    with pytest.raises(DataError) as found, translate_errors(function, "'dataset/prices' partition '2024-01-01'", lambda: ROWS.columns):
        function()
    error = found.value
    assert error.message.startswith("'dataset/prices' partition '2024-01-01': ")
    assert f"{'tests/compute/user_code/test_user_errors.py'}:{function.__code__.co_firstlineno}, in <lambda>" in error.message
    assert error.__cause__ is not None
    assert "\n" not in error.message
    assert len(error.message) < 600
    return error


@pytest.mark.parametrize("case", MISSING)
def test_a_missing_column_is_answered_with_the_nearest_one(case) -> None:
    error = raised(MISSING[case])
    assert "prise" in error.message
    assert error.hint.startswith("did you mean 'price'? there are at, zoned, price, name"), error.hint


@pytest.mark.parametrize("case", NAIVE)
def test_a_naive_time_against_the_window_is_answered_with_both_remedies(case) -> None:
    hint = raised(NAIVE[case]).hint
    assert "window.start.replace(tzinfo=None)" in hint
    assert "dt.replace_time_zone('UTC')" in hint or "dt.tz_localize('UTC')" in hint


@pytest.mark.parametrize("case", ZONED)
def test_a_zoned_time_against_a_naive_one_is_answered_with_a_zone(case) -> None:
    assert "tzinfo=UTC" in raised(ZONED[case]).hint


@pytest.mark.parametrize("case", TYPES)
def test_types_that_do_not_meet_are_answered_with_a_cast(case) -> None:
    assert "cast one of them" in raised(TYPES[case]).hint


def test_the_plan_of_a_query_is_cut_and_the_expression_stays() -> None:
    error = raised(NAIVE["polars, lazy"])
    assert 'in [(col("at")) >= (2024-01-01 00:00:00 UTC)]' in error.message
    assert "PROJECT" not in raised(TYPES["polars, multiplied"]).message
    assert "Candidate functions" not in raised(TYPES["DuckDB, subtracted"]).message
    assert shorten("x" * 1000) == "x" * 400 + "…"


def test_what_other_libraries_raise_is_named_too() -> None:
    error = raised(lambda: LinearRegression().fit([[np.nan]], [1.0]))
    assert "ValueError: Input X contains NaN" in error.message
    compiled = raised(lambda: np.random.default_rng(0).choice(-1))
    assert "ValueError: a must be a positive integer" in compiled.message


def test_the_projects_own_exceptions_keep_their_type_and_say_where() -> None:
    def prices() -> None:
        msg = "the source sent nothing"
        raise LookupError(msg)

    with pytest.raises(LookupError) as found, translate_errors(prices, "'dataset/prices'"):
        prices()
    assert (
        "".join(traceback.format_exception_only(found.value))
        .splitlines()[-1]
        .startswith(
            f"raised in 'dataset/prices': tests/compute/user_code/test_user_errors.py:{prices.__code__.co_firstlineno + 2}, in prices"
        )
    )
    refused = DataError("a rule of ours", hint="as it is")
    with pytest.raises(DataError) as same, translate_errors(prices, "'dataset/prices'"):
        raise refused
    assert same.value is refused


def test_on_demand_functions_say_where_they_fail() -> None:
    def clock(at: np.ndarray) -> dict[str, np.ndarray]:
        return {"hour": np.add(at, np.array(["x"]))}

    with pytest.raises(DataError, match="on-demand features 'clock': .*Error: .*test_user_errors.py:") as found:
        apply_on_demand([clock], {"at": np.zeros(1)})
    assert found.value.__cause__ is not None
