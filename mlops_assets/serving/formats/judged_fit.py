"""A version that was fitted again after its gates: which fit the gates have judged, and which one serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.packaging import manifest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.stores.artifacts.store import Artifacts

REFIT = "refit"  # in the manifest of a second fit: artifact and digest of the first one, which the gates have judged


@dataclass(frozen=True)
class JudgedFit:
    """The fit of a version that its gates have judged; the one that serves, unless the version was fitted again.

    Parameters
    ----------
    artifact
        The sha256 of its manifest.
    digest
        Identifies what it was fitted on and what it predicts.
    refitted
        Whether another fit serves, which has seen the holdout.
    """

    artifact: str
    digest: str
    refitted: bool = False

    def as_json(self) -> dict[str, str]:
        """Return the value as the manifest of the second fit holds it."""
        return {"artifact": self.artifact, "digest": self.digest}


def named_judged_fit(manifest: Mapping[str, Any]) -> JudgedFit | None:
    """Return the judged fit that a manifest names; None where the manifest's own fit was judged."""
    named = manifest.get(REFIT)
    return None if named is None else JudgedFit(named["artifact"], named["digest"], refitted=True)


def judged_fit(artifacts: Artifacts, artifact: str, digest: str) -> JudgedFit:
    """Return the fit that the gates of a version or a candidate have judged.

    Parameters
    ----------
    artifacts
        Where it is stored.
    artifact, digest
        Of the version or the candidate. One whose manifest cannot be read is taken for its own judged fit: who opens it finds the damage.
    """
    try:
        named = named_judged_fit(manifest_of(artifacts, artifact))
    except ArtifactError:
        named = None
    return named or JudgedFit(artifact, digest)
