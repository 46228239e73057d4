"""Write and read an estimator: as skops, the library's own file, ONNX, or pickle where the environment allows it.

Bytes are verified by their sha256 before they are read. Skops, LightGBM's text, XGBoost's UBJSON and ONNX contain numbers and names, no
code. The lists of this package and of the project decide which types skops may construct, never the artifact. A pickle runs code when it
is opened.
"""

from __future__ import annotations

import os
import pickle
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import ArtifactError, MissingExtraError
from mlops_assets.serving.formats.estimator_bytes import LIGHTGBM, ONNX, PICKLE, SKOPS, EstimatorBytes, dump_skops
from mlops_assets.serving.formats.trusted_types import LAMBDA_HINT, TRUSTED, is_nameless

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

ALLOW_PICKLE = "MLOPS_ALLOW_PICKLE"


def refuse_unavailable_format(requested_format: str) -> None:
    """Raise, before anything is trained, for a format that cannot be written here.

    Parameters
    ----------
    requested_format
        Name of the format.

    Raises
    ------
    ArtifactError
        The format is pickle, and pickles are not allowed.
    MissingExtraError
        The libraries of the format are not installed.
    """
    if requested_format == PICKLE:
        refuse_pickle()
    if requested_format == ONNX and not all(find_spec(name) for name in ("onnxruntime", "skl2onnx")):
        raise MissingExtraError.from_extra("skl2onnx and onnxruntime", "onnx")


def write_estimator(estimator: Any, requested_format: str, X: pl.DataFrame, trusted: Sequence[str]) -> EstimatorBytes:  # noqa: ANN401  (any estimator)
    """Return an estimator as bytes in the requested format.

    If ONNX is requested, but the conversion fails or predicts differently, the estimator is written in its library's own format and the
    reason is returned with the bytes.

    Parameters
    ----------
    estimator
        Fitted on ``X``.
    requested_format
        As in :class:`mlops_assets.values.model.Model`.
    X
        The training rows.
    trusted
        Types beyond scikit-learn's own that the project trusts.

    Raises
    ------
    ArtifactError
        The estimator cannot be stored in that format.
    """
    if requested_format == PICKLE:
        refuse_pickle()
        return EstimatorBytes(PICKLE, pickle.dumps(estimator))
    if requested_format == "native":
        from mlops_assets.serving.formats.native import to_native

        return to_native(estimator)
    if requested_format == ONNX:
        from mlops_assets.serving.formats.onnx import convert_to_onnx

        stored = convert_to_onnx(estimator, X)
    else:
        stored = EstimatorBytes(SKOPS, dump_skops(estimator))
    read_estimator(stored, trusted)  # an untrusted type is refused now rather than when the model is loaded to serve
    return stored


def read_estimator(stored: EstimatorBytes, trusted: Sequence[str]) -> Any:  # noqa: ANN401
    """Return the estimator that stored bytes contain.

    Parameters
    ----------
    stored
        Returned by :func:`write_estimator`; the caller has verified the sha256 of its bytes.
    trusted
        As in :func:`write_estimator`.

    Raises
    ------
    ArtifactError
        The bytes contain an untrusted type or a forbidden pickle, cannot be read, or have an unknown form.
    """
    try:
        match stored.form:
            case "skops":
                return _from_skops(stored.data, trusted)
            case "pickle":
                refuse_pickle()
                return pickle.loads(stored.data)  # noqa: S301  (allowed in this process)
            case "lightgbm" | "xgboost":
                from mlops_assets.serving.formats.native import from_native

                return from_native(stored, _from_skops(stored.before, trusted) if stored.before else None)
            case "onnx":
                from mlops_assets.serving.formats.onnx import load_onnx

                return load_onnx(stored.data, stored.facts)
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"the model cannot be read as {stored.form}: {type(error).__name__}: {' '.join(str(error).split())[:300]}",
            hint="install the library versions that it was trained with",
        ) from error
    raise ArtifactError(f"the model is stored as '{stored.form}', which this program does not know", hint="upgrade mlops_assets")


def load_as_served(estimator: Any, form: str, X: pl.DataFrame) -> Any:  # noqa: ANN401
    """Return the estimator as a service will load it.

    Only LightGBM's file and ONNX are written and read back, because they break ties differently from the fitted estimator. In every other
    form, and where ONNX is refused, the estimator itself is returned.

    Parameters
    ----------
    estimator
        Fitted on ``X``, in this process.
    form
        The stored format: see :class:`EstimatorBytes`.
    X
        The training rows.
    """
    if form == LIGHTGBM:
        from mlops_assets.serving.formats.native import from_native, to_native

        before = type(estimator)(list(estimator.steps)) if type(estimator).__name__ == "Pipeline" else None
        return from_native(to_native(estimator), before)
    if form == ONNX:
        from mlops_assets.serving.formats.onnx import convert_to_onnx, load_onnx

        stored = convert_to_onnx(estimator, X)
        return load_onnx(stored.data, stored.facts) if stored.form == ONNX else estimator
    return estimator


def refuse_pickle() -> None:
    """Raise ArtifactError unless ``MLOPS_ALLOW_PICKLE`` is ``1``."""
    if os.environ.get(ALLOW_PICKLE) != "1":
        raise ArtifactError(
            "a pickle runs code when it is opened, and pickles are not allowed here",
            hint=f"store the model as skops, native or onnx; or set {ALLOW_PICKLE}=1 wherever it is trained and served",
        )


def _from_skops(data: bytes, trusted: Sequence[str]) -> Any:  # noqa: ANN401
    """Return the estimator in skops bytes; raise ArtifactError that names an untrusted type if there is one."""
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    with warnings.catch_warnings():
        # A later scikit-learn warns about every estimator of an earlier one; the probe verifies its predictions.
        warnings.simplefilter("ignore")
        try:
            return skops.io.loads(data, trusted=sorted({*TRUSTED, *trusted}))
        except UntrustedTypesFoundException:
            types = skops.io.get_untrusted_types(data=data)
    untrusted = sorted(set(types) - TRUSTED - set(trusted))
    if nameless := [name for name in untrusted if is_nameless(name)]:
        raise ArtifactError(f"the model contains {nameless[0]}, which cannot be imported by its name", hint=LAMBDA_HINT)
    native = any(name.startswith(("lightgbm.", "xgboost.")) for name in untrusted)
    raise ArtifactError(
        f"the model contains the type {untrusted[0]}, which is not trusted",
        hint='store it in the library\'s own file: @ml.model(format="native")'
        if native
        else f"if the type is yours, set @ml.model(trusted_types={untrusted!r}); loading the model runs its code",
    )
