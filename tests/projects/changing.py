"""Daily rows whose label depends on one column until a day, and on another afterwards: a model decays, and a retraining mends it."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mlops_assets as ml

FIRST, DAYS, ROWS = datetime(2024, 1, 1, tzinfo=UTC), 40, 300
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-10")
FITTED = os.environ.get("CHANGING_FITS", "")  # a file that counts the calls of the model's function


def change_day() -> int:
    """Return the day from which the label depends on the other column; 99 for never."""
    return int(os.environ.get("CHANGING_DAY", "99"))


def label_lag() -> int:
    """Return the number of hours after which a label is known."""
    return int(os.environ.get("CHANGING_LAG", "3"))


def spread_after() -> float:
    """Return the spread of the column that no longer matters, from the changing day on."""
    return float(os.environ.get("CHANGING_SPREAD", "1"))


def rows_of(day: int) -> pl.DataFrame:
    """Return the rows of a day, equal for equal days."""
    rng = np.random.default_rng(day)
    X = rng.normal(size=(ROWS, 2))
    signal = X[:, 0] if day < change_day() else X[:, 1].copy()
    if day >= change_day():
        X[:, 0] *= spread_after()
    times = [FIRST + timedelta(days=day, minutes=4 * i) for i in range(ROWS)]
    return pl.DataFrame(
        {
            "id": np.arange(ROWS) + day * ROWS,
            "at": pl.Series(times, dtype=pl.Datetime("us", "UTC")),
            "known_at": pl.Series([t + timedelta(hours=label_lag()) for t in times], dtype=pl.Datetime("us", "UTC")),
            "a": X[:, 0],
            "b": X[:, 1],
            "y": (rng.random(ROWS) < 1 / (1 + np.exp(-3 * signal))).astype(int),
        }
    )


@ml.dataset(partitions=DAILY, key="id", event_timestamp="at", known_at={"y": "known_at"}, call_per="range")
def events(window: ml.TimeWindow) -> pl.DataFrame:
    """Events with their labels."""
    first, last = (window.start - FIRST).days, (window.end - FIRST).days
    return pl.concat([rows_of(day) for day in range(first, last)])


@ml.training_set(
    columns=["a", "b"],
    features=[],
    label="y",
    label_known_at="known_at",
    event_timestamp="at",
    split=ml.TimeSplit(holdout=timedelta(days=2)),
)
def examples(events: pl.LazyFrame) -> pl.LazyFrame:
    """Every event."""
    return events


@ml.model(training_set=examples, metrics=["roc_auc", "neg_log_loss"], gates=[ml.Gate("roc_auc", at_least=0.6, confidence=None)], slices=[])
def answers(train: ml.Split) -> ClassifierMixin:
    """Probability of y."""
    if FITTED:
        with Path(FITTED).open("a") as file:
            file.write(f"{len(train.y)}\n")
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(train.X, train.y)


@ml.gate(answers)
def no_worse(candidate: ml.Candidate) -> bool:
    """The candidate is no worse than the champion by more than 0.02."""
    champion = candidate.champion
    return champion is None or candidate.evaluation.metric("roc_auc") >= champion.metric("roc_auc") - 0.02


tomorrow = ml.BatchPrediction("tomorrow", model=answers, dataset=events)
POLICY = ml.Retrain(cooldown=timedelta(days=3), after=2)
# Every rule of retraining at once: a cadence that grows, candidates on all and on the newest rows, judged on the newest day, and refitted.
FOLLOW = ml.Retrain(
    cooldown=timedelta(days=2),
    every=timedelta(days=2),
    max_every=timedelta(days=4),
    on=(),
    train_windows=(None, timedelta(days=3)),
    judge_on=timedelta(days=1),
    promote_if="not_worse",
    refit=True,
)
ESTIMATES = ml.Retrain(cooldown=timedelta(days=2), on=("estimated",))
ERRORS = ml.Retrain(cooldown=timedelta(days=3))  # of a monitor that watches the error alone
POLICIES = {"breaches": POLICY, "errors": ERRORS, "estimates": ESTIMATES, "follow": FOLLOW}


def list_items(policy: ml.Retrain, *others: ml.Drift) -> list[object]:
    """Return the declarations of the project with a monitor that retrains by a policy, and has other expectations too."""
    estimates = [ml.monitoring.EstimatedPerformance("roc_auc", no_worse_than_reference_by=0.1)] if "estimated" in policy.on else []
    expected = ml.monitoring.ErrorChange() if policy is ERRORS else ml.Performance("roc_auc", at_least=0.7)
    expectations = [expected, *estimates, *others]
    watch = ml.Monitor("watch", of=tomorrow, expectations=expectations, on_failure=policy)
    return [events, examples, answers, no_worse, tomorrow, watch]


ITEMS = list_items(POLICY)
