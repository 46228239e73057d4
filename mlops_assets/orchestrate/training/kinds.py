"""Look up the kinds of candidates that this version of the package supports."""

from collections.abc import Mapping
from typing import Any

from mlops_assets.errors import ArtifactError, suggest_name
from mlops_assets.orchestrate.training.candidate_kind import CandidateKind
from mlops_assets.orchestrate.training.estimator_kind import EstimatorKind
from mlops_assets.values.model import ESTIMATOR, KIND

KINDS: dict[str, CandidateKind] = {ESTIMATOR: EstimatorKind()}


def find_kind(name: str) -> CandidateKind:
    """Return a kind of candidate by its name.

    Parameters
    ----------
    name
        The name in a model's declaration or in a record.

    Raises
    ------
    ArtifactError
        This version of the package has no kind of this name.
    """
    if name not in KINDS:
        raise ArtifactError(
            f"this version of mlops_assets has no kind of candidate '{name}'",
            hint=suggest_name(name, KINDS) + "upgrade mlops_assets to the version that made the candidate",
        )
    return KINDS[name]


def read_kind(record: Mapping[str, Any]) -> CandidateKind:
    """Return the kind that a run's record or a manifest names; an estimator if it names none, as earlier package versions did."""
    return find_kind(str(record.get(KIND, ESTIMATOR)))
