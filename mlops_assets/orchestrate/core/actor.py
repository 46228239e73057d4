"""Who promotes a version in a run, and why: what the registry's log records."""

import getpass

from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.values.decisions import REASON_TAG


def describe_reason(step: StepContext) -> str:
    """Return the reason of a promotion for the log: the Dagster run, and the reason that its tags name."""
    why = step.context.run.tags.get(REASON_TAG)
    return f"Dagster run {step.context.run.run_id}" + (f": {why}" if why else "")


def name_actor(step: StepContext) -> str:
    """Return the name of the schedule, sensor or user that launched the run; else the user of this process."""
    tags = step.context.run.tags
    return tags.get("dagster/schedule_name") or tags.get("dagster/sensor_name") or tags.get("user") or getpass.getuser()
