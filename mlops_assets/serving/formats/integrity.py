"""Verify the stored bytes of a version by their sha256, without opening the model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.training.lifecycle import DAMAGED, RESTORED
from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.judged_fit import parse_judged_fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlops_assets.stores.artifacts.store import Artifacts
    from mlops_assets.stores.registry.records import Version
    from mlops_assets.stores.registry.registry import Registry

JUDGED = "judged fit"  # part of a refitted version: the manifest of the fit that its gates judged
_PARTS = ("estimator", "before", "probe", "profile", "prediction_profile", "estimates")


def list_parts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a label and the sha256 of each artifact of a version besides its manifest."""
    for name in _PARTS:
        if name in manifest:
            yield name, str(manifest[name])
    for module in manifest.get("modules", ()):
        yield f"source of {module['name']}", str(module["source"])
    if judged := parse_judged_fit(manifest):
        yield JUDGED, judged.artifact


def find_damage(artifacts: Artifacts, artifact: str) -> str:
    """Describe the first artifact of a stored model that is missing or changed; ``""`` when every byte is intact.

    Parameters
    ----------
    artifacts
        The store of artifacts.
    artifact
        The sha256 of the manifest; every byte of its artifacts is read.
    """
    part = "manifest"
    try:
        manifest = json.loads(artifacts.get(artifact))
        for part, sha256 in list_parts(manifest):
            if part == JUDGED and (damage := find_damage(artifacts, sha256)):
                return f"{JUDGED}: {damage}"
            artifacts.get(sha256)
    except ArtifactError as error:
        return f"{part}: {error.message}"
    return ""


def mark_damage(registry: Registry, artifacts: Artifacts, version: Version) -> str:
    """Mark a version as damaged or restored where its mark is outdated, and return its damage; ``""`` when it is intact.

    Parameters
    ----------
    registry
        Stores the mark with its reason.
    artifacts
        The store of artifacts.
    version
        The version; every byte is read.
    """
    damage = find_damage(artifacts, version.artifact)
    if damage and not version.damage:
        registry.mark(version.model, version.version, DAMAGED, damage)
    elif version.damage and not damage:
        registry.mark(version.model, version.version, RESTORED, "every byte is as it was stored")
    return damage


def refuse_damaged(registry: Registry, artifacts: Artifacts, version: Version) -> None:
    """Update the damage mark of a version, and raise ArtifactError if it is damaged; running services keep their loaded version."""
    if damage := mark_damage(registry, artifacts, version):
        raise ArtifactError(
            f"version {version.version} of '{version.model}' is damaged: {damage}",
            hint="restore the artifact from a backup, or train the version again; the champion has not changed",
        )
