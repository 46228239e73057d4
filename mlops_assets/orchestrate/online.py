"""The online store's step: the feature rows that a service may still look up."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.assemble import view_of
from mlops_assets.compute.content_hash import content_hash, normalised
from mlops_assets.compute.point_in_time import as_of_layout, reachable
from mlops_assets.orchestrate.graph import Edge, Node
from mlops_assets.orchestrate.project import Project
from mlops_assets.orchestrate.scope import Scope
from mlops_assets.orchestrate.tables import Made, publish
from mlops_assets.orchestrate.training import view_rows
from mlops_assets.values.dataset import Table
from mlops_assets.values.features import FeatureView, feature_views
from mlops_assets.values.serving import Service

# How far back from the newest row a request may look: late requests, and days that are replayed.
HISTORY = timedelta(days=7)


def online_views(project: Project) -> list[FeatureView]:
    """Return the feature views that services look up: those that say so, when there is a service."""
    wanted = {view.key for service in project.every(Service) for view in feature_views(service.model.training_set.features)}
    return [view for view in project.every(FeatureView) if view.online and view.key in wanted]


def online_key(view: FeatureView) -> str:
    """``online/<name>``."""
    return f"online/{view.name}"


def online_node(view: FeatureView) -> Node:
    """Return the online rows and the feature view they are made from."""
    return Node(online_key(view), None, (Edge(view.key, view.partitions, dg.AllPartitionMapping()),))


def online_body(view: FeatureView) -> Callable[[Scope], Iterator[object]]:
    """Return the body of the step that puts a feature view online."""

    def body(scope: Scope) -> Iterator[object]:
        yield from publish(scope, Table(), lambda: _produce(scope, view))

    return body


def _produce(scope: Scope, view: FeatureView) -> Made:
    """Fill the store, and return what the lake remembers of it."""
    rows = reachable(as_of_layout(view_of(view, view_rows(scope, view))), view.entity.join_keys, view.ttl, HISTORY)
    written = scope.places.online.replace(view.name, rows, join_keys=view.entity.join_keys, features=view.feature_names)
    facts: dict[str, Any] = {
        "view": view.name,
        "rows": written,
        "entities": rows.select(view.entity.join_keys).n_unique() if rows.height else 0,
        "newest": rows["__event"].max(),
        "content": content_hash(normalised(rows)),
    }
    return pl.DataFrame([facts], schema_overrides={"newest": pl.Datetime("us", "UTC")}), [], {"online rows": written}
