"""The forms in which an estimator is stored: skops, the library's own file, ONNX, and pickle where the environment allows it.

Whatever is read was verified by its sha256 before. Skops, LightGBM's text, XGBoost's UBJSON and ONNX hold numbers and names, no code; what
skops may construct is said by our list and by the project, never by the artifact. A pickle runs code when it is opened.
"""

from __future__ import annotations

import os
import pickle
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import ArtifactError, MissingExtraError
from mlops_assets.serving.formats.trusted_types import LAMBDA_HINT, TRUSTED, has_no_name
from mlops_assets.serving.formats.written import LIGHTGBM, ONNX, PICKLE, SKOPS, Written, skops_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

ALLOW_PICKLE = "MLOPS_ALLOW_PICKLE"


def refuse_unready(asked: str) -> None:
    """Refuse, before anything is trained, a format that cannot be written here.

    Parameters
    ----------
    asked
        Its name.

    Raises
    ------
    ArtifactError
        It is pickle, and none is allowed.
    MissingExtraError
        Its libraries are not installed.
    """
    if asked == PICKLE:
        refuse_pickle()
    if asked == ONNX and not all(find_spec(name) for name in ("onnxruntime", "skl2onnx")):
        raise MissingExtraError.from_extra("skl2onnx and onnxruntime", "onnx")


def written(estimator: Any, asked: str, X: pl.DataFrame, trusted: Sequence[str]) -> Written:  # noqa: ANN401  (any estimator)
    """Return an estimator in the form that is asked for; in skops, and why, where ONNX would predict otherwise.

    Parameters
    ----------
    estimator
        Fitted on ``X``.
    asked
        As in :class:`mlops_assets.values.model.Model`.
    X
        The training rows.
    trusted
        Types beyond scikit-learn's own that the project trusts.

    Raises
    ------
    ArtifactError
        It cannot be stored in that form.
    """
    if asked == PICKLE:
        refuse_pickle()
        return Written(PICKLE, pickle.dumps(estimator))
    if asked == "native":
        from mlops_assets.serving.formats.native import native

        return native(estimator)
    if asked == ONNX:
        from mlops_assets.serving.formats.onnx import converted

        done = converted(estimator, X)
    else:
        done = Written(SKOPS, skops_bytes(estimator))
    read(done, trusted)  # a type that nobody trusts is refused now rather than when it is needed
    return done


def read(stored: Written, trusted: Sequence[str]) -> Any:  # noqa: ANN401
    """Return the estimator that was written.

    Parameters
    ----------
    stored
        What :func:`written` returned; its bytes are verified.
    trusted
        As in :func:`written`.

    Raises
    ------
    ArtifactError
        It holds a type that nobody trusts, is a pickle and no pickle is allowed, or cannot be read.
    """
    try:
        match stored.form:
            case "skops":
                return _from_skops(stored.data, trusted)
            case "pickle":
                refuse_pickle()
                return pickle.loads(stored.data)  # noqa: S301  (allowed by whoever runs this process)
            case "lightgbm" | "xgboost":
                from mlops_assets.serving.formats.native import from_native

                return from_native(stored, _from_skops(stored.before, trusted) if stored.before else None)
            case "onnx":
                from mlops_assets.serving.formats.onnx import OnnxModel

                return OnnxModel(stored.data, stored.facts)
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"the model cannot be read as {stored.form}: {type(error).__name__}: {' '.join(str(error).split())[:300]}",
            hint="install the library versions that it was trained with",
        ) from error
    raise ArtifactError(f"the model is stored as '{stored.form}', which this program does not know", hint="upgrade mlops_assets")


def as_served(estimator: Any, form: str, X: pl.DataFrame) -> Any:  # noqa: ANN401
    """Return what answers of an estimator once it is stored: scorers ask LightGBM or ONNX otherwise than the estimator, and find other ties.

    Parameters
    ----------
    estimator
        Fitted on ``X``, in this process.
    form
        In which it is stored, as :class:`Written` tells it.
    X
        The training rows.
    """
    if form == LIGHTGBM:
        from mlops_assets.serving.formats.native import from_native, native

        before = type(estimator)(list(estimator.steps)) if type(estimator).__name__ == "Pipeline" else None
        return from_native(native(estimator), before)
    if form == ONNX:
        from mlops_assets.serving.formats.onnx import OnnxModel, converted

        done = converted(estimator, X)
        return OnnxModel(done.data, done.facts) if done.form == ONNX else estimator
    return estimator


def refuse_pickle() -> None:
    """Raise ArtifactError unless whoever runs this process allows pickles."""
    if os.environ.get(ALLOW_PICKLE) != "1":
        raise ArtifactError(
            "a pickle runs code when it is opened, and none is allowed here",
            hint=f"store the model as skops, native or onnx; or set {ALLOW_PICKLE}=1 wherever it is trained and served",
        )


def _from_skops(data: bytes, trusted: Sequence[str]) -> Any:  # noqa: ANN401
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    with warnings.catch_warnings():
        # A later scikit-learn warns about every estimator of an earlier one; the probe decides whether it still predicts the same.
        warnings.simplefilter("ignore")
        try:
            return skops.io.loads(data, trusted=sorted({*TRUSTED, *trusted}))
        except UntrustedTypesFoundException:
            found = skops.io.get_untrusted_types(data=data)
    strange = sorted(set(found) - TRUSTED - set(trusted))
    if nameless := [name for name in strange if has_no_name(name)]:
        raise ArtifactError(f"the model holds {nameless[0]}, which no program can find by its name", hint=LAMBDA_HINT)
    native = any(name.startswith(("lightgbm.", "xgboost.")) for name in strange)
    raise ArtifactError(
        f"the model holds the type {strange[0]}, which is not trusted",
        hint='store it in the library\'s own file: @ml.model(format="native")'
        if native
        else f"if it is yours, say @ml.model(trusted_types={strange!r}); loading it runs its code",
    )
