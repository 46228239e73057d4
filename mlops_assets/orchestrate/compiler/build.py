"""Compile the declarations of a project to plain Dagster definitions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlops_assets.orchestrate.compiler.compile import Compiler
from mlops_assets.orchestrate.compiler.executor import tagging_in_process_executor
from mlops_assets.orchestrate.compiler.extras import find_missing_packages, is_installed, refuse_missing_packages
from mlops_assets.orchestrate.compiler.labels import refuse_shared_labels
from mlops_assets.orchestrate.compiler.services import list_services
from mlops_assets.orchestrate.compiler.validate import check_project
from mlops_assets.orchestrate.core.console_link import link_to_console
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.features.freshness import build_freshness_policy
from mlops_assets.orchestrate.monitoring.alerts import build_alert_sensor, declare_alerts
from mlops_assets.orchestrate.online.serving_age import warn_of_serving_ages
from mlops_assets.orchestrate.reproduction.checks import build_reproduction_checks, build_reproduction_schedule
from mlops_assets.orchestrate.retraining.decisions import job_name
from mlops_assets.orchestrate.retraining.sensor import build_retrain_sensor
from mlops_assets.orchestrate.serving.repair import build_repair_sensor
from mlops_assets.orchestrate.tables.automation import AUTOMATION_INTERVAL, build_automation_sensor, build_dead_run_sensor
from mlops_assets.orchestrate.tables.external import build_external_checks, build_external_sensor, external_assets
from mlops_assets.orchestrate.tables.quality import companion_assets
from mlops_assets.orchestrate.upkeep.upkeep import build_upkeep_schedule
from mlops_assets.orchestrate.versions.approval import build_approval_check
from mlops_assets.values.alerts.alerts import Alerts
from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.feature_sources import DbtProject
from mlops_assets.values.features import FeatureView
from mlops_assets.values.model import Model
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.platform import Platform
from mlops_assets.values.serving import Service
from mlops_assets.values.upkeep import Upkeep

if TYPE_CHECKING:
    from mlops_assets.orchestrate.core.project import Declaration

    Item = Declaration | dg.AssetsDefinition | dg.AssetSpec | dg.AssetChecksDefinition

PLATFORM_KEY = "mlops/platform"
_COMPILED: "list[CompiledProject]" = []
_SKIPS_DBT: ContextVar[bool] = ContextVar("skips_dbt", default=False)


@dataclass(frozen=True)
class CompiledProject:
    """A project that this process has compiled, with its platform and its alerts."""

    project: Project
    platform: Platform
    alerts: Alerts | None = None


def compiled_projects() -> tuple[CompiledProject, ...]:
    """Return the projects that this process has compiled, for the command line."""
    return tuple(_COMPILED)


@contextmanager
def skip_dbt() -> Iterator[None]:
    """Compile projects without the assets of their dbt models within the context: importing dagster-dbt and dbt takes a second."""
    token = _SKIPS_DBT.set(True)
    try:
        yield
    finally:
        _SKIPS_DBT.reset(token)


@check_arguments
def build_definitions(  # noqa: PLR0913  (each has a default)
    items: "Sequence[Item]",
    *,
    platform: Platform | None = None,
    executor: dg.ExecutorDefinition | None = tagging_in_process_executor,
    resources: Mapping[str, Any] | None = None,
    running: bool = False,
    automation_interval: timedelta = AUTOMATION_INTERVAL,
    upkeep: Upkeep | None = None,
    alerts: Alerts | None = None,
) -> dg.Definitions:
    """Validate a project as a whole and compile it to Dagster.

    Parameters
    ----------
    items
        Datasets, external datasets, dbt projects, feature views, on-demand features, training sets, models, gates, batch predictions,
        services, monitors, scores, prompts, prompt evaluations, prompt services, and plain Dagster assets, in any order.
    platform
        Where data, models and records are stored; ``Platform.from_env()`` when None.
    executor
        The Dagster executor; by default all steps of a run share one process. With None, the project that merges these definitions chooses.
    resources
        Resources that functions ask for, by parameter name.
    running
        Whether sensors and schedules start with the code location instead of being switched on in the UI.
    automation_interval
        How often sensors look for changes and for runs whose process is gone. Dagster's daemon evaluates sensors every five seconds at most.
    upkeep
        ``mlops_assets.values.upkeep.Upkeep()`` adds an asset ``upkeep/lake_upkeep`` with a schedule. When None, only `mlops gc` maintains the lake.
    alerts
        ``ml.monitoring.Alerts(...)`` sends failed checks and runs to channels. The webhook in ``MLOPS_WEBHOOK`` is one more
        channel.

    Returns
    -------
    dagster.Definitions
        Ordinary definitions, to be merged with others by ``Definitions.merge``.

    Raises
    ------
    DefinitionError
        The project has a declaration that cannot work; the message names the declaration and what it refers to.
    MissingExtraError
        The project has a dbt project, and the packages for dbt are not installed.

    See Also
    --------
    Platform : Where data, models and records are stored.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> @ml.dataset(key="id")
    ... def numbers() -> pl.DataFrame:
    ...     return pl.DataFrame({"id": [1, 2]})
    >>> definitions = ml.build_definitions([numbers])
    >>> [spec.key.to_user_string() for spec in definitions.resolve_all_asset_specs()]
    ['dataset/numbers']
    """
    platform = platform or Platform.from_env()
    project = Project.from_items(items)
    check_project(project)
    warn_of_serving_ages(project)
    alerts = declare_alerts(alerts, platform)
    compiled, plain = _compile_assets(project, platform, upkeep, alerts), _list_plain_assets(project)
    refuse_shared_labels(compiled, plain)
    _COMPILED.append(CompiledProject(project, platform, alerts))
    jobs, schedules = _build_retraining_jobs(project, running=running)
    return dg.Definitions(
        assets=[*(link_to_console(asset, _list_keys(project)) for asset in compiled), *plain],
        asset_checks=_build_checks(project, platform),
        jobs=jobs,
        schedules=[*schedules, *_build_upkeep_schedules(project, platform, upkeep, running=running)],
        sensors=_build_sensors(project, platform, alerts, running=running, interval=automation_interval),
        executor=executor,
        resources=dict(resources or {}),
        metadata={PLATFORM_KEY: dg.MetadataValue.json({"home": platform.home, "registry": platform.registry, "lake": platform.lake})},
    )


def _compile_assets(
    project: Project, platform: Platform, upkeep: Upkeep | None, alerts: Alerts | None
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Return the assets of a project's declarations, and the asset of the upkeep if one is declared."""
    compiler = Compiler(project, platform, alerts)
    return [
        *compiler.compile_assets(),
        *([compiler.compile_upkeep(upkeep)] if upkeep else []),
        *_compile_dbt(project, platform),
        *external_assets(project),
        *companion_assets(project),
    ]


def _list_keys(project: Project) -> frozenset[str]:
    """Return the keys of a project's feature views and predictions, whose names the asset graph does not always show."""
    online = [view.key.replace("features/", "online/", 1) for view in project.select(FeatureView)]
    return frozenset([*project.by_key, *online])


def _build_checks(project: Project, platform: Platform) -> list[dg.AssetChecksDefinition]:
    """Return the asset checks that run outside of the steps of their assets."""
    return [
        *build_external_checks(project, platform),
        *(build_approval_check(m, platform) for m in project.select(Model) if m.approval),
        *(build_reproduction_checks(m, platform) for m in project.select(Model)),
        *(a for a in project.plain if isinstance(a, dg.AssetChecksDefinition)),
    ]


def _build_upkeep_schedules(project: Project, platform: Platform, upkeep: Upkeep | None, *, running: bool) -> list[dg.ScheduleDefinition]:
    """Return one schedule for the reproduction of each champion, and the upkeep's schedule if an upkeep is declared."""
    return [
        *(build_reproduction_schedule(m, platform, running=running) for m in project.select(Model)),
        *([build_upkeep_schedule(upkeep, running=running)] if upkeep else []),
    ]


def _build_sensors(
    project: Project, platform: Platform, alerts: Alerts | None, *, running: bool, interval: timedelta
) -> list[dg.SensorDefinition]:
    seconds, services = int(interval.total_seconds()), list_services(project)
    return [
        build_automation_sensor(running=running, interval=interval),
        build_dead_run_sensor(platform, running=running, interval=interval),
        *build_external_sensor(project, platform, running=running),
        *(build_retrain_sensor(project, m, platform, running=running, interval=seconds) for m in project.select(Monitor) if m.on_failure),
        *([build_repair_sensor(services, platform, running=running, interval=seconds)] if services else []),
        *build_alert_sensor(project, alerts, platform, running=running, interval=seconds),
    ]


def _list_plain_assets(project: Project) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    return [a for a in project.plain if isinstance(a, (dg.AssetsDefinition, dg.AssetSpec)) and not isinstance(a, dg.AssetChecksDefinition)]


def _compile_dbt(project: Project, platform: Platform) -> Iterator[dg.AssetsDefinition]:
    if _SKIPS_DBT.get() or not project.select(DbtProject):
        return
    if not is_installed("dagster_dbt"):
        refuse_missing_packages(find_missing_packages(project, platform))
    # Importing dagster-dbt takes seconds: only projects with dbt do it.
    from mlops_assets.orchestrate.features.dbt import build_dbt_assets

    policies = {asset_key(v.key): v.options.freshness_policy or build_freshness_policy(v) for v in project.select(FeatureView)}
    for assets in build_dbt_assets(project, platform):
        yield assets.map_asset_specs(lambda s: s.replace_attributes(freshness_policy=policies[s.key]) if policies.get(s.key) else s)


def _build_retraining_jobs(project: Project, *, running: bool) -> tuple[list[Any], list[dg.ScheduleDefinition]]:
    """Return the retraining job of each model, and the schedules of the models that declare a cron schedule."""
    jobs, schedules = [], []
    status = dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED
    for model in project.select(Model):
        services = [service.key for service in project.select(Service) if service.model.key == model.key]
        # With approval, the job ends where a person must decide; the rest follows the approval.
        promoted = [] if model.approval else [f"champion/{model.name}", *services]
        steps = [model.training_set.key, model.key, f"version/{model.name}", *promoted]
        job = dg.define_asset_job(
            job_name(model.name),
            selection=dg.AssetSelection.assets(*(asset_key(step) for step in steps)),
            description=f"Trains {model.name} on everything known now; a candidate that passes its gates becomes the champion.",
        )
        jobs.append(job)
        if model.cron_schedule:
            schedules.append(
                dg.ScheduleDefinition(
                    name=f"{job_name(model.name)}_schedule",
                    job=job,
                    cron_schedule=model.cron_schedule,
                    execution_timezone=model.cron_timezone,
                    default_status=status,
                    description=f"Retrains {model.name}.",
                )
            )
    return jobs, schedules
