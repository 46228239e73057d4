"""A project that declares what its score can compute: schema, search, gates on slices and latency, and tests that are run elsewhere."""

import dagster as dg
import numpy as np
import pandera.polars as pa
import polars as pl
from sklearn.linear_model import LogisticRegression

import mlops_assets as ml


class Person(pa.DataFrameModel):
    """One person."""

    id: int = pa.Field(unique=True)
    age: float
    wage: float
    constant: float
    town: str
    bought: bool


@ml.dataset(schema=Person, key="id")
def people() -> pl.DataFrame:
    """Eight hundred people of two towns."""
    rng = np.random.default_rng(7)
    age, wage = rng.normal(0, 1, 800), rng.normal(0, 1, 800)
    bought = rng.random(800) < 1 / (1 + np.exp(-2 * (age + wage)))
    towns = ["Ulm" if number % 2 else "Bonn" for number in range(800)]
    return pl.DataFrame({"id": range(800), "age": age, "wage": wage, "constant": 1.0, "town": towns, "bought": bought})


@ml.training_set(columns=["age", "wage"], label="bought", split=ml.GroupSplit("id", validation=0.2, holdout=0.3))
def examples(people: pl.LazyFrame) -> pl.LazyFrame:
    """All of them."""
    return people


@ml.training_set(columns=["age", "constant"], label="bought", split=ml.GroupSplit("id", validation=0.2, holdout=0.3))
def padded(people: pl.LazyFrame) -> pl.LazyFrame:
    """All of them, with a column that says nothing."""
    return people


class Strength(dg.Config):
    """What is searched."""

    C: float = 1.0


@ml.model(
    training_set=examples,
    metrics=["roc_auc"],
    gates=[
        ml.Gate("roc_auc", at_least=0.6),
        ml.Gate("roc_auc", at_least=0.5, slice="town", min_rows=20),
        ml.Gate.latency(p95_ms=10_000, calls=20),
    ],
    slices=["town"],
    search=ml.Search({"C": ml.types.SearchRange(0.01, 10.0, log=True)}, trials=2),
)
def buys(train: ml.Split, params: Strength) -> LogisticRegression:
    """Probability of buying."""
    return LogisticRegression(C=params.C).fit(train.X, train.y)


@ml.model(training_set=padded, metrics=["roc_auc"])
def padded_buys(train: ml.Split) -> LogisticRegression:
    """The same without a gate."""
    return LogisticRegression().fit(train.X, train.y)


buys_api = ml.Service("buys_api", model=buys)
score = ml.monitoring.MLTestScore(
    buys,
    declared=[
        ml.monitoring.DeclaredTest("feature_tests", how="automated", where="scored.py"),
        ml.monitoring.DeclaredTest("data_privacy", how="by hand", where="https://wiki.example.com/privacy"),
        ml.monitoring.DeclaredTest("inclusion", how="automated", where="no_such_file.md"),
        ml.monitoring.DeclaredTest("simpler_model", how="automated", where="https://ci.example.com/linear"),
        ml.monitoring.DeclaredTest("validation", how="by hand", where="https://wiki.example.com/gates"),
    ],
)
NOUNS = [people, examples, padded, buys, padded_buys, buys_api, score]
defs = ml.build_definitions(NOUNS)
