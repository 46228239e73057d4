"""DuckDB on the raw files: the definition in one query, by ASOF joins."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import duckdb
import polars as pl

from bench.projects.history_data import CREATED, EVENT, KEY, ROW, TIME, TTL, VIEWS, find_view_file, names, spine_file

MICROSECONDS = TTL // timedelta(microseconds=1)


def ready(folder: Path, kind: str, known: bool) -> Callable[[], pl.DataFrame]:  # noqa: ARG001  (as the others)
    """Return the join, with the spine in memory."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET asof_loop_join_threshold = 0")
    connection.register("spine", pl.read_parquet(spine_file(folder)).to_arrow())
    query = _query(folder, known)
    return lambda: connection.execute(query).pl()


def _query(folder: Path, known: bool) -> str:
    layouts = ", ".join(f"layout{view} AS ({_layout(find_view_file(folder, view), names(view), known)})" for view in range(VIEWS))
    features = ", ".join(
        f"CASE WHEN s.t <= v{view}.event + {MICROSECONDS} THEN v{view}.{name} END AS {name}"
        for view in range(VIEWS)
        for name in names(view)
    )
    joins = " ".join(f"ASOF LEFT JOIN layout{view} v{view} ON s.{KEY} = v{view}.{KEY} AND s.t >= v{view}.valid" for view in range(VIEWS))
    spine = f"s AS (SELECT *, epoch_us({TIME}) AS t FROM spine)"
    return f"WITH {spine}, {layouts} SELECT s.{ROW}, s.{KEY}, s.{TIME}, {features} FROM s {joins}"


def _layout(file: Path, features: list[str], known: bool) -> str:
    """Return a query for one row of each key and time from which it holds, without those that a later event hides."""
    valid = f"greatest({EVENT}, {CREATED})" if known else EVENT
    order = f"PARTITION BY {KEY} ORDER BY valid, event, created"
    rows = f"SELECT {KEY}, epoch_us({valid}) AS valid, epoch_us({EVENT}) AS event, epoch_us({CREATED}) AS created, {', '.join(features)} FROM read_parquet('{file}')"
    newest = f", max(event) OVER ({order} ROWS UNBOUNDED PRECEDING) AS newest" if known else ""
    ranked = f"SELECT *, lead(valid) OVER ({order}) AS next{newest} FROM ({rows})"
    kept = "next IS DISTINCT FROM valid" + (" AND event >= newest" if known else "")
    return f"SELECT {KEY}, valid, event, {', '.join(features)} FROM ({ranked}) WHERE {kept}"
