"""A small partitioned project with everything in it: the number of visits decides what is bought."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

import mlops_assets as ml

DAYS = 30
BASE = datetime(2024, 1, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-31")
LAST_THREE = dg.TimeWindowPartitionMapping(start_offset=-3, end_offset=-1)
SCHEMA = {
    "id": pl.String,
    "at": pl.Datetime("us", "UTC"),
    "seen": pl.Datetime("us", "UTC"),
    "shop": pl.String,
    "x": pl.Float64,
    "bought": pl.Int64,
}


def source(day: int, changed: frozenset[str] = frozenset()) -> pl.DataFrame:
    """The raw rows of one day; those in ``changed`` have another label."""
    rng = np.random.default_rng(day)
    rows = []
    for i in range(24):
        at, x = BASE + timedelta(days=day, hours=i), float(rng.normal())
        label, identity = int(x + rng.normal() > 0), f"{day}-{i}"
        rows.append((identity, at, at + timedelta(hours=2), "ab"[i % 2], x, 1 - label if identity in changed else label))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


class World:
    """What the tests turn."""

    def __init__(self) -> None:
        self.changed: frozenset[str] = frozenset()
        self.last_day = DAYS
        self.trained = 0
        self.least_auc = 0.55
        self.broken: set[str] = set()


def build(platform: ml.Platform, world: World, extra=(), **more) -> dg.Definitions:
    """Return the definitions of the project."""
    return ml.build_definitions([*nouns(world), *extra], platform=platform, **more)


def nouns(world: World):
    @ml.dataset(partitions=DAILY, key="id", event_timestamp="at", known_at={"bought": "seen"})
    def visits(window: ml.TimeWindow) -> pl.DataFrame:
        """One visit of one shop."""
        if "visits" in world.broken:
            raise OSError("the source is down")
        first, last = (window.start - BASE).days, (window.end - BASE).days
        return pl.concat([source(day, world.changed) for day in range(first, min(last, world.last_day))] or [source(0).clear()])

    @ml.dataset(partitions=DAILY, key=("shop", "day"), event_timestamp="day", partition_mappings={"visits": LAST_THREE}, allow_empty=True)
    def shares(window: ml.TimeWindow, visits: pl.LazyFrame) -> pl.LazyFrame:
        """What share of a shop's visitors bought something in the three days before."""
        days = (
            pl.datetime_range(window.start, window.end, "1d", closed="left", eager=True)
            .dt.cast_time_unit("us")
            .alias("day")
            .to_frame()
            .lazy()
        )
        near = (pl.col("seen") < pl.col("day")) & (pl.col("at") >= pl.col("day") - timedelta(days=3))
        return days.join(visits, how="cross").filter(near).group_by("shop", "day").agg(pl.col("bought").mean().alias("share_3d"))

    shop_shares = ml.FeatureView(
        name="shop_shares",
        source=shares,
        entity=ml.Entity("shop"),
        event_timestamp="day",
        ttl=timedelta(days=2),
        features={"share_3d": float},
    )

    @ml.training_set(
        features=[shop_shares],
        columns=["x"],
        label="bought",
        label_known_at="seen",
        event_timestamp="at",
        split=ml.TimeSplit(validation=timedelta(days=4), holdout=timedelta(days=6)),
    )
    def examples(visits: pl.LazyFrame) -> pl.LazyFrame:
        return visits

    class Hyperparameters(dg.Config):
        C: float = 1.0

    @ml.model(
        training_set=examples,
        metrics=["roc_auc", "neg_log_loss"],
        gates=[ml.Gate("roc_auc", at_least=world.least_auc), ml.Gate("neg_log_loss", no_worse_than_champion_by=0.05)],
        slices=["shop"],
        cron_schedule="0 4 * * 1",
    )
    def buys(train: ml.Split, params: Hyperparameters) -> Pipeline:
        """Probability that a visitor buys."""
        world.trained += 1
        return make_pipeline(SimpleImputer(), LogisticRegression(C=params.C)).fit(train.X, train.y)

    @ml.gate(buys)
    def has_enough_rows(candidate: ml.Candidate) -> bool:
        return "gate" not in world.broken and candidate.holdout.X.height > 50

    buys_tomorrow = ml.BatchPrediction("buys_tomorrow", model=buys, dataset=visits)
    return [visits, shares, shop_shares, examples, buys, has_enough_rows, buys_tomorrow]


DATA = ("dataset/visits", "dataset/shares", "features/shop_shares")
TRAIN = ("training_set/examples", "model/buys", "version/buys", "champion/buys")
PREDICTIONS = "predictions/buys_tomorrow"
MONTH = "2024-01-01...2024-01-30"
