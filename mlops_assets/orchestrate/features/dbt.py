"""Compile dbt models to assets: each model is a feature table of the lake, with records like any other table."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

import dagster as dg
import polars as pl
from dagster_dbt import DagsterDbtTranslator, DbtCliResource, dbt_assets
from packaging.version import Version

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.orchestrate.core.beta import allow_beta
from mlops_assets.orchestrate.core.graph import Edge, Node, compute_fingerprints
from mlops_assets.orchestrate.core.io_manager import IO_MANAGER_KEY, lake_io_manager
from mlops_assets.orchestrate.core.liveness import tag_run
from mlops_assets.orchestrate.core.metadata import draw_safely, table_metadata
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.features.dbt_columns import describe_column_changes, explain_column_error
from mlops_assets.orchestrate.features.dbt_project import PARSE_WINDOW, WINDOW_END, WINDOW_START, DbtFolder, find_mlops_dbt
from mlops_assets.orchestrate.features.discovery import dbt_lineage, describe_view
from mlops_assets.orchestrate.features.freshness import build_freshness_policy
from mlops_assets.orchestrate.tables.automation import follow_inputs
from mlops_assets.orchestrate.tables.tables import COLUMNS
from mlops_assets.stores.lake.protocol import Commit, Partition
from mlops_assets.stores.platform.stores import Stores, open_stores
from mlops_assets.values.feature_sources import DbtModel, DbtProject
from mlops_assets.values.features import FeatureView
from mlops_assets.values.platform import Platform
from mlops_assets.values.window import window_of

Props = Mapping[str, Any]
_FAILED_TEST = {"fail", "error"}  # dbt's statuses


@dataclass(frozen=True)
class DbtTable:
    """A dbt model as a table of the lake; without a feature view, it has no event timestamp and no key.

    ``descriptions`` are those of its columns in ``schema.yml``.
    """

    node: Node
    event_timestamp: str | None
    key: tuple[str, ...]
    view: FeatureView | None
    incremental: bool = False
    descriptions: Mapping[str, str] = field(default_factory=dict)


def build_dbt_assets(project: Project, platform: Platform) -> Iterator[dg.AssetsDefinition]:
    """Yield the assets of every dbt project: one definition for all models with the same partitions."""
    for declared in project.select(DbtProject):
        folder = DbtFolder(declared.path, platform)
        manifest = folder.manifest()
        tables = _read_tables(project, declared, manifest)
        groups: dict[dg.PartitionsDefinition | None, list[str]] = {}
        for name, table in tables.items():
            groups.setdefault(table.node.partitions, []).append(name)
        for index, (partitions, names) in enumerate(groups.items()):
            yield _build_assets(folder, manifest, platform, {n: tables[n] for n in names}, partitions, index)


def _read_tables(project: Project, declared: DbtProject, manifest: Props) -> dict[str, DbtTable]:
    """Return name → table of the models that dbt stores, so without ephemeral models.

    Raises
    ------
    DefinitionError
        A feature view names an unknown model, or a model reads a source that is not in the project.
    """
    views = {v.source.name: v for v in project.select(FeatureView) if isinstance(v.source, DbtModel) and v.source.project == declared}
    models = {
        m["name"]: m for m in manifest["nodes"].values() if m["resource_type"] == "model" and m["config"]["materialized"] != "ephemeral"
    }
    if unknown := [name for name in views if name not in models]:
        raise DefinitionError(
            f"'features/{unknown[0]}' names the dbt model '{unknown[0]}', which '{declared.path}' lacks",
            hint=suggest_name(unknown[0], models) + f"it has {', '.join(sorted(models))}",
        )
    return {name: _read_table(project, views, manifest, model) for name, model in models.items()}


def _read_table(project: Project, views: Mapping[str, FeatureView], manifest: Props, model: Props) -> DbtTable:
    view = views.get(model["name"])
    source = view.source if view and isinstance(view.source, DbtModel) else None
    edges = []
    for unique_id in model["depends_on"]["nodes"]:
        parent = manifest["sources"].get(unique_id) or manifest["nodes"].get(unique_id)
        if parent is None or parent["resource_type"] not in {"source", "model"}:
            continue
        key = _table_key(parent)
        ref = project.by_key.get(key)
        if ref is None and parent["resource_type"] == "source":
            raise DefinitionError(
                f"the dbt model '{model['name']}' reads '{key}', which is not in the project",
                hint=suggest_name(key, project.by_key)
                + "add it to the list given to build_definitions, or correct the source in the dbt project",
            )
        edges.append(Edge(key, ref.partitions if ref else None, source.partition_mapping if source else None))
    code_hash = _hash_model(manifest, model)
    node = Node(
        _table_key(model),
        source.partitions if source else None,
        tuple(edges),
        definition=view.hash_definition(code_hash) if view else code_hash,
    )
    event_timestamp = view.event_timestamp if view else None
    row_key = (*view.entity.join_keys, view.event_timestamp) if view else ()
    descriptions = {name: column["description"] for name, column in model.get("columns", {}).items() if column.get("description")}
    return DbtTable(node, event_timestamp, row_key, view, _is_incremental(model), descriptions)


def _is_incremental(model: Props) -> bool:
    return bool(model["config"]["materialized"] == "incremental")


def _hash_model(manifest: Props, model: Props) -> str:
    """Return a hash of a model's code, of the ephemeral models that it includes and of the project's macros that it calls."""
    project, seen, pending = model["package_name"], dict[str, str](), [model]
    while pending:
        node = pending.pop()
        seen[node["unique_id"]] = node.get("raw_code") or node.get("macro_sql") or ""
        parents = [manifest["nodes"].get(i) for i in node["depends_on"].get("nodes", ())] + [
            manifest["macros"].get(i) for i in node["depends_on"].get("macros", ())
        ]
        inlined = (n for n in parents if n and n["package_name"] == project and (n["resource_type"] == "macro" or _is_ephemeral(n)))
        pending.extend(n for n in inlined if n["unique_id"] not in seen)
    return hashlib.sha256(json.dumps(sorted(seen.items())).encode()).hexdigest()


def _is_ephemeral(node: Props) -> bool:
    return bool(node["resource_type"] == "model" and node["config"]["materialized"] == "ephemeral")


def _table_key(props: Props) -> str:
    """Return the lake's key of a source, ``<schema>/<table>``, or of a model, ``features/<name>``."""
    return (
        f"{props['schema']}/{props.get('identifier') or props['name']}"
        if props["resource_type"] == "source"
        else f"features/{props['name']}"
    )


class _Translator(DagsterDbtTranslator):
    """Translates dbt models to assets: keys, groups, owners, freshness and automation."""

    def __init__(self, tables: Mapping[str, DbtTable], platform: Platform) -> None:
        super().__init__()
        self._tables = tables
        self._platform = platform

    def get_asset_key(self, dbt_resource_props: Props) -> dg.AssetKey:
        """Return the key of a model's or source's table in the lake; for other resources, dagster-dbt's key."""
        return (
            asset_key(_table_key(dbt_resource_props))
            if dbt_resource_props["resource_type"] in {"source", "model"}
            else super().get_asset_key(dbt_resource_props)
        )

    def _find_view(self, props: Props) -> FeatureView | None:
        table = self._tables.get(props["name"]) if props["resource_type"] == "model" else None
        return table.view if table else None

    def get_group_name(self, dbt_resource_props: Props) -> str | None:
        """Return the group of the feature view; by default ``data``."""
        view = self._find_view(dbt_resource_props)
        return (view.options.group if view else None) or "data"

    def get_description(self, dbt_resource_props: Props) -> str:
        """Return the description of the feature view; without one, the description in dbt."""
        view = self._find_view(dbt_resource_props)
        return (view.description if view else "") or super().get_description(dbt_resource_props)

    def get_owners(self, dbt_resource_props: Props) -> Sequence[str] | None:
        """Return the owners of the feature view; without owners, those in dbt."""
        view = self._find_view(dbt_resource_props)
        return list(view.options.owners) if view and view.options.owners else super().get_owners(dbt_resource_props)

    def get_tags(self, dbt_resource_props: Props) -> Mapping[str, str]:
        """Return the tags of dbt and those of the feature view, which override dbt's."""
        view = self._find_view(dbt_resource_props)
        return {**super().get_tags(dbt_resource_props), **(dict(view.options.tags) if view else {})}

    def get_asset_spec(self, manifest: Props, unique_id: str, project: Any) -> dg.AssetSpec:  # noqa: ANN401  (dagster-dbt's signature)
        """Return the spec of dagster-dbt, with the freshness policy of the feature view if it has one."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        view = self._find_view(self.get_resource_props(manifest, unique_id))
        policy = (view.options.freshness_policy or build_freshness_policy(view)) if view else None
        return spec if policy is None else spec.replace_attributes(freshness_policy=policy)

    def get_partition_mapping(self, dbt_resource_props: Props, dbt_parent_resource_props: Props) -> dg.PartitionMapping | None:
        """Return the partition mapping that the feature view declares; None, Dagster's default, if it declares none."""
        table = self._tables.get(dbt_resource_props["name"])
        parent = _table_key(dbt_parent_resource_props)
        return next((edge.mapping for edge in table.node.edges if edge.parent == parent), None) if table else None

    def get_automation_condition(self, dbt_resource_props: Props) -> Any:  # noqa: ANN401
        """Return the condition of the feature view; by default the table follows its inputs."""
        table = self._tables.get(dbt_resource_props["name"])
        if table is None or dbt_resource_props["resource_type"] != "model":
            return None
        return (table.view.options.automation_condition if table.view else None) or follow_inputs(table.node, self._platform)


def _build_assets(  # noqa: PLR0913  (one definition)
    folder: DbtFolder,
    manifest: Props,
    platform: Platform,
    tables: Mapping[str, DbtTable],
    partitions: dg.PartitionsDefinition | None,
    index: int,
) -> dg.AssetsDefinition:
    name = f"dbt__{folder.source.name}" + (f"_{index}" if index else "")

    @dbt_assets(
        manifest=manifest,
        select=" ".join(sorted(tables)),
        name=name,
        partitions_def=partitions,
        io_manager_key=IO_MANAGER_KEY,
        dagster_dbt_translator=_Translator(tables, platform),
        backfill_policy=dg.BackfillPolicy.single_run() if partitions else None,
    )
    def build(context: dg.AssetExecutionContext) -> Iterator[Any]:
        tag_run(context.instance, context.run.run_id)
        yield from _run_and_record(context, folder, open_stores(platform), tables)

    # Not with_resources(): it needs the default IO manager, which belongs to the project that these definitions are merged into.
    with allow_beta():
        return dg.AssetsDefinition.dagster_internal_init(
            **build.get_attributes_dict() | {"resource_defs": {IO_MANAGER_KEY: lake_io_manager(platform)[1]}}
        )


def _run_and_record(context: dg.AssetExecutionContext, folder: DbtFolder, stores: Stores, tables: Mapping[str, DbtTable]) -> Iterator[Any]:
    """Run dbt, record the tables that it built, and yield its outputs with their metadata; then raise the first error.

    A model that fails, that dbt skips, or whose dbt test fails is not recorded: its attempt records the error.
    """
    selected = {name: table for name, table in tables.items() if asset_key(table.node.key) in context.selected_asset_keys}
    partitions = next(iter(tables.values())).node.partitions
    keys = ("",) if partitions is None else tuple(context.partition_keys)
    stores.lake.snapshot()  # creates the lake before dbt attaches it
    partitions_of = {name: _list_partitions(table, keys, stores) for name, table in selected.items()}
    for name, table in selected.items():
        stores.attempts.record_start(table.node.key, partitions_of[name], context.run.run_id)
        if table.view:
            stores.view_versions.declare(table.view, table.view.version(table.node.definition), stores.lake.snapshot())
    printed, columns_before = io.StringIO(), {name: stores.lake.schema(table.node.key) for name, table in selected.items()}
    with redirect_stdout(printed):  # dbt's output goes into the run's log
        dbt_run = _run_dbt(context, folder, _window_variables(partitions, keys))
    (context.log.error if dbt_run.error else context.log.info)(printed.getvalue())
    yield from dbt_run.other_events
    failed_tests, unrecorded = _find_failed_tests(dbt_run.other_events), dict.fromkeys(selected, dbt_run.error)
    for output in dbt_run.outputs:
        key = context.asset_key_for_output(output.output_name)
        name = next(name for name, table in selected.items() if asset_key(table.node.key) == key)
        if key in failed_tests:
            continue
        try:
            compiled = folder.read_compiled_sql(name)
            recorded = _record_output(context, stores, output, selected[name], partitions_of[name], compiled, columns_before[name])
        except Exception as record_error:  # noqa: BLE001  (raised at the end: the rows of the other models must not stay unrecorded)
            unrecorded[name] = record_error
        else:
            del unrecorded[name]
            yield recorded
    for name, error in unrecorded.items():
        if isinstance(error, Exception):  # an interrupt is not a failure of the model
            stores.attempts.record_failure(selected[name].node.key, partitions_of[name], str(error))
    if first_error := dbt_run.error or next(filter(None, unrecorded.values()), None):
        incremental = {name: columns_before[name] for name, table in selected.items() if table.incremental}
        raise explain_column_error(first_error, incremental) from first_error


def _find_failed_tests(events: Sequence[Any]) -> set[dg.AssetKey | None]:
    """Return the assets with a dbt test that failed; a test that only warns counts as passed."""
    checks = {
        event.asset_key
        for event in events
        if isinstance(event, dg.AssetCheckResult) and not event.passed and event.severity is dg.AssetCheckSeverity.ERROR
    }
    observations = {  # of a test that belongs to several models, or to a model that is not selected
        event.asset_key for event in events if isinstance(event, dg.AssetObservation) and event.metadata["status"].value in _FAILED_TEST
    }
    return checks | observations


class _DbtCli(DbtCliResource):
    """The dbt CLI without two start-up costs of dagster-dbt: a process that asks for dbt's version, and the import of an adapter."""

    @property
    def _cli_version(self) -> Version:
        return Version(metadata.version("dbt-core"))

    def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> Any:  # noqa: ANN401, ARG002  (dagster-dbt's signature)
        return None


@dataclass(frozen=True)
class _DbtRun:
    """The outputs of the models that dbt built, its other events, and the error that ended it."""

    outputs: list[Any]
    other_events: list[Any]
    error: BaseException | None


def _run_dbt(context: dg.AssetExecutionContext, folder: DbtFolder, window: Mapping[str, str]) -> _DbtRun:
    """Run dbt to its end; an error or an interrupt is returned with the events before it, because dbt has already written their rows."""
    events, error = list[Any](), None
    try:
        folder.prepare()
        dbt = _DbtCli(project_dir=str(folder.source), profiles_dir=str(folder.work), dbt_executable=find_mlops_dbt())
        with _set_environment(window):
            invocation = dbt.cli(["build"], context=context, target_path=folder.target)
        events.extend(invocation.stream())
    except BaseException as caught:  # noqa: BLE001
        error = caught
    return _DbtRun([e for e in events if isinstance(e, dg.Output)], [e for e in events if not isinstance(e, dg.Output)], error)


@contextmanager
def _set_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while a process starts; dagster-dbt can pass variables only through its own environment."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _window_variables(partitions: dg.PartitionsDefinition | None, keys: Sequence[str]) -> Mapping[str, str]:
    """Return the environment variables with the window of a run; a fixed window for models without partitions."""
    first, last = window_of(partitions, keys[0]), window_of(partitions, keys[-1])
    return PARSE_WINDOW if first is None or last is None else {WINDOW_START: first.start.isoformat(), WINDOW_END: last.end.isoformat()}


def _list_partitions(table: DbtTable, keys: Sequence[str], stores: Stores) -> list[Partition]:
    inputs = compute_fingerprints(table.node, keys, stores.lake, snapshot=stores.lake.snapshot())
    return [Partition(key, window_of(table.node.partitions, key), inputs.get(key, "")) for key in keys]


def _list_view_facts(
    context: dg.AssetExecutionContext, stores: Stores, table: DbtTable, rows: pl.DataFrame, compiled: str
) -> dict[str, Any]:
    view, node = table.view, table.node
    if view is None:
        return {}

    def draw() -> dict[str, Any]:
        return describe_view(view, rows, dbt_lineage(view, compiled, stores, [edge.parent for edge in node.edges]))

    return {"version": view.version(node.definition), **draw_safely("statistics", draw, context.log.warning)}


def _record_output(  # noqa: PLR0913  (one output)
    context: dg.AssetExecutionContext,
    stores: Stores,
    output: Any,  # noqa: ANN401
    table: DbtTable,
    partitions: Sequence[Partition],
    compiled: str,
    columns_before: Mapping[str, pl.DataType],
) -> Any:  # noqa: ANN401
    """Record the table that dbt wrote; return dagster-dbt's output with metadata of the table."""
    commit: Commit = stores.lake.record(
        table.node.key, partitions, event_timestamp=table.event_timestamp, key=table.key, run_id=context.run.run_id
    )
    stores.attempts.clear(table.node.key, partitions)
    spans = [partition.window for partition in partitions if partition.window]
    window = replace(spans[0], end=spans[-1].end) if spans else None
    rows = stores.lake.read(table.node.key, window=window, event_timestamp=table.event_timestamp)
    changes = describe_column_changes(stores.lake, table.node.key, columns_before, compiled, incremental=table.incremental)
    for text in changes:
        context.log.warning(f"{table.node.key}: {text}")
    facts = {
        "lake snapshot": commit.snapshot,
        **({COLUMNS: "; ".join(changes)} if changes else {}),
        **_list_view_facts(context, stores, table, rows, compiled),
        "changed partitions": f"{len(commit.changed)} of {len(commit.records)}",
        **table_metadata(rows, table.descriptions),
    }
    return dg.Output(output.value, output_name=output.output_name, metadata={**output.metadata, **facts})
