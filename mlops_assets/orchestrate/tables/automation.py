"""Automation of derived assets, and its sensors: tables follow recorded fingerprints, versions and services follow Dagster's events."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlops_assets.orchestrate.core.beta import allow_beta
from mlops_assets.orchestrate.core.graph import Node, compute_fingerprints
from mlops_assets.orchestrate.core.liveness import reap_dead_runs
from mlops_assets.orchestrate.core.partitions import list_partition_keys
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.tables.lake_events import report_missing_events
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from dagster._core.definitions.declarative_automation.operators import DepsAutomationCondition

AUTOMATION, DEAD_RUNS = "mlops_automation", "mlops_dead_runs"
AUTOMATION_INTERVAL = timedelta(seconds=30)
_MAX_CLOCK_SKEW = timedelta(minutes=1)  # between the clocks of two machines


@dataclass(frozen=True, unsafe_hash=True)
class InputsChanged(dg.AutomationCondition[Any]):
    """True for the partitions that :func:`find_due` returns: missing, damaged, or made from inputs that have changed since.

    Parameters
    ----------
    node
        The table with its inputs.
    platform
        Where the records, failed attempts and champions are stored.
    model
        For predictions: no partition is due before this model has a champion.
    """

    node: Node = field(hash=False, compare=False)
    platform: Platform
    model: str = ""

    @property
    def name(self) -> str:
        """The name in the UI."""
        return f"inputs of {self.node.key} changed"

    def evaluate(self, context: dg.AutomationContext[Any]) -> dg.AutomationResult[Any]:
        """Return the due partitions; none while the model of predictions has no champion."""
        due = [] if self._waits_for_champion() else find_due(self.node, self.platform, context.evaluation_time.astimezone(UTC))
        return dg.AutomationResult(context, true_subset=_to_subset(context, self.node, due))

    def _waits_for_champion(self) -> bool:
        return bool(self.model) and open_stores(self.platform).registry.champion(self.model) is None


def find_stale(node: Node, platform: Platform) -> dict[str, str]:
    """Return partition → current fingerprint, for partitions without a record, with a record of other inputs, or recorded as damaged."""
    lake = open_stores(platform).lake
    current = compute_fingerprints(node, list_partition_keys(node.partitions), lake, snapshot=lake.snapshot())
    records = lake.records(node.key)
    return {k: inputs for k, inputs in current.items() if k not in records or records[k].damaged or records[k].inputs != inputs}


def find_due(node: Node, platform: Platform, clock: datetime) -> list[str]:
    """Return the partitions to materialise now: those of :func:`find_stale` that no failed attempt on the same inputs blocks.

    Parameters
    ----------
    node, platform
        As in :class:`InputsChanged`.
    clock
        The current time, with a time zone. A failed attempt blocks the next one for a while; too many failures block it until the inputs change.
    """
    stale = find_stale(node, platform)
    blocked = open_stores(platform).attempts.find_blocked(node.key, stale, clock) if stale else {}
    return [key for key in stale if key not in blocked]


def _to_subset(context: dg.AutomationContext[Any], node: Node, keys: list[str]) -> Any:  # noqa: ANN401  (Dagster's EntitySubset is not public)
    if not keys:
        return context.get_empty_subset()
    if node.partitions is None:
        return context.candidate_subset
    exact = context.asset_graph_view.get_subset_from_partition_keys(context.key, node.partitions, set(keys))
    return context.candidate_subset.compute_intersection(exact)


def follow_inputs(node: Node, platform: Platform, *, model: str = "", ignored_assets: Sequence[str] = ()) -> dg.AutomationCondition[Any]:
    """Return the default condition of a derived table: :class:`InputsChanged`, while no run makes the table or one of its inputs.

    Parameters
    ----------
    node, platform, model
        As in :class:`InputsChanged`.
    ignored_assets
        Upstream assets whose runs the table does not wait for.
    """
    inputs_in_progress = _ignore_deps(dg.AutomationCondition.any_deps_in_progress(), ignored_assets)
    # Runs first, the lake after them: a run that ends in between is either still in progress here, or its rows are in the lake.
    idle = ~dg.AutomationCondition.in_progress() & ~inputs_in_progress
    return (idle & InputsChanged(node, platform, model)).with_label("follows its inputs")


def _ignore_deps(condition: "DepsAutomationCondition[Any]", keys: Sequence[str]) -> dg.AutomationCondition[Any]:
    return condition.ignore(dg.AssetSelection.assets(*(asset_key(key) for key in keys))) if keys else condition


def follow_gates(ignored_assets: Sequence[str] = ()) -> dg.AutomationCondition[Any]:
    """Return the condition of a version, a champion or a service: an input is new, and all inputs passed their blocking checks.

    No input may be missing, and no run may be making the asset or one of its inputs.

    Parameters
    ----------
    ignored_assets
        Upstream assets whose changes do not trigger a run, and whose runs are not waited for.
    """
    return (
        _ignore_deps(dg.AutomationCondition.any_deps_updated(), ignored_assets).since_last_handled()
        & dg.AutomationCondition.all_deps_blocking_checks_passed()
        & ~dg.AutomationCondition.any_deps_missing()
        & ~_ignore_deps(dg.AutomationCondition.any_deps_in_progress(), ignored_assets)
        & ~dg.AutomationCondition.in_progress()
    ).with_label("after the gates")


def build_automation_sensor(*, running: bool, interval: timedelta = AUTOMATION_INTERVAL) -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that evaluates all automation conditions, in the code server because they need the project."""
    with allow_beta():
        return dg.AutomationConditionSensorDefinition(
            AUTOMATION,
            target=dg.AssetSelection.all(),
            use_user_code_server=True,
            default_status=_default_status(running=running),
            minimum_interval_seconds=int(interval.total_seconds()),
        )


def build_dead_run_sensor(platform: Platform, *, running: bool, interval: timedelta = AUTOMATION_INTERVAL) -> dg.SensorDefinition:
    """Return the sensor that marks runs whose process is gone as failed, since automation conditions would wait for them.

    It also reports to Dagster the partitions that failed or cancelled runs committed without an event.
    """

    @dg.sensor(
        name=DEAD_RUNS,
        minimum_interval_seconds=int(interval.total_seconds()),
        default_status=_default_status(running=running),
        description="Marks runs whose process is gone as failed, and reports the partitions that they committed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        reaped = reap_dead_runs(context.instance)
        checked_until = datetime.now(UTC) - _MAX_CLOCK_SKEW
        reported = report_missing_events(
            context.instance, platform, since=datetime.fromisoformat(context.cursor) if context.cursor else None
        )
        context.update_cursor(checked_until.isoformat())
        marked = f"marked {', '.join(run[:8] for run in reaped)} as failed" if reaped else "every active run has its process"
        return dg.SkipReason(f"{marked}; reported {len(reported)} partitions that they had committed" if reported else marked)

    return sensor


def _default_status(*, running: bool) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
