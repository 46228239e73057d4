"""Daily rows of numbers, categories, texts and embeddings in two winters, watched by a monitor for each option of drift.

Three days have a fault each: the temperature in °F, another category in place of a known one, and other words in the texts.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
from sklearn.base import ClassifierMixin
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mlops_assets as ml

FIRST, ROWS = datetime(2023, 1, 1, tzinfo=UTC), 60
DAILY = dg.DailyPartitionsDefinition("2023-01-01", end_date="2024-02-10")
FAHRENHEIT, RENAMED, OTHER_WORDS = "2024-01-26", "2024-01-28", "2024-01-30"
WINTER, SECOND_WINTER = 42, 351  # days after the first winter, and before the second
WORDS = np.array(["late", "early", "parcel", "door", "rain", "neighbour", "signed", "lost", "damaged", "thanks"])
DRIFT = {
    "all_columns": ml.Drift(predictions=True),
    "fixed": ml.Drift(columns={"temp": ml.monitoring.Wasserstein(2.5), "shop": ml.monitoring.JensenShannon(0.3), "note": None}),
    "classified": ml.Drift(["temp", "load", "shop"], classifier=ml.monitoring.DomainClassifier(max_rows=100), false_alarm_rate=0.05),
    "seasonal": ml.Drift(columns=["temp", "shop"], reference=ml.monitoring.SameWeeks(), predictions=True),
}


def draw_day(day: int) -> pl.DataFrame:
    """Return the rows of a day, equal for equal days."""
    rng, name = np.random.default_rng(day), f"{FIRST + timedelta(days=day):%Y-%m-%d}"
    temp = 8 - 12 * np.cos(2 * np.pi * (day - 20) / 365.25) + rng.normal(size=ROWS)
    shops = np.array(["north", "south", "renamed" if name == RENAMED else "west"])
    words = np.char.add(WORDS, "x") if name == OTHER_WORDS else WORDS
    times = [FIRST + timedelta(days=day, minutes=20 * n) for n in range(ROWS)]
    signal = temp / 10 + rng.normal(size=ROWS)
    return pl.DataFrame(
        {
            "id": [f"{day}-{n}" for n in range(ROWS)],
            "at": pl.Series(times, dtype=pl.Datetime("us", "UTC")),
            "temp": temp * 1.8 + 32 if name == FAHRENHEIT else temp,
            "load": rng.gamma(2, size=ROWS),
            "shop": shops[rng.integers(0, 3, ROWS)],
            "note": [" ".join(rng.choice(words, 6)) for _ in range(ROWS)],
            "meaning": rng.normal(size=(ROWS, 4)).tolist(),
            "y": (signal > 0.8).astype(int),
        }
    )


@ml.dataset(partitions=DAILY, key="id", event_timestamp="at", call_per="range", allow_empty=True)
def deliveries(window: ml.TimeWindow) -> pl.DataFrame:
    """Deliveries with their labels."""
    days = range((window.start - FIRST).days, (window.end - FIRST).days)
    return pl.concat([draw_day(0).clear(), *(draw_day(day) for day in days if day < WINTER or day >= SECOND_WINTER)])


@ml.training_set(
    columns=["temp", "load", "shop", "note", "meaning"],
    features=[],
    label="y",
    event_timestamp="at",
    split=ml.TimeSplit(holdout=timedelta(days=10)),
)
def examples(deliveries: pl.LazyFrame) -> pl.LazyFrame:
    """Every delivery."""
    return deliveries


@ml.model(training_set=examples, metrics=["roc_auc"], gates=[], slices=[])
def cold(train: ml.Split) -> ClassifierMixin:
    """Probability of y, from the numbers."""
    numbers = make_column_transformer((StandardScaler(), ["temp", "load"]))
    return make_pipeline(numbers, LogisticRegression()).fit(train.X, train.y)


def list_items(leader: str, *, refit: bool = False) -> list[object]:
    """Return the declarations of the project; the monitor ``leader`` retrains every three days, and is the only one with refits."""
    scores = ml.BatchPrediction("scores", model=cold, dataset=deliveries)
    span = timedelta(days=3)
    policy = ml.Retrain(cooldown=span, every=span, on=(), refit=refit)
    monitors = [
        ml.Monitor(
            name,
            of=scores,
            expectations=[expected, *([ml.Performance("roc_auc", at_least=0.1, min_labels=10)] if name == leader else [])],
            on_failure=policy if name == leader else None,
            min_rows=50,
        )
        for name, expected in DRIFT.items()
        if name == leader or not refit
    ]
    return [deliveries, examples, cold, scores, *monitors]
