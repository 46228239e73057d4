"""Five datasets of one row: content-hashed, verified and committed to the lake, each from the one before."""

import time

import polars as pl

import mlops_assets as ml


@ml.dataset(key="n")
def first() -> pl.DataFrame:
    """One row; the time in it makes its content new in each run, so that no step is spared its commit."""
    return pl.DataFrame({"n": [1], "made": [time.time_ns()]})


@ml.dataset(key="n")
def second(first: pl.DataFrame) -> pl.DataFrame:
    """One more."""
    return first.with_columns(pl.col("n") + 1)


@ml.dataset(key="n")
def third(second: pl.DataFrame) -> pl.DataFrame:
    """One more."""
    return second.with_columns(pl.col("n") + 1)


@ml.dataset(key="n")
def fourth(third: pl.DataFrame) -> pl.DataFrame:
    """One more."""
    return third.with_columns(pl.col("n") + 1)


@ml.dataset(key="n")
def fifth(fourth: pl.DataFrame) -> pl.DataFrame:
    """One more."""
    return fourth.with_columns(pl.col("n") + 1)


defs = ml.build_definitions([first, second, third, fourth, fifth])
