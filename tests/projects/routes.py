"""Feature views from SQL, polars, pandas and DuckDB functions, over one dataset; every type of feature; a composite key."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl

import mlops_assets as ml

DAYS = [f"2024-01-{day:02d}" for day in range(1, 13)]
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-13")
BEFORE = dg.TimeWindowPartitionMapping(start_offset=-3, end_offset=-1)
ROUTE = ml.Entity("route", join_keys=("origin", "dest"))
START = datetime(2024, 1, 1, tzinfo=UTC)

LATE_SHARE = """
    SELECT origin, dest, getvariable('window_start') AS as_of, avg(late::DOUBLE) AS late_share, count(*) AS trips
    FROM trips GROUP BY origin, dest
"""


@dataclass
class World:
    """What the source holds, and how the views are declared."""

    factor: float = 1.0
    query: str = LATE_SHARE
    calls: list[str] = field(default_factory=list)


def rows(window: ml.TimeWindow) -> pl.DataFrame:
    """Six trips on each day, always the same."""
    days = (window.end - window.start).days
    first = (window.start - START).days
    made = [
        {
            "trip": f"{day}-{i}",
            "at": START + timedelta(days=day, hours=2 * i),
            "origin": "abc"[i % 3],
            "dest": "xy"[i % 2],
            "minutes": 10 * i + day,
            "late": (day * i) % 3 == 0,
        }
        for day in range(first, first + days)
        for i in range(6)
    ]
    return pl.DataFrame(made, schema_overrides={"at": pl.Datetime("us", "UTC"), "minutes": pl.Int64})


def build(platform: ml.Platform, world: World) -> dg.Definitions:
    """Compile the project."""

    @ml.dataset(partitions=DAILY, key="trip", event_timestamp="at", call_per="range")
    def trips(window: ml.TimeWindow) -> pl.DataFrame:
        return rows(window)

    views = declared(world)
    return ml.build_definitions([trips, *views.values()], platform=platform)


def declared(world: World) -> dict[str, ml.FeatureView]:
    """Return the views by how they are computed."""
    factor, calls = world.factor, world.calls
    common: dict[str, Any] = {"entity": ROUTE, "event_timestamp": "as_of", "ttl": timedelta(days=2), "partitions": DAILY}

    @ml.feature_view(
        **common, partition_mappings={"trips": BEFORE}, features={"polars_minutes": float}, owners=["team:routes"], call_per="range"
    )
    def by_polars(trips: pl.LazyFrame, window: ml.TimeWindow) -> pl.LazyFrame:
        """Mean minutes of the three days before."""
        calls.append("by_polars")
        days = (
            pl.datetime_range(window.start, window.end, "1d", closed="left", time_zone="UTC", eager=True).alias("as_of").to_frame().lazy()
        )
        near = days.join(trips, how="cross").filter(
            (pl.col("at") < pl.col("as_of")) & (pl.col("at") >= pl.col("as_of").dt.offset_by("-3d"))
        )
        return near.group_by("origin", "dest", "as_of").agg(polars_minutes=pl.col("minutes").mean() * factor)

    @ml.feature_view(**common, features={"pandas_minutes": float, "busy": bool, "longest": str, "last_at": datetime})
    def by_pandas(trips: pd.DataFrame) -> pd.DataFrame:
        """Facts of the day itself."""
        trips = trips.assign(as_of=trips["at"].dt.floor("D") + pd.Timedelta(hours=23), minutes=trips["minutes"].astype(float))
        grouped = trips.groupby(["origin", "dest", "as_of"])
        made = grouped.agg(pandas_minutes=("minutes", "mean"), last_at=("at", "max"), longest=("trip", "max")).reset_index()
        return made.assign(busy=made["pandas_minutes"] > 25)

    @ml.feature_view(**common, features={"all_minutes": list[int], "shape": Annotated[list[float], 2]})
    def by_duckdb(trips: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        """Lists of the day itself."""
        return trips.query(
            "t",
            """SELECT origin, dest, date_trunc('day', "at") + INTERVAL 23 HOUR AS as_of,
                      list(minutes ORDER BY minutes) AS all_minutes, [min(minutes)::DOUBLE, max(minutes)::DOUBLE] AS shape
               FROM t GROUP BY ALL""",
        )

    by_sql = ml.FeatureView(
        name="by_sql",
        source=ml.Sql(world.query, partitions=DAILY, partition_mappings={"trips": BEFORE}),
        entity=ROUTE,
        event_timestamp="as_of",
        ttl=timedelta(days=2),
        features={"late_share": float, "trips": int},
    )
    return {"by_polars": by_polars, "by_pandas": by_pandas, "by_duckdb": by_duckdb, "by_sql": by_sql}
