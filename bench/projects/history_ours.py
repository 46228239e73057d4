"""Ours: feature views in a lake, their layouts beside it; ``python -m bench.projects.history_ours FOLDER`` prepares both."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

import mlops_assets as ml
from bench.projects.history_data import (
    BEGIN,
    CREATED,
    DAYS,
    EVENT,
    FEATURES,
    KEY,
    TIME,
    TTL,
    VIEWS,
    find_view_file,
    names,
    spine_file,
    view_rows,
)
from bench.worker import serve
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.window import window_of

DAILY = dg.DailyPartitionsDefinition("2025-01-01", end_date="2026-02-01")
ROW_KEY = (KEY, EVENT, CREATED)


def platform_of(folder: Path) -> ml.Platform:
    """Return where lake and layouts lie."""
    return ml.Platform.at(folder / "ours")


def declared(view: int) -> ml.FeatureView:
    """Return a feature view over a table of the lake."""
    return ml.FeatureView(
        source=ml.ExternalDataset(f"view{view}", partitions=DAILY, key=ROW_KEY, event_timestamp=EVENT),
        entity=ml.Entity(KEY),
        event_timestamp=EVENT,
        created_timestamp=CREATED,
        ttl=TTL,
        features={name: int if i == FEATURES - 1 else float for i, name in enumerate(names(view))},
    )


def ready(folder: Path, kind: str, known: bool) -> Callable[[], pl.DataFrame]:  # noqa: ARG001  (as the others)
    """Return the join, with the spine in memory."""
    platform, spine = platform_of(folder), pl.read_parquet(spine_file(folder))
    views = [declared(view) for view in range(VIEWS)]

    def joined() -> pl.DataFrame:
        return ml.training_frame(spine, views, event_timestamp=TIME, as_known=known, platform=platform)

    return joined


def main(where: str) -> None:
    """Answer questions."""
    folder = Path(where)
    lake, layouts = open_stores(platform_of(folder)).lake, open_stores(platform_of(folder)).layouts
    views = [declared(view) for view in range(VIEWS)]
    lake.snapshot()  # attached before anything is timed

    def written(frames: list[pl.DataFrame], first: int, last: int) -> float:
        keys = [(BEGIN + timedelta(days=day)).date().isoformat() for day in range(first, last)]
        parts = [Partition(key, window_of(DAILY, key)) for key in keys]
        begun = time.perf_counter()
        for view, frame in zip(views, frames, strict=True):
            lake.write(view.key, frame, parts, event_timestamp=EVENT, key=ROW_KEY)
        return time.perf_counter() - begun

    def write() -> dict[str, Any]:
        return {"seconds": written([pl.read_parquet(find_view_file(folder, view)) for view in range(VIEWS)], 0, DAYS)}

    def one_more_day(rows: int) -> dict[str, Any]:
        frames = [view_rows(view, rows, DAYS) for view in range(VIEWS)]
        return {"seconds": written(frames, DAYS, DAYS + 1), "rows": sum(frame.height for frame in frames)}

    def lay_out(known: bool) -> dict[str, Any]:
        begun = time.perf_counter()
        made = [layouts.load(view, as_known=known) for view in views]
        files = [
            file for file in (folder / "ours" / "layouts").rglob("*.arrow") if file.parent.name.endswith("known" if known else "event")
        ]
        size = sum(file.stat().st_size for file in files)
        return {
            "seconds": time.perf_counter() - begun,
            "files": len(files),
            "bytes": size,
            "entities": sum(m.entities.height for m in made),
        }

    serve({"write": write, "one_more_day": one_more_day, "lay_out": lay_out})


if __name__ == "__main__":
    main(sys.argv[1])
