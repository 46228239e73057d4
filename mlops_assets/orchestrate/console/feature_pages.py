"""Pages about feature views and predictions: statistics, freshness and consumers, declared and undeclared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from mlops_assets.compute.features.statistics import compute_statistics
from mlops_assets.compute.pages.console_page import ConsoleBlock, ConsoleCell, ConsoleFacts, ConsolePage, ConsoleTable
from mlops_assets.compute.text import UNKNOWN, format_number
from mlops_assets.errors import LakeError
from mlops_assets.orchestrate.console.consumers import Consumer, find_consumers
from mlops_assets.orchestrate.console.site import ConsoleRequest, ConsoleSite, MissingPageError, encode, format_age, format_time
from mlops_assets.stores.lake.protocol import Lake, PartitionRecord
from mlops_assets.values.asset_names import select_nodes
from mlops_assets.values.feature_types import format_type
from mlops_assets.values.features import FeatureView
from mlops_assets.values.serving import BatchPrediction, Service

SECTION = "/features"
MAX_ROWS = 100_000  # rows of the newest partitions from which statistics are computed
_MAX_VERSIONS = 20


@dataclass(frozen=True)
class _PredictionTable:
    """The table of a batch prediction or of a service's predictions."""

    name: str
    key: str
    model: str
    event_timestamp: str | None


def build_view_path(name: str) -> str:
    """Return the path of a feature view's page."""
    return f"{SECTION}/{encode(name)}"


def prediction_path(name: str) -> str:
    """Return the path of the page about the predictions of a service or a batch prediction."""
    return f"/predictions/{encode(name)}"


def list_features(site: ConsoleSite, _request: ConsoleRequest) -> ConsolePage:
    """Return the page with every feature view and every table of predictions."""
    views = []
    for _, view in site.select(FeatureView):
        records = site.stores.lake.records(view.key)
        consumers = find_consumers(site, view.key, view)
        views.append(
            (
                ConsoleCell(view.name, build_view_path(view.name)),
                ", ".join(view.entity.join_keys),
                ", ".join(view.feature_names),
                _describe_row_count(records),
                *_describe_freshness(view, records),
                "yes" if view.online else "no",
                *_count_consumers(consumers),
            )
        )
    head = ("view", "entity", "features", "rows", "written", "data until (UTC)", "online", "consumers", "undeclared")
    empty = "The project declares no feature view. Declare one with ml.FeatureView(source=DATASET, …)."
    rows = [_summarise_predictions(site, table) for table in _list_prediction_tables(site)]
    predicted = ConsoleTable(
        "Predictions",
        ("predictions", "model", "rows", "written", "data until (UTC)", "consumers", "undeclared"),
        tuple(rows),
        "The project predicts nothing yet: declare an ml.BatchPrediction or an ml.Service.",
        frozenset({2}),
    )
    commands = [("The same in a terminal", site.build_command("features list")), ("Bring tables up to date", site.build_command("run"))]
    blocks = [ConsoleTable("Feature views", head, tuple(views), empty, frozenset({3})), predicted]
    return ConsolePage("Features", SECTION, "Undeclared consumers read a table without a declaration of this package.", blocks, commands)


def _summarise_predictions(site: ConsoleSite, table: _PredictionTable) -> tuple[ConsoleCell | str, ...]:
    records = site.stores.lake.records(table.key)
    model = ConsoleCell(table.model, f"/models/{encode(table.model)}")
    cells = (_describe_row_count(records), *_describe_freshness(None, records), *_count_consumers(find_consumers(site, table.key)))
    return (ConsoleCell(table.name, prediction_path(table.name)), model, *cells)


def _list_prediction_tables(site: ConsoleSite) -> list[_PredictionTable]:
    batches = [(project, batch.name, batch.key, batch.model.name) for project, batch in site.select(BatchPrediction)]
    services = [(project, service.name, service.predictions_key, service.model.name) for project, service in site.select(Service)]
    return [_PredictionTable(name, key, model, project.by_key[key].event_timestamp) for project, name, key, model in (*batches, *services)]


def _describe_row_count(records: Mapping[str, PartitionRecord]) -> str:
    return f"{sum(record.rows for record in records.values()):,}" if records else "not written yet"


def _describe_freshness(view: FeatureView | None, records: Mapping[str, PartitionRecord]) -> tuple[ConsoleCell | str, str]:
    """Return when a table was last written, marked when its newest data is older than the view's time to live, and the end of that data."""
    if not records:
        return UNKNOWN, UNKNOWN
    written = max(record.recorded_at for record in records.values())
    until = _find_data_end(records)
    is_stale = view is not None and view.ttl is not None and until is not None and datetime.now(UTC) - until > view.ttl
    return ConsoleCell(format_age(written), kind="warn" if is_stale else ""), format_time(until)


def _find_data_end(records: Mapping[str, PartitionRecord]) -> datetime | None:
    return max((record.window.end for record in records.values() if record.rows and record.window is not None), default=None)


def _count_consumers(consumers: Sequence[Consumer]) -> tuple[str, ConsoleCell | str]:
    undeclared = [consumer.name for consumer in consumers if not consumer.declared]
    return str(len(consumers) - len(undeclared)), ConsoleCell(", ".join(undeclared), kind="warn") if undeclared else "none"


def show_view(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the page of one feature view: statistics of its newest rows, freshness, versions and consumers."""
    name = request.path["view"]
    known = {view.name: view for _, view in site.select(FeatureView)}
    if name not in known:
        raise MissingPageError("feature view", name, {each: build_view_path(each) for each in known}, site.build_command("features list"))
    view = known[name]
    records = site.stores.lake.records(view.key)
    blocks: list[ConsoleBlock] = [
        ConsoleFacts("", _list_facts(site, view, records)),
        *_list_statistics(site, view, records),
        list_consumers(find_consumers(site, view.key, view)),
        _list_versions(site, view),
    ]
    commands = [
        ("Statistics of all rows, lineage and versions", site.build_command(f"features show {name}")),
        ("Bring it up to date", site.build_command(f"run --select '{select_nodes(view.key)}'")),
        *(
            [("Look an entity up", site.build_command(f"features online {name} --entity {view.entity.join_keys[0]}=VALUE"))]
            if view.online
            else []
        ),
    ]
    return ConsolePage(name, SECTION, view.description, blocks, commands, ConsoleCell("Features", SECTION))


def _list_facts(site: ConsoleSite, view: FeatureView, records: Mapping[str, PartitionRecord]) -> tuple[tuple[str, ConsoleCell | str], ...]:
    written, until = _describe_freshness(view, records)
    asset = site.asset_url(view.key)
    return (
        ("entity", f"{view.entity.name} ({', '.join(view.entity.join_keys)})"),
        ("event timestamp", view.event_timestamp),
        ("time to live", str(view.ttl or "unlimited")),
        ("online", "yes" if view.online else "no"),
        ("rows", _describe_row_count(records)),
        ("written", written),
        ("data until (UTC)", until),
        ("owners", ", ".join(view.options.owners) or "none declared"),
        *([("in the Dagster UI", ConsoleCell(view.key, asset))] if asset else []),
    )


def _list_statistics(site: ConsoleSite, view: FeatureView, records: Mapping[str, PartitionRecord]) -> list[ConsoleBlock]:
    """Return the statistics of the newest partitions with at most ``MAX_ROWS`` rows together, or of the newest partition alone."""
    if not records:
        return [ConsoleTable("Statistics", ("feature",), (), "The view was never materialised: run the second command below.")]
    kinds = {feature: format_type(kind) for feature, kind in view.features}
    state = (view.key, max(record.snapshot for record in records.values()))
    if state not in site.cache:
        site.cache[state] = _measure_newest_rows(site.stores.lake, view, records)
    statistics, text = site.cache[state]
    figures = ("rows", "null", "distinct", "min", "mean", "max", "std")
    rows = tuple(
        (
            row["feature"],
            kinds.get(row["feature"], row["type"]),
            *(_format_figure(name, row.get(name)) for name in figures),
            row["histogram"],
        )
        for row in statistics
    )
    head = ("feature", "type", *figures, "distribution")
    return [ConsoleTable(f"Statistics of {text}", head, rows, "", frozenset(range(2, 9)))]


def _format_figure(name: str, value: Any) -> str:  # noqa: ANN401  (a figure of any type)
    if value is None:
        return UNKNOWN
    if name == "null":
        return f"{value:.1%}"
    return format_number(value, 4) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _measure_newest_rows(lake: Lake, view: FeatureView, records: Mapping[str, PartitionRecord]) -> tuple[list[dict[str, Any]], str]:
    """Return the statistics of a view's newest rows, and a text that names these rows."""
    chosen, rows = list[PartitionRecord](), 0
    for record in sorted(records.values(), key=lambda record: record.partition, reverse=True):
        if chosen and rows + record.rows > MAX_ROWS:
            break
        chosen.append(record)
        rows += record.rows
    total = len(records)
    spans = [record.window for record in chosen if record.window is not None]
    columns = list(view.feature_names)
    try:
        if len(chosen) == total or not spans:
            frame, text = lake.read(view.key, columns=columns).tail(MAX_ROWS), "all rows"
        else:
            window = type(spans[0])(min(span.start for span in spans), max(span.end for span in spans))
            frame = lake.read(view.key, window=window, event_timestamp=view.event_timestamp, columns=columns)
            text = f"the newest {len(chosen)} of {total} partitions"
    except LakeError as error:
        return [], f"no rows: {error.message}"
    return compute_statistics(frame if frame.width else pl.DataFrame(), columns), f"{text} ({frame.height:,} rows)"


def list_consumers(consumers: Sequence[Consumer]) -> ConsoleTable:
    """Return the consumers of a table, undeclared ones first."""
    rows = tuple(
        (
            consumer.name,
            consumer.kind,
            ConsoleCell("declared", kind="good") if consumer.declared else ConsoleCell("not declared", kind="warn"),
            consumer.evidence,
        )
        for consumer in sorted(consumers, key=lambda consumer: consumer.declared)
    )
    return ConsoleTable("Consumers", ("consumer", "kind", "declaration", "known from"), rows, "No consumer is known.")


def _list_versions(site: ConsoleSite, view: FeatureView) -> ConsoleTable:
    rows = tuple(
        (version.version, format_time(version.recorded_at), "current" if version.last_snapshot is None else str(version.last_snapshot))
        for version in site.stores.view_versions.list_versions(view.name)[:_MAX_VERSIONS]
    )
    return ConsoleTable("Versions of the definition", ("version", "since (UTC)", "last snapshot"), rows, "No version is recorded yet.")


def show_predictions(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the page of one table of predictions: rows, freshness and consumers."""
    name = request.path["name"]
    known = {table.name: table for table in _list_prediction_tables(site)}
    if name not in known:
        raise MissingPageError(
            "table of predictions of", name, {each: prediction_path(each) for each in known}, site.build_command("status")
        )
    table = known[name]
    records = site.stores.lake.records(table.key)
    written, until = _describe_freshness(None, records)
    asset = site.asset_url(table.key)
    facts: tuple[tuple[str, ConsoleCell | str], ...] = (
        ("model", ConsoleCell(table.model, f"/models/{encode(table.model)}")),
        ("table of the lake", table.key),
        ("partitions", f"{len(records):,}"),
        ("rows", _describe_row_count(records)),
        ("written", written),
        ("data until (UTC)", until),
        *([("in the Dagster UI", ConsoleCell(table.key, asset))] if asset else []),
    )
    commands = [
        ("Predict, or import what a service has answered", site.build_command(f"run --select '{select_nodes(table.key)}' --partitions KEY"))
    ]
    blocks: list[ConsoleBlock] = [ConsoleFacts("", facts), list_consumers(find_consumers(site, table.key))]
    title = f"Predictions of {name}"
    return ConsolePage(title, SECTION, "", blocks, commands, ConsoleCell("Features", SECTION))
