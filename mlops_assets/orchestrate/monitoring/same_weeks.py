"""Read the training rows of versions, for monitors that compare with the same weeks of earlier years."""

from mlops_assets.compute.monitoring.same_weeks import DatedRows, SameWeeksReferences
from mlops_assets.compute.training.split import sort_canonically
from mlops_assets.errors import LakeError
from mlops_assets.orchestrate.core.partitions import partition_length
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.monitoring import Monitor


def read_same_weeks(stores: Stores, monitor: Monitor) -> SameWeeksReferences:
    """Return the references of a monitor's windows, which read the stored training sets of versions.

    Parameters
    ----------
    stores
        The stores of the platform, with the training sets of versions.
    monitor
        The monitor, whose drift expectation declares the weeks.
    """
    versions = {version.version: version for version in stores.registry.versions(monitor.model.name)}

    def read_rows(number: int) -> DatedRows:
        version = versions[number]
        name = read_manifest(stores.artifacts, version.artifact)["event_timestamp"]  # as declared when it was trained
        if name is None:
            raise LakeError(f"version {number} was trained on rows without event times", hint="train again")
        rows = sort_canonically(stores.lake.read(monitor.model.training_set.key, snapshot=version.snapshot), name)
        return rows, rows[name]

    declared = monitor.drift.reference if monitor.drift else None
    return SameWeeksReferences(declared, partition_length(monitor.partitions), getattr(monitor.partitions, "timezone", None), read_rows)
