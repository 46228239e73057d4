"""Store and load a trained model: estimator, on-demand sources, probe rows, and a manifest that names these artifacts."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.features.on_demand import load_functions
from mlops_assets.compute.features.signature import describe_signature
from mlops_assets.compute.tables.frames import sample_evenly
from mlops_assets.compute.training.environment import canonical_name, installed_distributions
from mlops_assets.compute.training.library_versions import LibraryChange, find_library_changes
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.compute.user_code.user_errors import describe_error
from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.argmax import count_non_argmax_rows, may_predict_argmax, predict_labels
from mlops_assets.serving.formats.estimator_bytes import SKOPS, EstimatorBytes
from mlops_assets.serving.formats.prediction_columns import HAS_PROBABILITIES
from mlops_assets.serving.formats.project_code import SOURCES, changed_sources, hash_sources
from mlops_assets.serving.formats.serialisation import read_estimator, write_estimator
from mlops_assets.values.model import ESTIMATOR, KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlops_assets.stores.artifacts.store import Artifacts

MAX_FORMAT = 2  # of a manifest: 1 for an estimator in skops, 2 for every other form
PROBE_ROWS = 64
POSITIVE = "positive"  # in a manifest: the positive class, where one is declared
PREDICTS_ARGMAX = "predicts_likeliest"  # in a manifest: the number of rows on which predictions were verified to be the argmax
_PLAIN_SKOPS = "omit format= to store it as skops"
_TOLERANCE = 1e-5  # between the fitted and the stored estimator; ONNX may compute in 32 bits


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """A stored model that :func:`unpack` has loaded and verified.

    Parameters
    ----------
    estimator
        Fitted.
    functions
        The on-demand functions that the version stores, in declared order.
    manifest
        The manifest, as JSON-like values.
    """

    estimator: Any
    functions: tuple[Callable[..., Any], ...]
    manifest: Mapping[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of ``X``, in order."""
        return tuple(self.manifest["columns"])

    @property
    def predicts_argmax(self) -> bool:
        """Whether the predictions were verified to be the argmax of the probabilities, on the probe rows and the holdout."""
        return bool(self.manifest.get(PREDICTS_ARGMAX))


@dataclass(frozen=True)
class OnDemandSource:
    """The source of a module, and the name of the on-demand function in it."""

    source: str
    name: str


def pack(  # noqa: PLR0913  (everything a version stores)
    artifacts: Artifacts,
    estimator: Any,  # noqa: ANN401  (any estimator)
    *,
    X: pl.DataFrame,
    modules: Sequence[OnDemandSource],
    holdout: CachedPredictor | None = None,
    trusted_types: Sequence[str] = (),
    requested_format: str = SKOPS,
    facts: Mapping[str, Any],
) -> str:
    """Store a model and return the sha256 of its manifest.

    Parameters
    ----------
    artifacts
        The store of artifacts.
    estimator
        Fitted on ``X``.
    X
        The training rows; up to 64 of them are stored as probe rows.
    modules
        The sources of on-demand functions.
    holdout
        Further rows and the estimator's predictions for them. When None, the manifest does not record that predictions are the argmax.
    trusted_types
        Types beyond scikit-learn's own that the project trusts.
    requested_format
        As in :class:`mlops_assets.values.model.Model`.
    facts
        Further entries of the manifest, JSON-like; entries of this function replace those of the same name.

    Raises
    ------
    ArtifactError
        The estimator contains an untrusted type, cannot be stored in that format, or predicts differently when it is read back.
    """
    written, probe = write_estimator(estimator, requested_format, X, trusted_types), sample_probe_rows(X)
    predictions = compute_responses(estimator, probe)
    manifest = {
        **facts,
        **_format_facts(written, estimator, probe, holdout, trusted_types),
        "format": MAX_FORMAT if written.form != SKOPS else 1,
        "columns": X.columns,
        "signature": describe_signature(X),
        "types": {name: str(dtype) for name, dtype in X.schema.items()},
        "estimator": artifacts.put(written.data),
        **({"before": artifacts.put(written.before)} if written.before else {}),
        "modules": [{"source": artifacts.put(m.source.encode()), "name": m.name} for m in modules],
        "probe": artifacts.put(_to_ipc(probe)),
        "probe_predictions": predictions.tolist(),
        "probe_labels": predict_labels(estimator, probe).tolist(),
        "classes": np.asarray(getattr(estimator, "classes_", [])).tolist(),
        HAS_PROBABILITIES: hasattr(estimator, "predict_proba"),
        SOURCES: hash_sources(estimator, trusted_types),
        "prediction_type": str(pl.Series(np.asarray(estimator.predict(probe))).dtype),
    }
    return artifacts.put(json.dumps(manifest, sort_keys=True).encode())


def _format_facts(
    written: EstimatorBytes,
    estimator: Any,  # noqa: ANN401  (any estimator)
    probe: pl.DataFrame,
    holdout: CachedPredictor | None,
    trusted_types: Sequence[str],
) -> dict[str, Any]:
    """Return the manifest's entries on the format; raise ArtifactError if a model not stored as skops predicts differently when read."""
    facts: dict[str, Any] = {"refused_format": written.refused} if written.refused else {}
    if written.form == SKOPS:
        return facts | _argmax_facts(estimator, probe, holdout)
    stored, predictions = read_estimator(written, trusted_types), compute_responses(estimator, probe)
    served = compute_responses(stored, probe)
    if not np.allclose(served, predictions, atol=_TOLERANCE, equal_nan=True):
        raise ArtifactError(
            f"predictions change by up to {np.abs(served - predictions).max():.2g} when the model is read back from {written.form}",
            hint=_PLAIN_SKOPS,
        )
    if hasattr(estimator, "predict_proba"):
        for where, predictor in (("probe", CachedPredictor(estimator, probe)), *((("holdout", holdout),) if holdout is not None else ())):
            if flipped := int((predict_labels(stored, predictor.X) != predictor.predict_all("predict")).sum()):
                raise ArtifactError(
                    f"the model predicts another class for {flipped} of {predictor.X.height} {where} rows when it is read back from {written.form}",
                    hint=_PLAIN_SKOPS,
                )
    facts |= _argmax_facts(stored, probe, None if holdout is None else CachedPredictor(stored, holdout.X))
    return {**facts, "form": written.form, "form_facts": dict(written.facts), "served_predictions": served.tolist()}


def _argmax_facts(estimator: Any, probe: pl.DataFrame, holdout: CachedPredictor | None) -> dict[str, int]:  # noqa: ANN401
    """Return the manifest's entry with the number of rows on which every prediction is the argmax.

    The dict is empty without a holdout, when a prediction differs, and for an estimator that may differ on other rows.
    """
    if holdout is None or not may_predict_argmax(estimator):
        return {}
    verified = not any(count_non_argmax_rows(predictor) for predictor in (CachedPredictor(estimator, probe), holdout))
    return {PREDICTS_ARGMAX: probe.height + holdout.X.height} if verified else {}


def read_manifest(artifacts: Artifacts, manifest_sha256: str) -> Mapping[str, Any]:
    """Return the manifest of a stored model, without loading the model."""
    return json.loads(artifacts.get(manifest_sha256))  # type: ignore[no-any-return]


def unpack(artifacts: Artifacts, manifest_sha256: str, trusted_types: Sequence[str] = ()) -> ModelBundle:
    """Load a stored model and its on-demand functions; the stored sources of these functions are run.

    Every byte is verified before it is opened, and the model must predict the probe rows as it did when it was stored.

    Parameters
    ----------
    artifacts
        The store of artifacts.
    manifest_sha256
        Returned by :func:`pack`.
    trusted_types
        As in :func:`pack`.

    Raises
    ------
    ArtifactError
        Bytes are missing or changed, a type is not trusted, the format is newer than this program, the manifest belongs to a candidate
        that is not an estimator, or the model can no longer predict or predicts differently.
    """
    manifest = read_manifest(artifacts, manifest_sha256)
    if (kind := manifest.get(KIND, ESTIMATOR)) != ESTIMATOR:
        raise ArtifactError(
            f"{manifest_sha256[:12]} is a candidate of the kind '{kind}', not an estimator",
            hint="open the version of a model whose function returns an estimator",
        )
    if manifest["format"] > MAX_FORMAT:
        raise ArtifactError(
            f"the model {manifest_sha256[:12]} is stored in format {manifest['format']}, but this program reads formats up to {MAX_FORMAT}",
            hint="upgrade mlops_assets",
        )
    functions = read_functions(artifacts, manifest)
    probe = pl.read_ipc(io.BytesIO(artifacts.get(manifest["probe"])))
    before = artifacts.get(manifest["before"]) if "before" in manifest else b""
    stored = EstimatorBytes(manifest.get("form", SKOPS), artifacts.get(manifest["estimator"]), before, manifest.get("form_facts", {}))
    try:
        estimator = read_estimator(stored, trusted_types)
    except ArtifactError as error:
        if error.__cause__ is None or not changed_sources(manifest):
            raise
        raise _make_load_error(manifest, error.message) from error
    expected = manifest.get("served_predictions", manifest["probe_predictions"])
    try:
        close = np.allclose(compute_responses(estimator, probe), np.array(expected), equal_nan=True)
        same = close and _has_same_labels(estimator, probe, manifest)
    except Exception as error:
        raise _make_load_error(manifest, f"the model {manifest_sha256[:12]} can no longer predict: {describe_error(error)}") from error
    if not same:
        raise _make_load_error(manifest, f"the model {manifest_sha256[:12]} predicts differently from when it was stored")
    return ModelBundle(estimator, functions, manifest)


def _make_load_error(manifest: Mapping[str, Any], what: str) -> ArtifactError:
    """Return the error for a model that cannot be read or predicts differently; it names changed project code, else changed libraries."""
    if changed := changed_sources(manifest):
        return ArtifactError(
            f"{what}: {'; '.join(changed)}",
            hint="the project's own code has changed since the training: restore it, or train the model again",
        )
    return ArtifactError(
        f"{what}{describe_changed_libraries(manifest)}",
        hint="install the library versions that the model was trained with, or train it again",
    )


def _has_same_labels(estimator: Any, probe: pl.DataFrame, manifest: Mapping[str, Any]) -> bool:  # noqa: ANN401
    """Whether a classifier predicts the stored labels of the probe rows; True for a regressor and for a manifest without labels."""
    if not manifest["classes"] or "probe_labels" not in manifest:
        return True
    return bool(predict_labels(estimator, probe).tolist() == manifest["probe_labels"])


def describe_format(manifest: Mapping[str, Any]) -> str:
    """Return the format of a stored model, and why it is not ONNX if ONNX was requested but refused."""
    refused = manifest.get("refused_format")
    return str(manifest.get("form", SKOPS)) + (f" (not onnx: {refused})" if refused else "")


def find_changed_libraries(manifest: Mapping[str, Any]) -> list[LibraryChange]:
    """Return the libraries whose installed version differs from the version in training, incompatible versions first."""
    trained: Mapping[str, str] = manifest.get("libraries", {})
    return find_library_changes(trained, {name: installed_distributions().get(canonical_name(name), "") for name in trained})


def describe_changed_libraries(manifest: Mapping[str, Any]) -> str:
    """Return the libraries whose version has changed as the end of a sentence; ``""`` when there are none."""
    changes = find_changed_libraries(manifest)
    return f": it was trained with {', '.join(map(str, changes))}" if changes else ""


def read_functions(artifacts: Artifacts, manifest: Mapping[str, Any]) -> tuple[Callable[..., Any], ...]:
    """Run the stored sources of a model's on-demand functions and return the functions in declared order; the estimator is not loaded."""
    return tuple(f for m in manifest["modules"] for f in load_functions(artifacts.get(m["source"]).decode(), [m["name"]]))


def sample_probe_rows(X: pl.DataFrame) -> pl.DataFrame:
    """Return at most 64 rows, evenly spaced over all rows."""
    return sample_evenly(X, PROBE_ROWS)


def compute_responses(estimator: Any, rows: pl.DataFrame) -> np.ndarray:  # noqa: ANN401
    """Return the outputs of an estimator for rows as float64: probabilities, else decision values, else predictions.

    Predictions that are not numbers are returned as the indices of their classes. Without rows, the result has the shape (0,).
    """
    predict = getattr(estimator, "predict_proba", None) or getattr(estimator, "decision_function", None) or estimator.predict
    if not len(rows):
        return np.zeros(0)
    responses = np.asarray(predict(rows))
    if responses.dtype.kind not in "fiub" and hasattr(estimator, "classes_"):
        place = {label: at for at, label in enumerate(np.asarray(estimator.classes_).tolist())}
        responses = np.array([place[label] for label in responses.tolist()])
    return np.ascontiguousarray(responses, dtype="<f8")


def _to_ipc(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    return buffer.getvalue()
