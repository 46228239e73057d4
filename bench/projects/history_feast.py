"""Feast's offline stores: ``get_historical_features`` on the raw files, by DuckDB or by its default file store."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, Int64

from bench.projects.history_data import CREATED, EVENT, FEATURES, KEY, TTL, VIEWS, find_view_file, names, spine_file


def opened(folder: Path, kind: str) -> tuple[FeatureStore, list[str]]:
    """Return a store with three views, and its features."""
    warnings.simplefilter("ignore")
    home = folder / f"feast-{kind}-{os.getpid()}"
    home.mkdir(exist_ok=True)
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(home / "registry.db"),
            offline_store={"type": kind},
            online_store={"type": "sqlite", "path": str(home / "online.db")},
            entity_key_serialization_version=3,
        )
    )
    entity = Entity(name=KEY, join_keys=[KEY], value_type=ValueType.INT64)
    views = [_view(folder, view, entity) for view in range(VIEWS)]
    store.apply([entity, *views])
    return store, [f"view{view}:{name}" for view in range(VIEWS) for name in names(view)]


def _view(folder: Path, view: int, entity: Entity) -> FeatureView:
    schema = [Field(name=name, dtype=Int64 if i == FEATURES - 1 else Float64) for i, name in enumerate(names(view))]
    source = FileSource(path=str(find_view_file(folder, view)), timestamp_field=EVENT, created_timestamp_column=CREATED)
    return FeatureView(name=f"view{view}", entities=[entity], ttl=TTL, schema=schema, source=source)


def ready(folder: Path, kind: str, known: bool) -> Callable[[], pd.DataFrame]:
    """Return the join, with the spine in memory as the pandas frame that Feast asks for."""
    if known:
        raise ValueError("Feast knows no time at which a row became known")
    store, features = opened(folder, kind)
    spine = pd.read_parquet(spine_file(folder))
    return lambda: store.get_historical_features(entity_df=spine, features=features).to_df()
