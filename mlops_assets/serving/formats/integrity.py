"""Whether what a version stores is what was stored: read and compared byte for byte, never opened."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.training.lifecycle import DAMAGED, RESTORED
from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.judged_fit import named_judged_fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlops_assets.stores.artifacts.store import Artifacts
    from mlops_assets.stores.registry.records import Version
    from mlops_assets.stores.registry.registry import Registry

JUDGED = "judged fit"  # a part of a version that was fitted again: the manifest of the fit that its gates have judged
_PARTS = ("estimator", "before", "probe", "profile")


def parts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a version is made of besides its manifest: a name, and its sha256."""
    for name in _PARTS:
        if name in manifest:
            yield name, str(manifest[name])
    for module in manifest.get("modules", ()):
        yield f"source of {module['name']}", str(module["source"])
    if judged := named_judged_fit(manifest):
        yield JUDGED, judged.artifact


def damage(artifacts: Artifacts, artifact: str) -> str:
    """Return what is missing or changed of a stored model; empty when it is whole.

    Parameters
    ----------
    artifacts
        Where it is stored.
    artifact
        The sha256 of its manifest; every byte that it names is read.
    """
    what = "manifest"
    try:
        manifest = json.loads(artifacts.get(artifact))
        for what, sha256 in parts(manifest):
            if what == JUDGED and (found := damage(artifacts, sha256)):
                return f"{JUDGED}: {found}"
            artifacts.get(sha256)
    except ArtifactError as error:
        return f"{what}: {error.message}"
    return ""


def looked_after(registry: Registry, artifacts: Artifacts, version: Version) -> str:
    """Return the damage of a version, and mark it in the registry when that has changed.

    Parameters
    ----------
    registry
        Remembers the mark, with its reason.
    artifacts
        Where it is stored.
    version
        Of which every byte is read.
    """
    found = damage(artifacts, version.artifact)
    if found and not version.damage:
        registry.mark(version.model, version.version, DAMAGED, found)
    elif version.damage and not found:
        registry.mark(version.model, version.version, RESTORED, "every byte is as it was stored")
    return found


def refuse_damaged(registry: Registry, artifacts: Artifacts, version: Version) -> None:
    """Raise ArtifactError for a version that is damaged, and mark it; whoever serves goes on serving."""
    if found := looked_after(registry, artifacts, version):
        raise ArtifactError(
            f"version {version.version} of '{version.model}' is damaged: {found}",
            hint="restore the artifact from a backup, or train the version again; the champion is as it was",
        )
