"""Flights with the features of the reference project, and the faults that are injected into windows of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import polars as pl

import flights_data
import mlops_assets as ml

NEW_YORK = ZoneInfo("America/New_York")
YEAR = ml.TimeWindow(datetime(2013, 1, 1, tzinfo=NEW_YORK).astimezone(UTC), datetime(2014, 1, 1, tzinfo=NEW_YORK).astimezone(UTC))
WEATHER = ("temp", "wind_speed", "precip", "pressure", "visib")
PUNCTUALITY = tuple(f"{entity}_{figure}_7d" for entity in ("carrier", "origin") for figure in ("late_share", "mean_delay"))
FEATURES = ("carrier", "origin", "distance", "hour", "weekday", *WEATHER, *PUNCTUALITY)


def read_flights() -> pl.DataFrame:
    """Return all landed flights of the year by departure, with ``at`` (New York's time), ``day`` and the features."""
    flights = flights_data.departures(YEAR).collect().drop_nulls("arr_delay").sort("scheduled_at")
    weather = flights_data.observations(YEAR).collect().sort("published_at").select("origin", "published_at", *WEATHER)
    joined = flights.join_asof(weather, left_on="scheduled_at", right_on="published_at", by="origin", check_sortedness=False)
    local = pl.col("scheduled_at").dt.convert_time_zone("America/New_York")
    clock = {"hour": pl.col("scheduled_at").dt.hour().cast(pl.Int64), "weekday": pl.col("scheduled_at").dt.weekday().cast(pl.Int64) - 1}
    rows = joined.with_columns(local.alias("at"), local.dt.date().alias("day"), **clock)
    for entity in ("carrier", "origin"):
        rows = rows.join(_measure_punctuality(rows, entity), on=[entity, "day"], how="left", maintain_order="left")
    return rows.select("at", "day", *FEATURES)


def _measure_punctuality(rows: pl.DataFrame, entity: str) -> pl.DataFrame:
    """Return each entity's share of late flights and mean delay in the seven days before each day."""
    daily = rows.group_by(entity, "day").agg(n=pl.len(), late=(pl.col("arr_delay") > 15).sum(), delay=pl.col("arr_delay").sum())
    calendar = daily.select(pl.col(entity).unique()).join(rows.select(pl.col("day").unique()), how="cross")
    filled = (
        calendar.join(daily, on=[entity, "day"], how="left").sort(entity, "day").with_columns(pl.col("n", "late", "delay").fill_null(0))
    )
    week = {name: pl.col(name).rolling_sum(7, min_samples=1).shift(1).over(entity) for name in ("n", "late", "delay")}
    shares = filled.with_columns(**week)
    flown = pl.when(pl.col("n") > 0)
    return shares.select(
        entity,
        "day",
        flown.then(pl.col("late") / pl.col("n")).alias(f"{entity}_late_share_7d"),
        flown.then(pl.col("delay") / pl.col("n")).alias(f"{entity}_mean_delay_7d"),
    )


@dataclass(frozen=True)
class Fault:
    """A fault that is injected into a window.

    Parameters
    ----------
    kind
        The kind, as the issue of a team would call it.
    column
        The column that is wrong: a good report names it first.
    inject
        Returns the window with the fault.
    """

    kind: str
    column: str
    inject: Callable[[pl.DataFrame], pl.DataFrame]

    @property
    def name(self) -> str:
        """Kind and column."""
        return f"{self.kind}: {self.column}"


def _replace(kind: str, column: str, value: pl.Expr) -> Fault:
    return Fault(kind, column, lambda rows: rows.with_columns(value.alias(column)))


def _every(share: float, column: str, value: object) -> pl.Expr:
    """Return the column with another value in a share of the rows, spread over the window."""
    step = round(1 / share)
    # Multiplied by a prime, so that the rows fall on no rhythm of the timetable.
    return pl.when((pl.int_range(pl.len()) * 7919) % step == 0).then(pl.lit(value)).otherwise(pl.col(column))


def _swap(column: str, one: str, other: str) -> pl.Expr:
    return pl.col(column).replace({one: other, other: one})


LOCAL_HOUR = ((pl.col("hour") + 24 - 5) % 24).cast(pl.Int64)
FAULTS: Sequence[Fault] = (
    _replace("unit error", "distance", (pl.col("distance") * 1.609).round().cast(pl.Int64)),
    _replace("unit error", "wind_speed", pl.col("wind_speed") * 0.447),
    _replace("unit error", "pressure", pl.col("pressure") * 0.02953),
    _replace("unit error", "carrier_late_share_7d", pl.col("carrier_late_share_7d") * 100),
    Fault("airport missing", "origin", lambda rows: rows.filter(pl.col("origin") != "LGA")),
    *(_replace("10 % zeros", name, _every(0.1, name, 0)) for name in ("temp", "distance", "wind_speed", "origin_late_share_7d")),
    *(_replace("5 % nulls", name, _every(0.05, name, None)) for name in ("temp", "distance", "carrier", "carrier_mean_delay_7d")),
    _replace("categories renamed", "carrier", pl.col("carrier").str.to_lowercase()),
    _replace("one category renamed", "carrier", pl.col("carrier").replace({"UA": "UAL"})),
    _replace("carriers swapped", "carrier", _swap("carrier", "UA", "DL")),
    _replace("local time for UTC", "hour", LOCAL_HOUR),
    _replace("Celsius for Fahrenheit", "temp", (pl.col("temp") - 32) / 1.8),
    *(_replace("frozen", name, pl.col(name).drop_nulls().first()) for name in ("temp", "wind_speed", "hour", "carrier_late_share_7d")),
)
