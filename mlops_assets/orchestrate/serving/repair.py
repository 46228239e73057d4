"""The sensor that repairs services that should run and do not, or that serve another version than the champion."""

from collections.abc import Sequence

import dagster as dg

from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.values.llm.prompt_service import PromptService
from mlops_assets.values.platform import Platform
from mlops_assets.values.serving import Service

SENSOR, TAG, MAX_ATTEMPTS = "mlops_services", "mlops/repair", 3


def build_repair_sensor(
    services: Sequence[Service | PromptService], platform: Platform, *, running: bool, interval: int
) -> dg.SensorDefinition:
    """Return the sensor that repairs services by requesting runs of their assets, so that a repair is visible like every run."""
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name=SENSOR,
        target=dg.AssetSelection.assets(*(asset_key(service.key) for service in services)),
        minimum_interval_seconds=interval,
        default_status=status,
        description="Repairs services that should run and do not, or that are behind the champion.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        repairs = [find_repair(service, platform, context.instance) for service in services]
        requests = [repair for repair in repairs if isinstance(repair, dg.RunRequest)]
        return dg.SensorResult(run_requests=requests) if requests else dg.SkipReason("; ".join(str(reason) for reason in repairs))

    return sensor


def find_repair(service: Service | PromptService, platform: Platform, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """Return the run to request that repairs a service, or the reason why none is requested.

    None is requested while a repair runs, or after three repairs of the same supervisor and version.
    """
    from mlops_assets.serving.http import control
    from mlops_assets.serving.http.service_folder import ServiceFolder

    status = control.status(platform.home, service.name)
    if status.wanted == "unknown":
        return f"{service.name}: {status.problem}"
    if status.wanted != "running":
        return f"{service.name} is {status.wanted}" if status.wanted == "stopped" else f"{service.name} was never started"
    behind = [worker for worker in status.workers if worker.version != status.champion]
    if status.running and not behind and not status.problem:
        return f"{service.name}: {len(status.workers)} workers answer with version {status.champion}"
    folder = ServiceFolder.locate(platform.home, service.name)
    last = folder.read_or_none(folder.supervisor) or {}
    event = f"{service.name}-v{status.champion}-{last.get('pid')}-{last.get('started')}"
    runs = instance.get_runs(filters=dg.RunsFilter(tags={TAG: event}))
    if any(not run.is_finished for run in runs):
        return f"{service.name} is being repaired by run {runs[0].run_id[:8]}"
    if len(runs) >= MAX_ATTEMPTS:
        return f"{service.name} is still unhealthy after {len(runs)} repairs ({status.problem or 'a worker is behind'}): look at `mlops serve status {service.name}`"
    return dg.RunRequest(run_key=f"{event}#{len(runs) + 1}", asset_selection=[asset_key(service.key)], tags={TAG: event})
