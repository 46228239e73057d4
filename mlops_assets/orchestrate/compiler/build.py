"""A project's values, compiled to plain Dagster definitions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlops_assets.orchestrate.compiler.compile import Compiler
from mlops_assets.orchestrate.compiler.executor import tagging_in_process_executor
from mlops_assets.orchestrate.compiler.extras import find_missing_packages, is_installed, refuse_missing_packages
from mlops_assets.orchestrate.compiler.labels import refuse_shared_labels
from mlops_assets.orchestrate.compiler.validate import check_project
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.features.freshness import build_freshness_policy
from mlops_assets.orchestrate.monitoring.alerts import build_alert_sensors
from mlops_assets.orchestrate.online.serving_age import warn_of_short_ttls
from mlops_assets.orchestrate.reproduction.checks import reproduction_checks, reproduction_schedule
from mlops_assets.orchestrate.retraining.decisions import job_name
from mlops_assets.orchestrate.retraining.sensor import build_retrain_sensor
from mlops_assets.orchestrate.serving.repair import repair_sensor
from mlops_assets.orchestrate.tables.automation import AUTOMATION_INTERVAL, automation_sensor, dead_run_sensor
from mlops_assets.orchestrate.tables.external import external_assets, external_checks, external_sensor
from mlops_assets.orchestrate.tables.quality import companion_assets
from mlops_assets.orchestrate.upkeep.upkeep import upkeep_schedule
from mlops_assets.orchestrate.versions.approval import approved_check
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


@dataclass(frozen=True)
class CompiledProject:
    """What was compiled."""

    project: Project
    platform: Platform


def compiled_projects() -> tuple[CompiledProject, ...]:
    """Return what this process has compiled, for the command line."""
    return tuple(_COMPILED)


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
) -> dg.Definitions:
    """Validate a project as a whole and compile it to Dagster.

    Parameters
    ----------
    items
        Datasets, external ones, dbt projects, feature views, on-demand features, training sets, models, gates, batch predictions,
        services, monitors, and plain Dagster assets beside them, in any order.
    platform
        Where everything lives; ``Platform.from_env()`` when None.
    executor
        In one process by default. None leaves it to the project that these definitions are merged into.
    resources
        Resources that functions ask for, by parameter name.
    running
        Whether sensors and schedules start with the code location instead of being switched on in the UI.
    automation_interval
        How often automation looks for changes and for runs whose process is gone; Dagster's daemon looks every five seconds at most.
    upkeep
        When the lake is looked after, as an asset ``upkeep/lake`` with a schedule: ``mlops_assets.values.upkeep.Upkeep()``. By nobody but `mlops gc` when None.

    Returns
    -------
    dagster.Definitions
        Ordinary definitions, to be merged with others by ``Definitions.merge``.

    Raises
    ------
    DefinitionError
        Something in the project cannot work; the message names both ends.

    See Also
    --------
    Platform : Where everything lives.

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
    where = platform or Platform.from_env()
    project = Project.from_items(items)
    check_project(project)
    warn_of_short_ttls(project)
    compiled, plain = _compile_assets(project, where, upkeep), _list_plain_assets(project)
    refuse_shared_labels(compiled, plain)
    _COMPILED.append(CompiledProject(project, where))
    jobs, schedules = _build_retraining_jobs(project, running=running)
    return dg.Definitions(
        assets=[*compiled, *plain],
        asset_checks=[
            *external_checks(project, where),
            *(approved_check(m, where) for m in project.select(Model) if m.approval),
            *(reproduction_checks(m, where) for m in project.select(Model)),
            *(a for a in project.plain if isinstance(a, dg.AssetChecksDefinition)),
        ],
        jobs=jobs,
        schedules=[
            *schedules,
            *(reproduction_schedule(m, where, running=running) for m in project.select(Model)),
            *([upkeep_schedule(upkeep, running=running)] if upkeep else []),
        ],
        sensors=_build_sensors(project, where, running=running, interval=automation_interval),
        executor=executor,
        resources=dict(resources or {}),
        metadata={PLATFORM_KEY: dg.MetadataValue.json({"home": where.home, "registry": where.registry, "lake": where.lake})},
    )


def _compile_assets(project: Project, where: Platform, upkeep: Upkeep | None) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Return what the declarations of a project stand for."""
    compiler = Compiler(project, where)
    return [
        *compiler.assets(),
        *([compiler.upkeep(upkeep)] if upkeep else []),
        *_compile_dbt(project, where),
        *external_assets(project),
        *companion_assets(project),
    ]


def _build_sensors(project: Project, where: Platform, *, running: bool, interval: timedelta) -> list[dg.SensorDefinition]:
    seconds, services = int(interval.total_seconds()), project.select(Service)
    return [
        automation_sensor(running=running, interval=interval),
        dead_run_sensor(where, running=running, interval=interval),
        *external_sensor(project, where, running=running),
        *(build_retrain_sensor(project, m, where, running=running, interval=seconds) for m in project.select(Monitor) if m.on_failure),
        *([repair_sensor(services, where, running=running, interval=seconds)] if services else []),
        *build_alert_sensors(where.webhook, running=running, interval=seconds),
    ]


def _list_plain_assets(project: Project) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    return [a for a in project.plain if isinstance(a, (dg.AssetsDefinition, dg.AssetSpec)) and not isinstance(a, dg.AssetChecksDefinition)]


def _compile_dbt(project: Project, platform: Platform) -> Iterator[dg.AssetsDefinition]:
    if not project.select(DbtProject):
        return
    if not is_installed("dagster_dbt"):
        refuse_missing_packages(find_missing_packages(project, platform))
    # dagster-dbt costs seconds to import: only projects with dbt pay for it.
    from mlops_assets.orchestrate.features.dbt import build_dbt_assets

    fresh = {asset_key(v.key): v.options.freshness_policy or build_freshness_policy(v) for v in project.select(FeatureView)}
    for assets in build_dbt_assets(project, platform):
        yield assets.map_asset_specs(lambda s: s.replace_attributes(freshness_policy=fresh[s.key]) if fresh.get(s.key) else s)


def _build_retraining_jobs(project: Project, *, running: bool) -> tuple[list[Any], list[dg.ScheduleDefinition]]:
    """Return each model's one job, and the schedule of those with a calendar."""
    jobs, schedules = [], []
    status = dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED
    for model in project.select(Model):
        services = [service.key for service in project.select(Service) if service.model.key == model.key]
        # With approval the job ends where a person must decide; what follows, follows the approval.
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
