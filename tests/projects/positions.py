"""A feature view whose rows come late: what was known, and when, is a column. The world is a frame that tests put here."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl

import mlops_assets as ml

BASE = datetime(2024, 3, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition("2024-03-01", end_date="2024-04-01")
UTC_TIME = pl.Datetime("us", "UTC")
SCHEMA = {"ship": pl.String, "at": UTC_TIME, "heard_at": UTC_TIME, "speed": pl.Float64, "port": pl.String}
WORLD: list[tuple] = []  # ship, hour, hour when it was heard of, speed, port


def rows_of(facts: list[tuple]) -> pl.DataFrame:
    hour = timedelta(hours=1)
    return pl.DataFrame([(s, BASE + a * hour, BASE + h * hour, v, p) for s, a, h, v, p in facts], schema=SCHEMA, orient="row")


def project(platform: ml.Platform, *, features: dict | None = None, partitioned: bool = True) -> dg.Definitions:
    """Return definitions with one view that a service looks up; its features are given."""

    @ml.dataset(
        partitions=DAILY,
        key=("ship", "at", "heard_at"),
        event_timestamp="at",
        created_timestamp="heard_at",
        allow_empty=True,
    )
    def positions(window: ml.TimeWindow) -> pl.DataFrame:
        """Where ships are."""
        return rows_of(WORLD).filter(pl.col("at").is_between(window.start, window.end, closed="left"))

    @ml.dataset(key=("ship", "at", "heard_at"), event_timestamp="at", created_timestamp="heard_at", allow_empty=True)
    def everything() -> pl.DataFrame:
        """The same in one piece."""
        return rows_of(WORLD)

    source = positions if partitioned else everything
    fixes = ml.FeatureView(
        name="fixes",
        source=source,
        entity=ml.Entity("ship"),
        event_timestamp="at",
        created_timestamp="heard_at",
        ttl=timedelta(days=2),
        features=features or {"speed": float},
        online=True,
    )

    @ml.training_set(features=[fixes], label="speed_then", event_timestamp="at", split=ml.GroupSplit("ship", validation=0.2, holdout=0.2))
    def voyages(positions: pl.LazyFrame) -> pl.LazyFrame:
        return positions.rename({"speed": "speed_then"})

    @ml.training_set(features=[fixes], label="speed_then", event_timestamp="at", split=ml.GroupSplit("ship", validation=0.2, holdout=0.2))
    def trips(everything: pl.LazyFrame) -> pl.LazyFrame:
        return everything.rename({"speed": "speed_then"})

    @ml.model(training_set=voyages if partitioned else trips, metrics=["neg_mean_absolute_error"])
    def arrival(train: ml.Split) -> object:
        raise NotImplementedError

    nouns = [source, fixes, voyages if partitioned else trips, arrival, ml.Service("arrival_api", model=arrival)]
    return ml.build_definitions(nouns, platform=platform)
