"""Derived assets follow their inputs: conditions on recorded facts, not on events."""

from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

import dagster as dg

from mlops_assets.orchestrate.beta import beta
from mlops_assets.orchestrate.graph import Node, fingerprints
from mlops_assets.orchestrate.liveness import bury_dead_runs
from mlops_assets.orchestrate.partitions import all_keys
from mlops_assets.stores.places import places
from mlops_assets.values.platform import Platform

AUTOMATION, DEAD_RUNS = "mlops_automation", "mlops_dead_runs"


@dataclass(frozen=True, unsafe_hash=True)
class InputsChanged(dg.AutomationCondition[Any]):
    """True for exactly the partitions whose recorded inputs differ from what upstream holds now.

    Parameters
    ----------
    node
        The table and what it is made from.
    platform
        Where the facts are recorded.
    model
        For predictions: nothing is asked for before this model has a champion.
    """

    node: Node = field(hash=False, compare=False)
    platform: Platform
    model: str = ""

    @property
    def name(self) -> str:
        """What the UI shows."""
        return f"inputs of {self.node.key} changed"

    def evaluate(self, context: dg.AutomationContext[Any]) -> dg.AutomationResult[Any]:
        """Compare fingerprints with records: one look at the lake for each table, all partitions at once."""
        wanted = {} if self._waits() else stale(self.node, self.platform)
        if wanted:
            blocked = places(self.platform).attempts.blocked(self.node.key, wanted, context.evaluation_time.astimezone(UTC))
            wanted = {key: inputs for key, inputs in wanted.items() if key not in blocked}
        return dg.AutomationResult(context, true_subset=_subset(context, self.node, list(wanted)))

    def _waits(self) -> bool:
        return bool(self.model) and places(self.platform).registry.champion(self.model) is None


def stale(node: Node, platform: Platform) -> dict[str, str]:
    """Return partition → fingerprint where what upstream holds now is not what the partition was made from."""
    lake = places(platform).lake
    now = fingerprints(node, all_keys(node.partitions), lake, snapshot=lake.snapshot())
    made = lake.records(node.key)
    return {key: inputs for key, inputs in now.items() if key not in made or made[key].inputs != inputs}


def _subset(context: dg.AutomationContext[Any], node: Node, keys: list[str]) -> Any:  # noqa: ANN401  (Dagster's EntitySubset is not public)
    if not keys:
        return context.get_empty_subset()
    if node.partitions is None:
        return context.candidate_subset
    exact = context.asset_graph_view.get_subset_from_partition_keys(context.key, node.partitions, set(keys))
    return context.candidate_subset.compute_intersection(exact)


def follow(node: Node, platform: Platform, model: str = "") -> dg.AutomationCondition[Any]:
    """Return the default condition of a derived table."""
    inputs_in_progress = dg.AutomationCondition.any_deps_in_progress()
    if model:  # predictions show where they come from, but a retraining must not hold them up
        inputs_in_progress = inputs_in_progress.ignore(dg.AssetSelection.assets(dg.AssetKey(["champion", model])))
    changed = InputsChanged(node, platform, model) & ~dg.AutomationCondition.in_progress() & ~inputs_in_progress
    return changed.with_label("follows its inputs")


def after_gates() -> dg.AutomationCondition[Any]:
    """Return the condition of a version and a champion: what is upstream is new and has passed."""
    return (
        dg.AutomationCondition.any_deps_updated().since_last_handled()
        & dg.AutomationCondition.all_deps_blocking_checks_passed()
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    ).with_label("after the gates")


def automation_sensor(*, running: bool) -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that evaluates every condition; conditions of ours need the code of the project."""
    with beta():
        return dg.AutomationConditionSensorDefinition(
            AUTOMATION,
            target=dg.AssetSelection.all(),
            use_user_code_server=True,
            default_status=_status(running=running),
            minimum_interval_seconds=30,
        )


def dead_run_sensor(*, running: bool) -> dg.SensorDefinition:
    """Return the sensor that marks runs whose process is gone as failed; conditions would wait for them for ever."""

    @dg.sensor(
        name=DEAD_RUNS,
        minimum_interval_seconds=30,
        default_status=_status(running=running),
        description="Marks runs whose process is gone as failed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        buried = bury_dead_runs(context.instance)
        return dg.SkipReason(
            f"marked {', '.join(run[:8] for run in buried)} as failed" if buried else "every run that is started has its process"
        )

    return sensor


def _status(*, running: bool) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
