"""Versions that were refitted after their gates: the gates judged one fit, another one serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.packaging import read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.stores.artifacts.store import Artifacts

REFIT = "refit"  # in the manifest of a second fit: artifact and digest of the first one, which the gates have judged


@dataclass(frozen=True)
class JudgedFit:
    """The fit that the gates of a version judged; the same fit serves, unless the version was refitted.

    Parameters
    ----------
    artifact
        The sha256 of the fit's manifest.
    digest
        Identifies the fit's training data and predictions.
    refitted
        Whether a second fit, trained on the holdout as well, serves instead.
    """

    artifact: str
    digest: str
    refitted: bool = False

    def as_json(self) -> dict[str, str]:
        """Return the value of ``refit`` in the manifest of the second fit."""
        return {"artifact": self.artifact, "digest": self.digest}


def parse_judged_fit(manifest: Mapping[str, Any]) -> JudgedFit | None:
    """Return the judged fit that a manifest names; None when the gates judged the fit of this manifest."""
    entry = manifest.get(REFIT)
    return None if entry is None else JudgedFit(entry["artifact"], entry["digest"], refitted=True)


def read_judged_fit(artifacts: Artifacts, artifact: str, digest: str) -> JudgedFit:
    """Return the fit that the gates of a version or a candidate judged.

    Parameters
    ----------
    artifacts
        The store of artifacts.
    artifact, digest
        The manifest's sha256, and the digest, of the version or the candidate. When the manifest is unreadable, they are returned as the
        judged fit; loading the model reports the damage.
    """
    try:
        judged = parse_judged_fit(read_manifest(artifacts, artifact))
    except ArtifactError:
        judged = None
    return judged or JudgedFit(artifact, digest)
