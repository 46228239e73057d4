"""A trained model as content-addressed artifacts: estimator, on-demand source, probe rows and a manifest that names them."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.on_demand import load_functions
from mlops_assets.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlops_assets.stores.artifacts import Artifacts

FORMAT = 1
PROBE_ROWS = 64
# What scikit-learn's own estimators contain beyond what skops trusts by itself. The list is the product's: it is never read from an artifact.
_TRUSTED = frozenset(
    {
        "functools.partial",
        "numpy.dtype",
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.LogLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.AbsoluteError",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfGammaLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn._loss.loss.HalfPoissonLoss",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn._loss.loss.PinballLoss",
        "sklearn.compose._column_transformer._RemainderColsList",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.utils.validation.check_array",
    }
)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model that can predict.

    Parameters
    ----------
    estimator
        Fitted.
    functions
        The on-demand functions that the version stores, in declared order.
    manifest
        Everything said of it, JSON-like.
    """

    estimator: Any
    functions: tuple[Callable[..., Any], ...]
    manifest: Mapping[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of ``X``, in order."""
        return tuple(self.manifest["columns"])


@dataclass(frozen=True)
class Module:
    """An on-demand function's name and the source of its module."""

    source: str
    name: str


def pack(  # noqa: PLR0913  (everything a version stores)
    artifacts: Artifacts,
    estimator: Any,  # noqa: ANN401  (any estimator)
    *,
    X: pl.DataFrame,
    modules: Sequence[Module],
    trusted_types: Sequence[str] = (),
    facts: Mapping[str, Any],
) -> str:
    """Store a model and return the sha256 of its manifest.

    Parameters
    ----------
    artifacts
        Where.
    estimator
        Fitted on ``X``.
    X
        The training rows, from which the probe is taken.
    modules
        The sources of on-demand functions.
    trusted_types
        Types beyond scikit-learn's own that the project trusts.
    facts
        More to say in the manifest, JSON-like.

    Raises
    ------
    ArtifactError
        The estimator holds a type that nobody trusts.
    """
    data = _dump(estimator)
    _load(data, trusted_types)
    probe = probe_rows(X)
    manifest = {
        **facts,
        "format": FORMAT,
        "columns": X.columns,
        "types": {name: str(dtype) for name, dtype in X.schema.items()},
        "estimator": artifacts.put(data),
        "modules": [{"source": artifacts.put(m.source.encode()), "name": m.name} for m in modules],
        "probe": artifacts.put(_ipc(probe)),
        "probe_predictions": _predictions(estimator, probe).tolist(),
        "classes": np.asarray(getattr(estimator, "classes_", [])).tolist(),
        "prediction_type": str(pl.Series(np.asarray(estimator.predict(probe))).dtype),
    }
    return artifacts.put(json.dumps(manifest, sort_keys=True).encode())


def manifest_of(artifacts: Artifacts, manifest_sha256: str) -> Mapping[str, Any]:
    """Return what is said of a stored model, without loading it."""
    return json.loads(artifacts.get(manifest_sha256))  # type: ignore[no-any-return]


def unpack(artifacts: Artifacts, manifest_sha256: str, trusted_types: Sequence[str] = ()) -> Bundle:
    """Load a stored model; every byte is verified before it is opened, and the probe must predict as it did.

    Parameters
    ----------
    artifacts
        Where.
    manifest_sha256
        What :func:`pack` returned.
    trusted_types
        As in :func:`pack`.

    Raises
    ------
    ArtifactError
        Bytes are missing or changed, a type is not trusted, or the model predicts otherwise than when it was stored.
    """
    manifest = manifest_of(artifacts, manifest_sha256)
    if manifest["format"] > FORMAT:
        raise ArtifactError(
            f"the model {manifest_sha256[:12]} is stored in format {manifest['format']}, this program knows {FORMAT}",
            hint="upgrade mlops_assets",
        )
    estimator = _load(artifacts.get(manifest["estimator"]), trusted_types)
    functions = functions_of(artifacts, manifest)
    probe = pl.read_ipc(io.BytesIO(artifacts.get(manifest["probe"])))
    if not np.allclose(_predictions(estimator, probe), np.array(manifest["probe_predictions"]), equal_nan=True):
        raise ArtifactError(
            f"the model {manifest_sha256[:12]} predicts otherwise than when it was stored",
            hint="install the library versions that its manifest names",
        )
    return Bundle(estimator, functions, manifest)


def functions_of(artifacts: Artifacts, manifest: Mapping[str, Any]) -> tuple[Callable[..., Any], ...]:
    """Return the on-demand functions that a stored model names, without loading the model."""
    return tuple(f for m in manifest["modules"] for f in load_functions(artifacts.get(m["source"]).decode(), [m["name"]]))


def probe_rows(X: pl.DataFrame) -> pl.DataFrame:
    """Return up to 64 rows, spread evenly."""
    return X.gather_every(max(1, X.height // PROBE_ROWS)).head(PROBE_ROWS)


def _predictions(estimator: Any, rows: pl.DataFrame) -> np.ndarray:  # noqa: ANN401
    predict = getattr(estimator, "predict_proba", None) or getattr(estimator, "decision_function", None) or estimator.predict
    return np.ascontiguousarray(predict(rows), dtype="<f8") if len(rows) else np.zeros(0)


def _ipc(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    return buffer.getvalue()


def _dump(estimator: Any) -> bytes:  # noqa: ANN401
    import skops.io

    try:
        data: bytes = skops.io.dumps(estimator)
    except Exception as error:
        raise ArtifactError(
            f"a {type(estimator).__name__} cannot be stored: {error}",
            hint="return a fitted scikit-learn estimator without lambdas or open files",
        ) from error
    return data


def _load(data: bytes, trusted_types: Sequence[str]) -> Any:  # noqa: ANN401
    import skops.io

    found = skops.io.get_untrusted_types(data=data)
    trusted = {*_TRUSTED, *trusted_types}
    if strange := [name for name in found if name not in trusted]:
        raise ArtifactError(
            f"the model holds the type {strange[0]}, which is not trusted",
            hint=f"if it is yours, say @ml.model(trusted_types={strange!r}); loading it runs its code",
        )
    with warnings.catch_warnings():
        # A later scikit-learn warns about every estimator of an earlier one; the probe decides whether it still predicts the same.
        warnings.simplefilter("ignore")
        return skops.io.loads(data, trusted=[name for name in found if name in trusted])
