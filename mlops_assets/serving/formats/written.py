"""An estimator as bytes, and its skops form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.trusted_types import without_distributions

if TYPE_CHECKING:
    from collections.abc import Mapping


SKOPS, ONNX, PICKLE = "skops", "onnx", "pickle"


LIGHTGBM, XGBOOST = "lightgbm", "xgboost"  # what "native" is, by the estimator


@dataclass(frozen=True, eq=False)
class Written:
    """An estimator as bytes.

    Parameters
    ----------
    form
        ``skops``, ``lightgbm``, ``xgboost``, ``onnx`` or ``pickle``.
    data
        What is stored.
    before
        The steps of a pipeline before a native file, as skops; empty when there are none.
    facts
        What else is needed to read it, JSON-like.
    refused
        Why it is not in the form that was asked for.
    """

    form: str
    data: bytes
    before: bytes = b""
    facts: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""


def skops_bytes(estimator: Any) -> bytes:  # noqa: ANN401
    """Return an estimator in skops' form."""
    import skops.io

    try:
        with without_distributions(estimator):
            data: bytes = skops.io.dumps(estimator)
    except Exception as error:
        raise ArtifactError(
            f"a {type(estimator).__name__} cannot be stored: {error}",
            hint="return a fitted scikit-learn estimator without lambdas or open files",
        ) from error
    return data
