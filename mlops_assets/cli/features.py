"""``mlops features``: list, show and look up feature views, compare served features with the lake, and remove earlier versions."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from mlops_assets.cli.options import file_option, json_option, load, print_facts, print_rows, write_json
from mlops_assets.errors import DataError, DefinitionError, LakeError
from mlops_assets.values.asset_names import select_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import polars as pl

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.values.features import FeatureView
    from mlops_assets.values.serving import Service
    from mlops_assets.values.window import TimeWindow


@click.group()
def features() -> None:
    """List, show, look up, compare and erase features, offline and online."""


@features.command("list")
@file_option
@json_option
def list_views(file: str, json_file: str | None) -> None:
    """List feature views with entity, features, ttl, rows, newest row and the models that use them.

    Example: mlops features list --json -
    """
    project = load(file)
    rows = [_summarise(project, part.project, view) for part in project.parts for view in _list_views(part.project)]
    print_rows("feature views", rows, json_file)


@features.command("show")
@click.argument("name")
@file_option
@json_option
def show(name: str, file: str, json_file: str | None) -> None:
    """Show one feature view: statistics, column lineage, versions, and the models and services that use it.

    Example: mlops features show carrier_punctuality
    """
    print_facts(_describe(load(file), name), json_file)


@features.command("online")
@click.argument("name")
@click.option("--entity", "entities", multiple=True, required=True, metavar="KEY=VALUE[,KEY=VALUE]", help="Join keys of one entity.")
@click.option("--at", metavar="TIME", help="As of this time (ISO 8601)  [default: now]")
@file_option
@json_option
def online(name: str, entities: tuple[str, ...], at: str | None, file: str, json_file: str | None) -> None:
    """Look up the online features of one or more entities: values, status and age. Repeat --entity for each entity.

    Example: mlops features online carrier_punctuality --entity carrier=UA --at 2013-04-01T12:00
    """
    print_rows(f"{name} online", _look_up(load(file), name, entities, at), json_file)


@features.command("skew")
@click.argument("service")
@click.option("--partitions", metavar="A...B", help="Partitions of the service's predictions  [default: all]")
@file_option
@json_option
def skew(service: str, partitions: str | None, file: str, json_file: str | None) -> None:
    """Compare the features that a service used with the offline store; exit code 1 when a served value was wrong.

    Only predictions that were imported into the lake are compared.

    Example: mlops features skew lateness_api --partitions 2013-04-01
    """
    outcome = _measure_skew(load(file), service, partitions)
    facts = {**outcome.facts, "passed": outcome.passed}
    if json_file:
        write_json(facts, json_file)
    else:
        for title, value in facts.items():
            click.echo(f"{title}: {value}")
    sys.exit(0 if outcome.passed else 1)


@features.command("remove")
@click.argument("version", metavar="NAME@VERSION")
@file_option
def remove(version: str, file: str) -> None:
    """Remove an earlier version of a feature view; `mlops gc` may then delete its rows.

    Example: mlops features remove carrier_punctuality@1a2b3c4d
    """
    name, _, number = version.partition("@")
    load(file).stores.view_versions.remove(name, number)
    click.echo(f"version {number} of features/{name} is removed; `mlops gc` deletes the rows that no other version needs")


def _list_views(project: Project) -> Sequence[FeatureView]:
    from mlops_assets.values.features import FeatureView

    return project.select(FeatureView)


def _find_view(project: LoadedProject, name: str) -> tuple[Project, FeatureView]:
    from mlops_assets.values.features import FeatureView

    return project.find(FeatureView, name, "feature view")


def _read_rows(project: LoadedProject, view: FeatureView) -> pl.DataFrame | None:
    try:
        return project.stores.lake.read(view.key)
    except LakeError:
        return None


def _summarise(project: LoadedProject, declarations: Project, view: FeatureView) -> dict[str, Any]:
    from mlops_assets.orchestrate.features.discovery import find_usage

    rows, used = _read_rows(project, view), find_usage(declarations, project.stores, view)
    return {
        "view": view.name,
        "entity": ", ".join(view.entity.join_keys),
        "features": ", ".join(view.feature_names),
        "ttl": str(view.ttl or "unlimited"),
        "rows": 0 if rows is None else rows.height,
        "newest": "" if rows is None else str(rows[view.event_timestamp].max() or "")[:16],
        "online": "yes" if view.online else "no",
        "models": ", ".join(used.models),
    }


def _describe(project: LoadedProject, name: str) -> dict[str, Any]:
    from mlops_assets.compute.features.statistics import compute_statistics
    from mlops_assets.orchestrate.features.discovery import find_usage, source_lineage
    from mlops_assets.values.feature_types import format_type

    declarations, view = _find_view(project, name)
    rows, used = _read_rows(project, view), find_usage(declarations, project.stores, view)
    kinds = {feature: format_type(kind) for feature, kind in view.features}
    figures = [{"feature": n, "declared": k} for n, k in kinds.items()] if rows is None else compute_statistics(rows, view.feature_names)
    return {
        "view": {
            "description": view.description,
            "owners": ", ".join(view.options.owners),
            "tags": ", ".join(f"{key}={value}" for key, value in view.options.tags),
            "entity": f"{view.entity.name} ({', '.join(view.entity.join_keys)})",
            "event timestamp": view.event_timestamp,
            "created timestamp": view.created_timestamp or view.event_timestamp,
            "ttl": str(view.ttl or "unlimited"),
            "online": "yes" if view.online else "no",
            "rows": 0 if rows is None else rows.height,
            "training sets": ", ".join(used.training_sets),
            "models": ", ".join(used.models),
            "services": ", ".join(used.services),
            "model versions": ", ".join(used.versions),
        },
        "features": [
            {"feature": f["feature"], "declared": kinds[f["feature"]], **{k: _format_value(v) for k, v in f.items()}} for f in figures
        ],
        "lineage": [
            {"column": column, "sources": ", ".join(f"{table}.{part}" for table, part in sources)}
            for column, sources in source_lineage(declarations, project.stores, view).items()
        ],
        "versions": [
            {
                "version": v.version,
                "since": f"{v.recorded_at:%Y-%m-%d %H:%M}",
                "lake snapshot": "now" if v.last_snapshot is None else v.last_snapshot,
            }
            for v in project.stores.view_versions.list_versions(view.name)
        ],
    }


def _format_value(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _look_up(project: LoadedProject, name: str, entities: Sequence[str], at: str | None) -> list[dict[str, Any]]:
    from mlops_assets.orchestrate.training.training_set import parse_as_of
    from mlops_assets.stores.online.protocol import Lookup

    _, view = _find_view(project, name)
    if not view.online:
        select = select_nodes(f"online/{name}")
        raise DefinitionError(
            f"'{view.key}' is not online", hint=f"set online=True in the feature view '{name}', then run `mlops run --select '{select}'`"
        )
    rows = _read_rows(project, view)
    if rows is None:
        raise LakeError(
            f"'{view.key}' has never been materialised",
            hint=f"materialise it: mlops run --select '{select_nodes(view.key, f'online/{name}')}'",
        )
    keys = [_parse_entity(view, rows, text) for text in entities]
    at_time = parse_as_of(at) or datetime.now(UTC)
    micros = (at_time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    reader = project.stores.online.reader([Lookup(view.name, view.feature_names, view.ttl)])
    return list(_format_rows(view, keys, [reader.lookup_one([key], micros)[0] for key in keys]))


def _format_rows(view: FeatureView, keys: Sequence[tuple[Any, ...]], rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for key, row in zip(keys, rows, strict=True):
        age = "" if row.age is None else str(timedelta(microseconds=row.age)).partition(".")[0]
        yield {**dict(zip(view.entity.join_keys, key, strict=True)), **dict(zip(view.feature_names, row.values, strict=True))} | {
            "status": row.status.name,
            "age": age,
        }


def _parse_entity(view: FeatureView, rows: pl.DataFrame, text: str) -> tuple[Any, ...]:
    """Return the values of the join keys in ``KEY=VALUE[,KEY=VALUE]``, in the view's order and in the types of its rows."""
    values = dict(part.partition("=")[::2] for part in text.split(","))
    if set(values) != set(view.entity.join_keys):
        raise DataError(
            f"'{text}' does not name an entity of '{view.key}'", hint=f"give {','.join(f'{k}=...' for k in view.entity.join_keys)}"
        )
    import polars as pl

    frame = pl.DataFrame({key: [values[key]] for key in view.entity.join_keys})
    try:
        return frame.cast({key: rows.schema[key] for key in view.entity.join_keys}).row(0)
    except pl.exceptions.InvalidOperationError as error:
        expected = ", ".join(f"{key} ({rows.schema[key]})" for key in view.entity.join_keys)
        raise DataError(
            f"'{text}' does not have the types of the join keys of '{view.key}'", hint=f"the join keys are {expected}"
        ) from error


def _measure_skew(project: LoadedProject, name: str, partitions: str | None) -> Any:  # noqa: ANN401  (an Outcome)
    from mlops_assets.compute.tables.own_columns import PREDICTION_COLUMNS, lake_column, rename_from_table
    from mlops_assets.orchestrate.core.project import served_time
    from mlops_assets.orchestrate.online.skew import SkewReading, check_skew

    declarations, service = _find_service(project, name)
    window = None if partitions is None else _find_window(declarations, service, partitions)
    lake = project.stores.lake
    rows = lake.read(service.predictions_key, window=window, event_timestamp=lake_column(served_time(service), PREDICTION_COLUMNS))
    return check_skew(SkewReading(declarations, project.stores, lake.snapshot()), service, rename_from_table(rows, PREDICTION_COLUMNS))


def _find_window(declarations: Project, service: Service, partitions: str) -> TimeWindow:
    from mlops_assets.cli.partition_range import find_window
    from mlops_assets.orchestrate.core.project import served_partitions

    definition = served_partitions(declarations, service)
    if definition is None:
        raise DefinitionError(
            f"the predictions of service '{service.name}' are not partitioned, so --partitions cannot choose them", hint="omit --partitions"
        )
    return find_window(definition, partitions, f"service '{service.name}'")


def _find_service(project: LoadedProject, name: str) -> tuple[Project, Service]:
    from mlops_assets.values.serving import Service

    return project.find(Service, name, "service")
