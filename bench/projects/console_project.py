"""The project whose console is measured: two models, a feature view, predictions and their monitor."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import polars as pl
from sklearn.linear_model import LogisticRegression

import mlops_assets as ml

DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-12-31")


@ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
def visits(window: ml.TimeWindow) -> pl.DataFrame:
    """Visits of one day; the benchmark writes the rows itself."""
    raise NotImplementedError(window)


crowds = ml.FeatureView(
    name="crowds",
    source=visits,
    entity=ml.Entity("shop"),
    event_timestamp="at",
    ttl=timedelta(days=2),
    features={"price": float, "visitors": float},
    online=True,
)


@ml.training_set(features=[crowds], columns=["shop"], label="bought", event_timestamp="at", split=ml.TimeSplit(holdout=timedelta(days=14)))
def examples(visits: pl.LazyFrame) -> pl.LazyFrame:
    """All visits."""
    return visits


@ml.model(training_set=examples, metrics=["roc_auc"], gates=[ml.Gate("roc_auc", at_least=0.6)])
def buyer(train: ml.Split) -> LogisticRegression:
    """Probability that a visitor buys."""
    return LogisticRegression().fit(train.X, train.y)


@ml.model(training_set=examples, metrics=["roc_auc"], gates=[ml.Gate("roc_auc", at_least=0.6)], approval=True)
def seller(train: ml.Split) -> LogisticRegression:
    """The same, for a person to approve."""
    return LogisticRegression().fit(train.X, train.y)


batch = ml.BatchPrediction("batch", model=buyer, dataset=visits)
watch = ml.Monitor(
    "watch", of=batch, expectations=(ml.Drift(), ml.Performance("roc_auc", at_least=0.7)), on_failure=ml.Retrain(cooldown=timedelta(days=7))
)

defs = ml.build_definitions([visits, crowds, examples, buyer, seller, batch, ml.Service("api", model=buyer), watch])
