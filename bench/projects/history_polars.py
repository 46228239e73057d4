"""Polars on the raw files: prepared, then joined by ``join_asof``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from bench.projects.history_data import ALL, CREATED, EVENT, KEY, ROW, TIME, TTL, VIEWS, find_view_file, names, spine_file


def ready(folder: Path, kind: str, known: bool) -> Callable[[], pl.DataFrame]:  # noqa: ARG001  (as the others)
    """Return the join, with the spine in memory."""
    spine = pl.read_parquet(spine_file(folder))

    def joined() -> pl.DataFrame:
        frame = spine.lazy().sort(TIME)
        for view in range(VIEWS):
            right = _prepared(pl.scan_parquet(find_view_file(folder, view)), names(view), known)
            frame = frame.join_asof(right, left_on=TIME, right_on="valid", by=KEY, strategy="backward", check_sortedness=False)
            alive = pl.col(TIME) - pl.col(EVENT) <= TTL
            frame = frame.with_columns(pl.when(alive).then(pl.col(name)).alias(name) for name in names(view)).drop(
                EVENT, "valid", strict=False
            )
        return frame.sort(ROW).select(*spine.columns, *ALL).collect()

    return joined


def _prepared(rows: pl.LazyFrame, features: list[str], known: bool) -> pl.LazyFrame:
    """Return one row of each key and time from which it holds, sorted within each key, without those that a later event hides."""
    valid = pl.max_horizontal(EVENT, CREATED) if known else pl.col(EVENT)
    rows = rows.with_columns(valid=valid).sort(KEY, "valid", EVENT, CREATED)
    if known:
        rows = rows.filter(pl.col(EVENT) >= pl.col(EVENT).cum_max().over(KEY))
    last = (pl.col(KEY) != pl.col(KEY).shift(-1)) | (pl.col("valid") != pl.col("valid").shift(-1))
    return rows.filter(last.fill_null(value=True)).select(KEY, "valid", EVENT, *features)
