"""A function is described only if its arguments alone determine its result; the description changes with its code and its constants."""

import math
import os
import time
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from mlops_assets.compute.user_code import pure_functions
from mlops_assets.compute.user_code.pure_functions import describe_pure_function

LATE, COLUMNS, WAIT = 15.0, ("a", "b"), timedelta(days=1)
MUTABLE = ["a"]
NOW = time.time


def helper(frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame


def plain(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Keep some columns."""
    landed = rows.filter(pl.col("delay").is_not_null())
    names = [name for name in COLUMNS if len(name) > 0]
    return landed.select(*names, late=pl.col("delay") > LATE, until=pl.col("at") + WAIT + timedelta(hours=1))


def array(at: np.ndarray) -> dict[str, np.ndarray]:
    import math

    return {"hour": at.astype("datetime64[h]").astype(int) % 24, "root": np.sqrt(at) * math.pi}


def with_module(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.filter(pl.col("x") > time.timezone)


def reads_clock(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.filter(pl.col("at") < datetime.now())  # noqa: DTZ005


def calls_clock(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.filter(pl.col("at") < NOW())


def reads_clock_by_numpy(at: np.ndarray) -> dict[str, np.ndarray]:
    return {"age": np.datetime64("now") - at}


def draws(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sample(3)


def draws_with_numpy(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(x=np.random.default_rng().random(rows.height))


def imports_random(rows: pl.DataFrame) -> pl.DataFrame:
    from numpy.random import normal

    return rows.with_columns(x=normal())


def reads_file(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.join(pl.read_csv("prices.csv"), on="id")


def queries(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sql("SELECT * FROM self JOIN read_csv('prices.csv') USING (id)")


def opens(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("id") == open("id.txt").read())  # noqa: PTH123


def reads_environment(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("id") == os.environ["ID"])


def calls_project(rows: pl.LazyFrame) -> pl.LazyFrame:
    return helper(rows)


def pipes_project(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.pipe(helper)


def uses_mutable(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.select(MUTABLE)


def gets_attribute(rows: pl.LazyFrame) -> pl.LazyFrame:
    return getattr(rows, "sam" + "ple")()


def f(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows


def counts(rows: pl.LazyFrame) -> pl.LazyFrame:
    global LATE  # noqa: PLW0603
    LATE = LATE + 1
    return rows


def with_default(rows: pl.LazyFrame, bound=NOW()) -> pl.LazyFrame:  # noqa: B008
    return rows.filter(pl.col("x") < bound)


IMPURE = [
    reads_clock, reads_clock_by_numpy, calls_clock, draws, draws_with_numpy, imports_random, reads_file, queries, opens, reads_environment, calls_project,
    pipes_project, uses_mutable, gets_attribute, counts, with_default,
]  # fmt: skip


@pytest.mark.parametrize("function", [plain, array], ids=lambda f: f.__name__)
def test_functions_of_their_arguments_and_of_constants_are_described(function) -> None:
    assert describe_pure_function(function) == describe_pure_function(function)
    assert describe_pure_function(function) is not None


@pytest.mark.parametrize("function", IMPURE, ids=lambda f: f.__name__)
def test_functions_that_may_depend_on_anything_else_are_not_described(function) -> None:
    assert describe_pure_function(function) is None


def test_functions_that_use_a_namespace_of_the_user_are_not_described() -> None:
    def keep(rows):
        return rows

    def plug(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.of_the_user.keep()

    assert describe_pure_function(plug) is not None
    pl.api.register_lazyframe_namespace("of_the_user")(type("OfTheUser", (), {"keep": keep}))
    try:
        assert describe_pure_function(plug) is None
    finally:
        del pl.LazyFrame.of_the_user


def test_functions_that_hold_values_of_another_function_or_wrap_another_are_not_described() -> None:
    bound = math.pi

    def inner(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.filter(pl.col("x") < bound)

    assert describe_pure_function(inner) is None
    wrapper = describe_pure_function(lambda rows: rows)
    assert wrapper is None
    assert describe_pure_function(math.sqrt) is None


def test_the_description_changes_with_a_constant(monkeypatch) -> None:
    before, with_attribute = describe_pure_function(plain), describe_pure_function(with_module)
    monkeypatch.setitem(plain.__globals__, "LATE", 20.0)
    assert describe_pure_function(plain) not in {before, None}
    monkeypatch.setattr(time, "timezone", 7)
    assert describe_pure_function(with_module) not in {with_attribute, None}


def test_the_description_changes_with_the_code_and_not_with_the_docstring_or_annotations(monkeypatch) -> None:
    texts = [
        "def f(rows: pl.LazyFrame) -> pl.LazyFrame:\n    '''One.'''\n    return rows.head(1)\n",
        "def f(rows):\n    return rows.head(1)\n",
        "def f(rows):\n    return rows.head(2)\n",
    ]
    described = []
    for text in texts:
        monkeypatch.setattr(pure_functions.inspect, "getsource", lambda _, text=text: text)
        described.append(describe_pure_function(f))
    assert described[0] == described[1] != described[2]
    assert None not in described
