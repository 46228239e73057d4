"""One iteration of a monitor's loop: find the predictions, reports and promotion that sensors would start now."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from mlops_assets.compute.training.lifecycle import APPROVED
from mlops_assets.orchestrate.core.partitions import list_partition_keys
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.monitoring.estimates import build_estimate_node
from mlops_assets.orchestrate.monitoring.reports import drift_node, performance_node
from mlops_assets.orchestrate.monitoring.system_reports import system_node
from mlops_assets.orchestrate.tables.automation import find_due
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.model import Model
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.serving import BatchPrediction, Service


def find_due_reports(project: Project, monitor: Monitor, stores: Stores) -> dict[str, list[str]]:
    """Return the table of each report → the windows that automation would materialise now, oldest first; without idle reports."""
    nodes = [drift_node(project, monitor)] if monitor.drift else []
    nodes += [build_estimate_node(project, monitor)] if monitor.estimates else []
    nodes += [performance_node(project, monitor)] if monitor.label_expectations else []
    nodes += [system_node(monitor, stores.platform)] if monitor.objectives else []
    clock = datetime.now(UTC)
    return {node.key: due for node in nodes if (due := find_due(node, stores.platform, clock))}


def group_ranges(due: Mapping[str, Sequence[str]], partitions: dg.PartitionsDefinition) -> Iterator[tuple[list[str], str, str]]:
    """Yield the runs that automation would start, each as its tables, first partition and last partition.

    Tables with the same due partitions share runs, and each range of partitions without a gap is one run.

    Parameters
    ----------
    due
        Table → the partitions to materialise.
    partitions
        The partitions of every table.
    """
    position = {key: number for number, key in enumerate(list_partition_keys(partitions))}
    tables_by_keys: dict[tuple[str, ...], list[str]] = {}
    for table, keys in due.items():
        tables_by_keys.setdefault(tuple(sorted(keys, key=position.__getitem__)), []).append(table)
    for keys, tables in tables_by_keys.items():
        first = last = keys[0]
        for key in keys[1:]:
            if position[key] != position[last] + 1:
                yield tables, first, last
                first = key
            last = key
        yield tables, first, last


def find_promotion(stores: Stores, project: Project, model: Model[..., Any]) -> list[dg.AssetKey]:
    """Return the champion and the services to materialise if the newest version is approved and not promoted yet; else an empty list.

    It is empty for a model without ``approval=True`` too: there the training run itself promotes.
    """
    newest = next(iter(stores.registry.versions(model.name)[-1:]), None)
    if not model.approval or newest is None or newest.was_champion or newest.approval != APPROVED:
        return []
    services = [service.key for service in project.select(Service) if service.model.key == model.key]
    return [asset_key(key) for key in (f"champion/{model.name}", *services)]


def find_late_predictions(project: Project, monitor: Monitor, stores: Stores) -> list[tuple[str, str]]:
    """Return the first and last key of each range of due partitions of the watched batch prediction; both ``""`` without partitions.

    These must be materialised before the reports. The list is empty for a monitor of a service, and before the first champion.
    """
    watched = monitor.of
    if not isinstance(watched, BatchPrediction) or stores.registry.champion(monitor.model.name) is None:
        return []
    node = project.node(watched)
    late = find_due(node, stores.platform, datetime.now(UTC))
    if node.partitions is None:
        return [("", "")] if late else []
    return [(first, last) for _, first, last in group_ranges({node.key: late} if late else {}, node.partitions)]
