"""A project's values, compiled to plain Dagster definitions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlops_assets.orchestrate.automation import automation_sensor, dead_run_sensor
from mlops_assets.orchestrate.compile import Compiler
from mlops_assets.orchestrate.executor import tagging_in_process_executor
from mlops_assets.orchestrate.external import external_assets, external_checks, external_sensor
from mlops_assets.orchestrate.project import Project
from mlops_assets.orchestrate.steps import asset_key
from mlops_assets.orchestrate.validate import validate
from mlops_assets.values.features import DbtProject
from mlops_assets.values.model import Model
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from mlops_assets.orchestrate.project import Noun

    Item = Noun | dg.AssetsDefinition | dg.AssetSpec | dg.AssetChecksDefinition

PLATFORM_KEY = "mlops/platform"
_BUILT: "list[Built]" = []


@dataclass(frozen=True)
class Built:
    """What was compiled."""

    project: Project
    platform: Platform


def built() -> tuple[Built, ...]:
    """Return what this process has compiled, for the command line."""
    return tuple(_BUILT)


def build_definitions(
    items: "Sequence[Item]",
    *,
    platform: Platform | None = None,
    executor: dg.ExecutorDefinition | None = tagging_in_process_executor,
    resources: Mapping[str, Any] | None = None,
    running: bool = False,
) -> dg.Definitions:
    """Validate a project as a whole and compile it to Dagster.

    Parameters
    ----------
    items
        Datasets, dbt projects, feature views, on-demand features, training sets, models, gates, batch predictions, and plain
        Dagster assets beside them, in any order.
    platform
        Where everything lives; ``Platform.from_env()`` when None.
    executor
        In one process by default. None leaves it to the project that these definitions are merged into.
    resources
        Resources that functions ask for, by parameter name.
    running
        Whether sensors and schedules start with the code location instead of being switched on in the UI.

    Returns
    -------
    dagster.Definitions
        Ordinary definitions, to be merged with others by ``Definitions.merge``.

    Raises
    ------
    DefinitionError
        Something in the project cannot work; the message names both ends.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> @ml.dataset(key="id")
    ... def numbers() -> pl.DataFrame:
    ...     return pl.DataFrame({"id": [1, 2]})
    >>> definitions = ml.build_definitions([numbers])
    >>> [spec.key.to_user_string() for spec in definitions.get_all_asset_specs()]
    ['dataset/numbers']
    """
    where = platform or Platform.from_env()
    project = Project.of(items)
    validate(project)
    compiler = Compiler(project, where)
    _BUILT.append(Built(project, where))
    jobs, schedules = _retraining(project, running=running)
    return dg.Definitions(
        assets=[*compiler.assets(), *_dbt(project, where), *external_assets(project), *_plain(project)],
        asset_checks=[*external_checks(project, where), *(a for a in project.plain if isinstance(a, dg.AssetChecksDefinition))],
        jobs=jobs,
        schedules=schedules,
        sensors=[automation_sensor(running=running), dead_run_sensor(running=running), *external_sensor(project, where, running=running)],
        executor=executor,
        resources=dict(resources or {}),
        metadata={PLATFORM_KEY: dg.MetadataValue.json({"home": where.home, "registry": where.registry, "lake": where.lake})},
    )


def _plain(project: Project) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    return [a for a in project.plain if isinstance(a, (dg.AssetsDefinition, dg.AssetSpec)) and not isinstance(a, dg.AssetChecksDefinition)]


def _dbt(project: Project, platform: Platform) -> Iterator[dg.AssetsDefinition]:
    if not project.every(DbtProject):
        return
    # dagster-dbt costs seconds to import: only projects with dbt pay for it.
    from mlops_assets.orchestrate.dbt import dbt_assets_of

    yield from dbt_assets_of(project, platform)


def _retraining(project: Project, *, running: bool) -> tuple[list[Any], list[dg.ScheduleDefinition]]:
    """Return each model's one job, and the schedule of those with a calendar."""
    jobs, schedules = [], []
    status = dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED
    for model in project.every(Model):
        steps = [model.training_set.key, model.key, f"version/{model.name}", f"champion/{model.name}"]
        job = dg.define_asset_job(
            f"retrain_{model.name}",
            selection=dg.AssetSelection.assets(*(asset_key(step) for step in steps)),
            description=f"Trains {model.name} on everything known now; a candidate that passes its gates becomes the champion.",
        )
        jobs.append(job)
        if model.cron_schedule:
            schedules.append(
                dg.ScheduleDefinition(
                    name=f"retrain_{model.name}_schedule",
                    job=job,
                    cron_schedule=model.cron_schedule,
                    execution_timezone=model.cron_timezone,
                    default_status=status,
                    description=f"Retrains {model.name}.",
                )
            )
    return jobs, schedules
