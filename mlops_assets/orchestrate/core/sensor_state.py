"""Find out whether sensors run, from their state on the Dagster instance and from the daemon's heartbeat."""

import time
from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorStatus

HEARTBEAT_LIMIT = 300.0  # seconds; the daemon beats every 30
_DAEMON = "SENSOR"


def is_sensor_on(sensor: dg.SensorDefinition, instance: dg.DagsterInstance) -> bool:
    """Return True if a sensor is running, by the status that is set on this instance, otherwise by its default status."""
    states = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    statuses = [s.status for s in states if s.instigator_name == sensor.name]
    if not set(statuses) & {InstigatorStatus.RUNNING, InstigatorStatus.STOPPED}:
        return sensor.default_status is dg.DefaultSensorStatus.RUNNING
    return InstigatorStatus.RUNNING in statuses


def explain_sensors_off(
    definitions: dg.Definitions, names: Sequence[str], instance: dg.DagsterInstance, command: str, *, clock: float | None = None
) -> str:
    """Return a clause, to append to a message, on why sensors are idle and which command does their work once; empty if they run.

    Parameters
    ----------
    definitions
        The definitions that contain the sensors.
    names
        The names of the sensors; the message keeps their order.
    instance
        The Dagster instance that runs them.
    command
        The command that does the sensors' work once.
    clock
        Seconds since 1970; the current time when None.
    """
    sensors = [
        sensor for name in names for sensor in definitions.sensors or () if isinstance(sensor, dg.SensorDefinition) and sensor.name == name
    ]
    off = [sensor.name for sensor in sensors if not is_sensor_on(sensor, instance)]
    if off:
        named = " and ".join(f"'{name}'" for name in off)
        is_off, them = ("is off", "it") if len(off) == 1 else ("are off", "them")
        return f"; the sensor{'s' * (len(off) > 1)} {named} {is_off}: switch {them} on in the UI, or evaluate once with `{command}`"
    beat = instance.get_daemon_heartbeats().get(_DAEMON)
    if beat is None or (time.time() if clock is None else clock) - beat.timestamp > HEARTBEAT_LIMIT:
        return f"; no Dagster daemon runs on this instance: start `dagster dev`, or evaluate once with `{command}`"
    return ""
