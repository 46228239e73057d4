"""A small project whose loop can be closed: what buyers look at changes when the world says so.

The world is a JSON file named by SHOP_WORLD, so that a test turns what the daemon's processes see.
"""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import mlops_assets as ml

BASE = datetime(2024, 3, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition("2024-03-01", end_date="2024-03-31")
ROWS = 400  # visits of a day
CALM = {"shift_from": 99, "drift_from": 99, "corrupt": [], "slow": "", "least_auc": 0.6, "growing": 0}


def world() -> dict:
    file = os.environ.get("SHOP_WORLD", "")
    return CALM | (json.loads(Path(file).read_text()) if file and Path(file).exists() else {})


def day_of(number: int) -> str:
    return f"{BASE + timedelta(days=number):%Y-%m-%d}"


def visits_of(day: int) -> pl.DataFrame:
    """Return the visits of one day: `price` decides what is bought until the shift, `colour` from then on."""
    turned, rng = world(), np.random.default_rng(day)
    at = [BASE + timedelta(days=day, seconds=int(s)) for s in np.sort(rng.integers(0, 86_400, ROWS))]
    price, colour = rng.normal(size=ROWS), rng.normal(size=ROWS)
    decides = colour if day >= turned["shift_from"] else price
    bought = rng.random(ROWS) < 1 / (1 + np.exp(-2.5 * decides))
    seen = price + (3.0 if day >= turned["drift_from"] else 0.0) * (colour > -9)
    return pl.DataFrame(
        {
            "visit": [f"{day}-{i}" for i in range(ROWS)],
            "at": pl.Series(at, dtype=pl.Datetime("us", "UTC")),
            "closed_at": pl.Series([t + timedelta(minutes=30) for t in at], dtype=pl.Datetime("us", "UTC")),
            "shop": ["north" if i % 2 else "south" for i in range(ROWS)],
            "price": seen * (1000.0 if day in turned["corrupt"] else 1.0),
            "colour": colour,
            "bought": bought,
        }
    )


@ml.dataset(partitions=DAILY, key="visit", event_timestamp="at", known_at={"bought": "closed_at"})
def visits(window: ml.TimeWindow) -> pl.DataFrame:
    """Every visit of a day."""
    first, last = (window.start - BASE).days, (window.end - BASE).days
    return pl.concat([visits_of(day) for day in range(first, last)])


@ml.dataset(
    partitions=DAILY,
    key=("shop", "day"),
    event_timestamp="day",
    allow_empty=True,
    partition_mappings={"visits": dg.TimeWindowPartitionMapping(-1, -1)},
)
def crowds(window: ml.TimeWindow, visits: pl.DataFrame) -> pl.DataFrame:
    """How many visitors a shop had the day before."""
    days = visits.with_columns(day=pl.col("at").dt.truncate("1d").dt.offset_by("1d"))
    more = world()["growing"] * pl.col("day").first().dt.day()
    return (
        days.filter(pl.col("day").is_between(window.start, window.end, closed="left"))
        .group_by("shop", "day")
        .agg(visitors=pl.len().cast(pl.Float64) + more)
    )


crowding = ml.FeatureView(
    source=crowds,
    entity=ml.Entity("shop"),
    event_timestamp="day",
    ttl=timedelta(days=2),
    features={"visitors": float},
    defaults={"visitors": 200.0},
    online=True,
)


@ml.training_set(
    features=[crowding],
    columns=["price", "colour"],
    label="bought",
    label_known_at="closed_at",
    event_timestamp="at",
    split=ml.GroupSplit("visit", validation=0.15, holdout=0.35),
)
def examples(visits: pl.LazyFrame) -> pl.LazyFrame:
    """The last day that is known: tastes change."""
    return visits.filter(pl.col("at") >= pl.col("at").max().dt.truncate("1d"))


@ml.model(
    training_set=examples,
    metrics=["roc_auc"],
    gates=[ml.Gate("roc_auc", at_least=world()["least_auc"]), ml.Gate("roc_auc", no_worse_than_champion_by=0.02)],
    approval=bool(os.environ.get("SHOP_APPROVAL")),
)
def buyer(train: ml.Split) -> Pipeline:
    """Probability that a visitor buys."""
    if slow := world()["slow"]:  # a training that can be killed in the middle
        Path(f"{slow}.begun").touch()
        while not Path(slow).exists():
            time.sleep(0.1)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(train.X, train.y)


shop_api = ml.Service("shop_api", model=buyer)
shop_batch = ml.BatchPrediction("shop_batch", model=buyer, dataset=visits)
shop_watch = ml.Monitor(
    "shop_watch",
    of=shop_api,
    partitions=DAILY,
    expectations=(ml.Drift(), ml.Performance("roc_auc", at_least=0.7, min_labels=100)),
    on_failure=ml.Retrain(cooldown=timedelta(days=4), backoff=timedelta(seconds=5)),
)
NOUNS = [visits, crowds, crowding, examples, buyer, shop_api, shop_batch, shop_watch]
DATA = ("dataset/visits", "dataset/crowds", "features/crowds")
TRAIN = ("online/crowds", "training_set/examples", "model/buyer", "version/buyer", "champion/buyer")


def requests_of(day: int) -> list[dict]:
    """Return what a client knows of each visit of a day when it happens."""
    rows = visits_of(day).select("visit", "at", "shop", "price", "colour")
    return [row | {"at": row["at"].isoformat()} for row in rows.iter_rows(named=True)]


defs = ml.build_definitions(NOUNS, running=bool(os.environ.get("SHOP_RUNNING")), automation_interval=timedelta(seconds=5))
