"""What the tests of a score read: declarations, the champion and its run, window reports, and results of checks."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.scheduler.instigation import InstigatorStatus

from mlops_assets.orchestrate.core.project import Project, input_table_names
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.retraining.decisions import collect_facts
from mlops_assets.orchestrate.training.gates import gather_gates
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.records import Evidence, Version
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.alerts.alerts import Alerts
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.decisions import WindowReport
from mlops_assets.values.feature_sources import Computed, Sql
from mlops_assets.values.features import FeatureView, select_stored_views
from mlops_assets.values.gates.gate import GateLike
from mlops_assets.values.model import GateFunction, Model
from mlops_assets.values.monitoring import BREACH, GOOD, INVERTED, Monitor
from mlops_assets.values.serving import BatchPrediction, Service


@dataclass(frozen=True)
class RubricResult:
    """The result of one test of the rubric.

    Parameters
    ----------
    points
        0, 0.5 or 1.
    evidence
        What was found, with names and dates.
    advice
        The command or the declaration that earns the missing points; empty when none are missing.
    """

    points: float
    evidence: str
    advice: str = ""


@dataclass(frozen=True)
class CheckReading:
    """The latest result of an asset check."""

    passed: bool
    at: datetime
    text: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class ScoreFacts:
    """The facts about one model.

    Parameters
    ----------
    project, stores, model
        The project, the stores of its platform, and the model.
    instance
        The Dagster instance; it has the results of checks and the switches of sensors and schedules.
    alerts
        The alerts of the project; None without any.
    """

    project: Project
    stores: Stores
    model: Model[..., Any]
    instance: dg.DagsterInstance
    alerts: Alerts | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders in which declared files are looked for: that of the model's file, then the working directory."""
        return Path(inspect.unwrap(self.model.function.function).__code__.co_filename).parent, Path.cwd()

    @cached_property
    def champion(self) -> Version | None:
        """The champion of the environment."""
        return self.stores.registry.champion(self.model.name)

    @cached_property
    def run(self) -> Run | None:
        """The run that trained the champion."""
        return None if self.champion is None else self.stores.tracker.load([self.champion.run_id]).get(self.champion.run_id)

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """The record of that run; empty without one."""
        return {} if self.run is None else self.run.record

    @cached_property
    def evidence(self) -> dict[str, Evidence]:
        """Gate → result for the champion."""
        if self.champion is None:
            return {}
        return {item.gate: item for item in self.stores.registry.evidence(self.model.name, self.champion.digest)}

    @property
    def gates(self) -> tuple[GateLike, ...]:
        """The declared gates of the model."""
        return gather_gates(self.model, self.project.select(GateFunction))

    @property
    def monitors(self) -> tuple[Monitor, ...]:
        """The monitors of the model's predictions."""
        return tuple(monitor for monitor in self.project.select(Monitor) if monitor.model.key == self.model.key)

    @property
    def services(self) -> tuple[Service, ...]:
        """The services of the model."""
        return tuple(service for service in self.project.select(Service) if service.model.key == self.model.key)

    @property
    def batches(self) -> tuple[BatchPrediction, ...]:
        """The batch predictions of the model."""
        return tuple(batch for batch in self.project.select(BatchPrediction) if batch.model.key == self.model.key)

    @property
    def views(self) -> tuple[FeatureView, ...]:
        """The stored feature views of the training set."""
        return select_stored_views(self.model.training_set.features)

    @property
    def datasets(self) -> tuple[Dataset[..., Any] | ExternalDataset, ...]:
        """The declared datasets that the training set and its feature views read."""
        found = {dataset.key: dataset for dataset in self.project.datasets_of(self.model.training_set)}
        for view in self.views:
            names = input_table_names(view.source) if isinstance(view.source, (Computed, Sql)) else (getattr(view.source, "name", ""),)
            found |= {dataset.key: dataset for name in names if (dataset := self.project.dataset(name)) is not None}
        return tuple(found.values())

    def find_report(self, monitor: Monitor, kind: str) -> WindowReport | None:
        """Return the newest report of a kind on the champion that has a verdict; None without one."""
        reports = collect_facts(self.stores, self.project, monitor, self.instance).latest_reports
        evaluated = (r for r in reversed(reports) if r.kind == kind and self.champion is not None and r.version == self.champion.version)
        return next((report for report in evaluated if report.state in (GOOD, BREACH, INVERTED)), None)

    def read_check(self, key: str, name: str) -> CheckReading | None:
        """Return the latest result of a check of ``<kind>/<name>``; None when it has not run."""
        check = dg.AssetCheckKey(asset_key(key), name)
        record = self.instance.event_log_storage.get_latest_asset_check_execution_by_key([check]).get(check)
        event = record.event.dagster_event if record is not None and record.event is not None else None
        found = event.event_specific_data if event is not None else None
        if record is None or not isinstance(found, AssetCheckEvaluation):
            return None
        metadata = {name: value.value for name, value in found.metadata.items()}
        return CheckReading(found.passed, datetime.fromtimestamp(record.create_timestamp, UTC), found.description or "", metadata)

    def is_on(self, name: str) -> bool:
        """Return whether a sensor or schedule runs: a person switched it on, or the daemon of this instance has started it."""
        states = [state for state in self.instance.all_instigator_state() if state.instigator_name == name]
        return any(state.status is not InstigatorStatus.STOPPED for state in states)

    @property
    def missing_champion(self) -> RubricResult:
        """The result of a test that needs a champion, without one."""
        return RubricResult(0, f"{self.model.name} has no champion in {self.stores.platform.environment}", "mlops run")

    def describe_champion(self) -> str:
        """Return the champion's name and the time of its registration."""
        return (
            "" if self.champion is None else f"{self.model.name}@{self.champion.version}, registered {format_day(self.champion.created_at)}"
        )


def format_day(time: datetime) -> str:
    """Return the day of a time in UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d}"
