"""Feast's online store: ``python -m bench.projects.online_feast FOLDER [REDIS]``, its repository in the folder."""

from __future__ import annotations

import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64, Int64

from bench.projects.online_data import ENTITIES, EVENT, VIEWS, asked, columns, entities, names
from bench.worker import serve


def frame(view: int) -> pd.DataFrame:
    """Return the rows of a view."""
    times = pd.to_datetime([EVENT] * ENTITIES)
    return pd.DataFrame({"entity": entities(), "event": times, "created": times, **columns(view)})


def opened(folder: Path, redis: str | None) -> FeatureStore:
    """Return a store with three views."""
    online = {"type": "redis", "connection_string": redis} if redis else {"type": "sqlite", "path": str(folder / "online.db")}
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store=online,
            entity_key_serialization_version=3,
        )
    )
    entity = Entity(name="entity", join_keys=["entity"])
    views = []
    for view in range(VIEWS):
        path = folder / f"v{view}.parquet"
        frame(view).to_parquet(path)
        schema = [Field(name=n, dtype=Int64 if i == len(names(view)) - 1 else Float64) for i, n in enumerate(names(view))]
        source = FileSource(path=str(path), timestamp_field="event", created_timestamp_column="created")
        views.append(FeatureView(name=f"v{view}", entities=[entity], ttl=timedelta(days=7), schema=schema, source=source, online=True))
    store.apply([entity, *views])
    return store


def main(folder: str, redis: str | None = None) -> None:
    """Answer questions."""
    warnings.simplefilter("ignore")
    store = opened(Path(folder), redis)
    features = [f"v{view}:{name}" for view in range(VIEWS) for name in names(view)]
    frames = [frame(view) for view in range(VIEWS)]

    def read(keys: list[str]) -> dict[str, list[Any]]:
        return store.get_online_features(features=features, entity_rows=[{"entity": key} for key in keys]).to_dict()

    def write() -> dict[str, Any]:
        begun = time.perf_counter()
        for view in range(VIEWS):
            store.write_to_online_store(f"v{view}", frames[view])
        return {"seconds": time.perf_counter() - begun}

    def reads(count: int, times: int) -> dict[str, Any]:
        spent = []
        for seed in range(times):
            keys = asked(seed, count)
            begun = time.perf_counter()
            read(keys)
            spent.append(time.perf_counter() - begun)
        return {"seconds": median(spent)}

    def values(seed: int, count: int) -> dict[str, Any]:
        found = read(asked(seed, count))
        return {"values": [[found[name][i] for view in range(VIEWS) for name in names(view)] for i in range(count)]}

    serve({"write": write, "reads": reads, "values": values})


if __name__ == "__main__":
    main(*sys.argv[1:])
