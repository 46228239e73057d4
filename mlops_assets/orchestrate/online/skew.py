"""The skew check of a service: compare the served features with the same features computed from the lake.

A value that differs from the current lake may have been right when it was served, because its row was not online yet. So a value that
differs is computed again from the snapshot that was online then. A value that differs from that snapshot too was served wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from mlops_assets.compute.features.assemble import assemble
from mlops_assets.compute.features.layout import AsOfLayout
from mlops_assets.compute.features.request import RENAMED_FEATURES, RENAMED_KEYS
from mlops_assets.compute.features.skew import FEATURE, ROW, FeatureSource, SkewedValue, find_first_skew, find_skewed_values
from mlops_assets.compute.tables.own_columns import LOGGED_AT, MODEL_VERSION
from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.errors import LakeError
from mlops_assets.orchestrate.online.materialise import online_key
from mlops_assets.serving.formats.packaging import read_functions, read_manifest
from mlops_assets.stores.online.protocol import HISTORY
from mlops_assets.values.asset_names import build_graph_key
from mlops_assets.values.features import Entity, FeatureView

if TYPE_CHECKING:
    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.stores.platform.stores import Stores
    from mlops_assets.values.serving import Service

NO_SKEW = "no_skew"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_SNAPSHOTS = 50  # of the lake that are read again for one check
_HINT = "compare the online store with the lake: materialise {online} again, and look at its check matches_offline"
_PAST = (
    "the request is for {at}; {online} holds rows from {since} on, the last {days} days before its newest row. "
    "Materialising it again adds no older rows: send requests for recent times, and read the past with ml.training_frame or a batch prediction"
)
_ON_DEMAND = "compare the inputs of the request with those of the lake: the function is the same"


class SkewContext(Protocol):
    """The project, stores and snapshot that a comparison needs; a step context has them."""

    @property
    def project(self) -> Project:
        """The project that declares the views."""
        ...

    @property
    def stores(self) -> Stores:
        """The stores of the platform."""
        ...

    @property
    def snapshot(self) -> int:
        """The snapshot of the lake."""
        ...


@dataclass(frozen=True)
class SkewReading:
    """The project, stores and snapshot of a comparison outside of a run."""

    project: Project
    stores: Stores
    snapshot: int


@dataclass(frozen=True)
class _ServedVersion:
    """The manifest, views by name and on-demand functions with which one version computes its features."""

    manifest: Mapping[str, Any]
    views: Mapping[str, FeatureView]
    functions: Sequence[Callable[..., Any]]

    @property
    def time(self) -> str | None:
        return self.manifest["event_timestamp"]  # type: ignore[no-any-return]


def check_skew(step: SkewContext, service: Service, rows: pl.DataFrame) -> Outcome:
    """Return the outcome of the skew check: whether the served features equal those of the offline store; it never blocks.

    Rows of versions that look up no view, or a view that is no longer declared, are not compared.

    Parameters
    ----------
    step
        The step that imports the predictions into the lake, or another context.
    service
        The service that predicted.
    rows
        The predictions, as :func:`mlops_assets.serving.logs.prediction_rows.build_prediction_rows` returns them.
    """
    compared, late, skewed = 0, 0, list[tuple[SkewedValue, str]]()
    for (number,), part in rows.partition_by(MODEL_VERSION, as_dict=True, maintain_order=True).items():
        version = _read_version(step, service, number)
        if version is None:
            continue
        sources = _feature_sources(version)
        features = [name for name in version.manifest["columns"] if name in sources]
        differing = find_skewed_values(part, _compute_offline(step, version, part, {}), features)
        served_wrong = _select_served_wrong(step, version, part, differing, features)
        compared += part.height * len(features)
        late += differing.height - served_wrong.height
        skews = [find_first_skew(served_wrong[i : i + 1], part, sources, version.time or "") for i in range(served_wrong.height)]
        skewed += [(skew, _advise(step, version, skew) if number == 0 and not skewed else "") for number, skew in enumerate(skews)]
    facts = {"values compared": compared, "served wrong": len(skewed), "changed since they were served": late}
    if not skewed:
        return Outcome(NO_SKEW, passed=True, blocking=False, serious=True, facts=facts)
    message = f"{len(skewed)} of {compared} served values differ from the offline store; the first: {skewed[0][0]}"
    first_skew = {"first": str(skewed[0][0])}
    return Outcome(NO_SKEW, passed=False, message=message, hint=skewed[0][1], blocking=False, serious=True, facts=facts | first_skew)


def _advise(step: SkewContext, version: _ServedVersion, skew: SkewedValue) -> str:
    """Return a hint for a value that was served wrong: on-demand features and lookups before the online history have their own."""
    view = version.views.get(skew.view)
    if view is None:
        return _ON_DEMAND
    newest = max((int(bucket.valid_from.max()) for bucket in _load_layout(step, view, {}).buckets if len(bucket.valid_from)), default=None)
    if newest is not None and skew.at is not None:
        since = min(EPOCH + timedelta(microseconds=newest), datetime.now(UTC)) - HISTORY  # rows of forecasts lie in the future
        at = skew.at if skew.at.tzinfo else skew.at.replace(tzinfo=UTC)
        if at < since:
            return _PAST.format(at=skew.at, online=build_graph_key(online_key(view)), since=since, days=HISTORY.days)
    return _HINT.format(online=build_graph_key(online_key(view)))


def _read_version(step: SkewContext, service: Service, number: int) -> _ServedVersion | None:
    """Return the means by which a version computes its features; None when it is not registered, looks up no view, or looks up an undeclared one."""
    registered = next((v for v in step.stores.registry.versions(service.model.name) if v.version == number), None)
    if registered is None:
        return None
    manifest = read_manifest(step.stores.artifacts, registered.artifact)
    declared = {view.name: view for view in step.project.select(FeatureView)}
    steps = [entry for entry in manifest.get("steps", ()) if "view" in entry]
    if not steps or any(entry["view"] not in declared for entry in steps):
        return None
    views = {entry["view"]: _restore_trained_view(declared[entry["view"]], entry) for entry in steps}
    return _ServedVersion(manifest, views, read_functions(step.stores.artifacts, manifest))


def _restore_trained_view(view: FeatureView, step: Mapping[str, Any]) -> FeatureView:
    """Return a feature view with the keys, ttl, features and defaults that the stored model recorded."""
    kinds = dict(view.features)
    return FeatureView(
        name=view.name,
        source=view.source,
        entity=Entity(view.entity.name, tuple(step["join_keys"])),
        event_timestamp=view.event_timestamp,
        created_timestamp=view.created_timestamp,
        ttl=None if step["ttl"] is None else timedelta(seconds=step["ttl"]),
        features={name: kinds.get(name, float) for name in step["features"]},
        defaults={name: value for name, value in step["defaults"].items() if name in kinds},
    )


def _feature_sources(version: _ServedVersion) -> dict[str, FeatureSource]:
    """Return feature → its source: a looked-up view, or the on-demand function; request fields are left out."""
    inputs = [field["name"] for field in version.manifest["request"]]
    looked_up = {
        name: FeatureSource(step["view"], tuple(step.get(RENAMED_KEYS, step["join_keys"])))
        for step in version.manifest["steps"]
        if "view" in step
        for name in step.get(RENAMED_FEATURES, step["features"])
    }
    computed = [name for name in version.manifest["columns"] if name not in looked_up and name not in inputs]
    function = next((step for step in version.manifest["steps"] if "function" in step), None)
    return looked_up | ({name: FeatureSource(function["function"], tuple(function["parameters"])) for name in computed} if function else {})


def _compute_offline(step: SkewContext, version: _ServedVersion, rows: pl.DataFrame, states: Mapping[str, int | None]) -> pl.DataFrame:
    """Return the features of rows, computed from the lake at the step's snapshot.

    ``states`` maps a view to another snapshot to read, or to None for a view that counts as empty.
    """
    functions = iter(version.functions)
    stored = {name: _load_layout(step, view, states) for name, view in version.views.items()}
    steps = [_rename_columns(stored[e["view"]], e) if "view" in e else next(functions) for e in version.manifest["steps"]]
    layouts = [entry for entry in steps if isinstance(entry, AsOfLayout)]
    spine = rows.select(name for name in _list_request_fields(version) if name in rows.columns)
    keys = {key: layout.schema[key] for layout in layouts for key in layout.join_keys if key in spine.columns}
    joined, _ = assemble(spine.cast(keys), steps, event_timestamp=version.time, as_known=True)  # type: ignore[arg-type]  # names to types
    return joined


def _rename_columns(layout: AsOfLayout, step: Mapping[str, Any]) -> AsOfLayout:
    return layout.rename(step[RENAMED_KEYS], step[RENAMED_FEATURES]) if RENAMED_KEYS in step else layout


def _list_request_fields(version: _ServedVersion) -> list[str]:
    return [field["name"] for field in version.manifest["request"]]


def _load_layout(step: SkewContext, view: FeatureView, states: Mapping[str, int | None]) -> AsOfLayout:
    state = states.get(view.name, step.snapshot)
    layout = step.stores.layouts.load(view, snapshot=step.snapshot if state is None else state)
    return layout if state is not None else layout.clear()


def _select_served_wrong(
    step: SkewContext, version: _ServedVersion, rows: pl.DataFrame, differences: pl.DataFrame, features: Sequence[str]
) -> pl.DataFrame:
    """Return the differences that remain when each row is computed from the snapshots that were online when it was served.

    Only the first ``MAX_SNAPSHOTS`` combinations of snapshots are computed. For the other rows, every difference remains.
    """
    if differences.is_empty():
        return differences
    suspect_numbers = differences[ROW].unique().sort()
    suspects = rows[suspect_numbers]
    histories = {name: _read_online_history(step, view) for name, view in version.views.items()}
    states = pl.DataFrame([_find_online_states(suspects[LOGGED_AT], history).alias(name) for name, history in histories.items()])
    remaining = [differences.clear()]
    for index, group in enumerate(states.with_row_index("__i").partition_by(*version.views, maintain_order=True)):
        row_numbers = suspect_numbers.gather(group["__i"])
        part = differences.filter(pl.col(ROW).is_in(row_numbers.implode()))
        if index < MAX_SNAPSHOTS:
            part = part.join(
                _compare_again(step, version, rows, row_numbers, group, features), on=[ROW, FEATURE], how="semi", maintain_order="left"
            )
        remaining.append(part)
    return pl.concat(remaining).sort(ROW, maintain_order=True)


def _compare_again(  # noqa: PLR0913  (one look at one state of the lake)
    step: SkewContext, version: _ServedVersion, rows: pl.DataFrame, row_numbers: pl.Series, group: pl.DataFrame, features: Sequence[str]
) -> pl.DataFrame:
    """Return the row number and feature of the values that still differ in the given rows, all served from one state of the lake."""
    states = {name: group[name][0] for name in version.views}
    try:
        offline = _compute_offline(step, version, rows[row_numbers], states)
    except LakeError:  # a snapshot has expired, so every difference remains
        return pl.DataFrame({ROW: row_numbers.cast(pl.UInt32)}).join(pl.DataFrame({FEATURE: list(features)}), how="cross")
    again = find_skewed_values(rows[row_numbers], offline, features)
    return again.with_columns(row_numbers.gather(again[ROW]).cast(pl.UInt32).alias(ROW))


def _read_online_history(step: SkewContext, view: FeatureView) -> pl.DataFrame:
    """Return when a view was materialised online, and the snapshot of the lake at each of these times; oldest first."""
    try:
        records = step.stores.lake.read("_mlops/partitions")
    except LakeError:
        return pl.DataFrame(schema={"recorded_at": pl.Datetime("us", "UTC"), "snapshot": pl.Int64})
    view_records = records.filter(pl.col("table_name") == online_key(view)).select("recorded_at", pl.col("snapshot") - 1)
    return view_records.sort("recorded_at")


def _find_online_states(times: pl.Series, history: pl.DataFrame) -> pl.Series:
    """Return the snapshot that was online at each time; null when none was."""
    served = pl.DataFrame({"recorded_at": times, "__row": range(times.len())}).sort("recorded_at")
    matched = served.join_asof(history, on="recorded_at", strategy="backward") if history.height else served.with_columns(snapshot=None)
    return matched.sort("__row")["snapshot"].cast(pl.Int64)
