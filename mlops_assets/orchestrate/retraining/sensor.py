"""The sensor that starts the training runs of a monitor's decisions."""

import dagster as dg

from mlops_assets.orchestrate.core.liveness import reap_dead_runs
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.retraining.decisions import advance_loop, job_name, sensor_name
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.decisions import Hold
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.platform import Platform


def build_retrain_sensor(project: Project, monitor: Monitor, platform: Platform, *, running: bool, interval: int) -> dg.SensorDefinition:
    """Return the sensor that requests the training runs of a monitor's decisions every ``interval`` seconds.

    It has no cursor, because decisions are recorded in the stores. Each tick first reaps dead runs, which would block the next attempt.
    """
    name = job_name(monitor.model.name)
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name=sensor_name(monitor),
        job_name=name,
        minimum_interval_seconds=interval,
        default_status=status,
        description=f"Retrains {monitor.model.name} after a decision of {monitor.name}.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        reap_dead_runs(context.instance)
        stores = open_stores(platform)
        action = advance_loop(stores, project, monitor, context.instance)
        if isinstance(action, Hold):
            return dg.SkipReason(action.reason)
        return dg.RunRequest(run_key=action.run_key, job_name=name, tags=action.tags)

    return sensor
