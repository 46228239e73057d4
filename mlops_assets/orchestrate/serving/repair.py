"""The sensor that keeps services as they are wanted: running, and with the champion."""

from collections.abc import Sequence

import dagster as dg

from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.values.platform import Platform
from mlops_assets.values.serving import Service

SENSOR, TAG, ATTEMPTS = "mlops_services", "mlops/repair", 3


def repair_sensor(services: Sequence[Service], platform: Platform, *, running: bool, interval: int) -> dg.SensorDefinition:
    """Return the sensor; it asks for the service's own asset, so that what was repaired is seen where everything else is."""
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name=SENSOR,
        target=dg.AssetSelection.assets(*(asset_key(service.key) for service in services)),
        minimum_interval_seconds=interval,
        default_status=status,
        description="Repairs services that are not as they are wanted.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        found = [find_repair(service, platform, context.instance) for service in services]
        requests = [one for one in found if isinstance(one, dg.RunRequest)]
        return dg.SensorResult(run_requests=requests) if requests else dg.SkipReason("; ".join(str(one) for one in found))

    return sensor


def find_repair(service: Service, platform: Platform, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """Return the run that repairs a service, or in words why none is needed."""
    from mlops_assets.serving.http import control
    from mlops_assets.serving.http.state import ServiceFolder

    seen = control.status(platform.home, service.name)
    if seen.wanted == "unknown":
        return f"{service.name}: {seen.problem}"
    if seen.wanted != "running":
        return f"{service.name} is {seen.wanted}" if seen.wanted == "stopped" else f"{service.name} was never started"
    behind = [worker for worker in seen.workers if worker.version != seen.champion]
    if seen.running and not behind and not seen.problem:
        return f"{service.name}: {len(seen.workers)} workers answer with version {seen.champion}"
    folder = ServiceFolder.locate(platform.home, service.name)
    last = folder.read_or_none(folder.supervisor) or {}
    event = f"{service.name}-v{seen.champion}-{last.get('pid')}-{last.get('started')}"
    runs = instance.get_runs(filters=dg.RunsFilter(tags={TAG: event}))
    if any(not run.is_finished for run in runs):
        return f"{service.name} is being repaired by run {runs[0].run_id[:8]}"
    if len(runs) >= ATTEMPTS:
        return f"{service.name} is still not well after {len(runs)} repairs ({seen.problem or 'a worker is behind'}): look at `mlops serve status {service.name}`"
    return dg.RunRequest(run_key=f"{event}#{len(runs) + 1}", asset_selection=[asset_key(service.key)], tags={TAG: event})
