"""A stored estimator as bytes, the names of the stored forms, and serialisation by skops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.trusted_types import replace_distributions

if TYPE_CHECKING:
    from collections.abc import Mapping


SKOPS, ONNX, PICKLE = "skops", "onnx", "pickle"


LIGHTGBM, XGBOOST = "lightgbm", "xgboost"  # the forms of "native"


@dataclass(frozen=True, eq=False)
class EstimatorBytes:
    """An estimator as bytes, with the form in which it can be read back.

    Parameters
    ----------
    form
        ``skops``, ``lightgbm``, ``xgboost``, ``onnx`` or ``pickle``.
    data
        The stored bytes.
    before
        Earlier steps of a pipeline that ends in a native file, as skops; empty when there are none.
    facts
        Further settings that are needed to read the bytes, JSON-like.
    refused
        Why the estimator is not stored in the requested format; empty when it is.
    """

    form: str
    data: bytes
    before: bytes = b""
    facts: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""


def dump_skops(estimator: Any) -> bytes:  # noqa: ANN401
    """Return an estimator as skops, with descriptions in place of search distributions; raise ArtifactError if skops cannot store it."""
    import skops.io

    try:
        with replace_distributions(estimator):
            data: bytes = skops.io.dumps(estimator)
    except Exception as error:
        raise ArtifactError(
            f"a {type(estimator).__name__} cannot be stored: {error}",
            hint="return a fitted scikit-learn estimator without lambdas or open files",
        ) from error
    return data
