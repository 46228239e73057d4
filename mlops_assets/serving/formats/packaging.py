"""A trained model as content-addressed artifacts: estimator, on-demand source, probe rows and a manifest that names them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.features.on_demand import load_functions
from mlops_assets.compute.features.signature import describe_columns
from mlops_assets.compute.training.environment import canonical_name, installed_distributions
from mlops_assets.compute.training.library_versions import LibraryChange, find_library_changes
from mlops_assets.compute.user_code.user_errors import describe_error
from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.formats import read, written
from mlops_assets.serving.formats.likeliest import labels_of, may_predict_likeliest, rows_not_likeliest
from mlops_assets.serving.formats.prediction_columns import HAS_PROBABILITIES
from mlops_assets.serving.formats.project_code import SOURCES, changed_sources, hash_sources
from mlops_assets.serving.formats.written import SKOPS, Written
from mlops_assets.values.model import ESTIMATOR, KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlops_assets.stores.artifacts.store import Artifacts

FORMAT = 2  # 1 is skops alone, and is still written for it
PROBE_ROWS = 64
POSITIVE = "positive"  # in a manifest: the positive class, where one is declared
LIKELIEST = "predicts_likeliest"  # in a manifest: on how many rows the prediction was proved to be the likeliest class
_PLAIN_SKOPS = "leave format= out, so that it is stored as skops"
_CLOSE = 1e-5  # between what was trained and what was read back; ONNX has 32 bits


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

    @property
    def predicts_likeliest(self) -> bool:
        """Whether its prediction was proved to be its likeliest class, on the probe and on the holdout."""
        return bool(self.manifest.get(LIKELIEST))


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
    holdout: pl.DataFrame | None = None,
    trusted_types: Sequence[str] = (),
    form: str = SKOPS,
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
    holdout
        Rows on which predictions are proved besides the probe; nothing that needs such a proof is claimed when None.
    trusted_types
        Types beyond scikit-learn's own that the project trusts.
    form
        The format that is asked for, as :class:`mlops_assets.values.model.Model` has them.
    facts
        More to say in the manifest, JSON-like.

    Raises
    ------
    ArtifactError
        The estimator holds a type that nobody trusts, cannot be stored in that form, or predicts otherwise when it is read back.
    """
    done, probe = written(estimator, form, X, trusted_types), probe_rows(X)
    predictions = predictions_of(estimator, probe)
    manifest = {
        **facts,
        **_form_facts(done, estimator, probe, holdout, trusted_types),
        "format": FORMAT if done.form != SKOPS else 1,
        "columns": X.columns,
        "signature": describe_columns(X),
        "types": {name: str(dtype) for name, dtype in X.schema.items()},
        "estimator": artifacts.put(done.data),
        **({"before": artifacts.put(done.before)} if done.before else {}),
        "modules": [{"source": artifacts.put(m.source.encode()), "name": m.name} for m in modules],
        "probe": artifacts.put(_ipc(probe)),
        "probe_predictions": predictions.tolist(),
        "probe_labels": labels_of(estimator, probe).tolist(),
        "classes": np.asarray(getattr(estimator, "classes_", [])).tolist(),
        HAS_PROBABILITIES: hasattr(estimator, "predict_proba"),
        SOURCES: hash_sources(estimator, trusted_types),
        "prediction_type": str(pl.Series(np.asarray(estimator.predict(probe))).dtype),
    }
    return artifacts.put(json.dumps(manifest, sort_keys=True).encode())


def _form_facts(
    done: Written,
    estimator: Any,  # noqa: ANN401  (any estimator)
    probe: pl.DataFrame,
    holdout: pl.DataFrame | None,
    trusted_types: Sequence[str],
) -> dict[str, Any]:
    """Return what a manifest says of the form; what another library has written must predict as the estimator did."""
    told: dict[str, Any] = {"refused_format": done.refused} if done.refused else {}
    if done.form == SKOPS:
        return told | _likeliest_facts(estimator, probe, holdout)
    stored, predictions = read(done, trusted_types), predictions_of(estimator, probe)
    served = predictions_of(stored, probe)
    if not np.allclose(served, predictions, atol=_CLOSE, equal_nan=True):
        raise ArtifactError(
            f"the model predicts otherwise when it is read back from {done.form}: by {np.abs(served - predictions).max():.2g}",
            hint=_PLAIN_SKOPS,
        )
    if hasattr(estimator, "predict_proba"):
        for where, rows in (("probe", probe), *((("holdout", holdout),) if holdout is not None else ())):
            if flipped := int((labels_of(stored, rows) != labels_of(estimator, rows)).sum()):
                raise ArtifactError(
                    f"the model predicts another class for {flipped} of {rows.height} {where} rows when it is read back from {done.form}",
                    hint=_PLAIN_SKOPS,
                )
    told |= _likeliest_facts(stored, probe, holdout)
    return {**told, "form": done.form, "form_facts": dict(done.facts), "served_predictions": served.tolist()}


def _likeliest_facts(estimator: Any, probe: pl.DataFrame, holdout: pl.DataFrame | None) -> dict[str, int]:  # noqa: ANN401
    """Return on how many rows the prediction was proved to be the likeliest class; nothing where it is not."""
    if holdout is None or not may_predict_likeliest(estimator):
        return {}
    proved = not any(rows_not_likeliest(estimator, rows) for rows in (probe, holdout))
    return {LIKELIEST: probe.height + holdout.height} if proved else {}


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
    if (kind := manifest.get(KIND, ESTIMATOR)) != ESTIMATOR:
        raise ArtifactError(
            f"{manifest_sha256[:12]} is a candidate of the kind '{kind}', not an estimator", hint="open it with what serves this kind"
        )
    if manifest["format"] > FORMAT:
        raise ArtifactError(
            f"the model {manifest_sha256[:12]} is stored in format {manifest['format']}, this program knows {FORMAT}",
            hint="upgrade mlops_assets",
        )
    functions = functions_of(artifacts, manifest)
    probe = pl.read_ipc(io.BytesIO(artifacts.get(manifest["probe"])))
    before = artifacts.get(manifest["before"]) if "before" in manifest else b""
    stored = Written(manifest.get("form", SKOPS), artifacts.get(manifest["estimator"]), before, manifest.get("form_facts", {}))
    try:
        estimator = read(stored, trusted_types)
    except ArtifactError as error:
        if error.__cause__ is None or not changed_sources(manifest):
            raise
        raise _refusal(manifest, error.message) from error
    expected = manifest.get("served_predictions", manifest["probe_predictions"])
    try:
        close = np.allclose(predictions_of(estimator, probe), np.array(expected), equal_nan=True)
        same = close and _same_labels(estimator, probe, manifest)
    except Exception as error:
        raise _refusal(manifest, f"the model {manifest_sha256[:12]} cannot predict any more: {describe_error(error)}") from error
    if not same:
        raise _refusal(manifest, f"the model {manifest_sha256[:12]} predicts otherwise than when it was stored")
    return Bundle(estimator, functions, manifest)


def _refusal(manifest: Mapping[str, Any], what: str) -> ArtifactError:
    """Return the error for a model that does not predict as it did: the project's own code has changed, or a library has."""
    if changed := changed_sources(manifest):
        return ArtifactError(
            f"{what}: {'; '.join(changed)}",
            hint="the project's own code has changed since the training: restore it, or train the model again",
        )
    return ArtifactError(
        f"{what}{told_libraries(manifest)}", hint="install the library versions that its manifest names, or train it again"
    )


def _same_labels(estimator: Any, probe: pl.DataFrame, manifest: Mapping[str, Any]) -> bool:  # noqa: ANN401
    """Return whether a classifier predicts the classes that it did; numbers are compared as such, within rounding."""
    if not manifest["classes"] or "probe_labels" not in manifest:
        return True
    return bool(labels_of(estimator, probe).tolist() == manifest["probe_labels"])


def form_of(manifest: Mapping[str, Any]) -> str:
    """Return in which format a model is stored, and why it is not the one that was asked for."""
    refused = manifest.get("refused_format")
    return str(manifest.get("form", SKOPS)) + (f" (not onnx: {refused})" if refused else "")


def libraries_of(manifest: Mapping[str, Any]) -> list[LibraryChange]:
    """Return the libraries that a model was trained with and of which another version is installed here, the serious ones first."""
    trained: Mapping[str, str] = manifest.get("libraries", {})
    return find_library_changes(trained, {name: installed_distributions().get(canonical_name(name), "") for name in trained})


def told_libraries(manifest: Mapping[str, Any]) -> str:
    """Return the libraries that differ as the end of a sentence; empty when none does."""
    others = libraries_of(manifest)
    return f": it was trained with {', '.join(map(str, others))}" if others else ""


def functions_of(artifacts: Artifacts, manifest: Mapping[str, Any]) -> tuple[Callable[..., Any], ...]:
    """Return the on-demand functions that a stored model names, without loading the model."""
    return tuple(f for m in manifest["modules"] for f in load_functions(artifacts.get(m["source"]).decode(), [m["name"]]))


def probe_rows(X: pl.DataFrame) -> pl.DataFrame:
    """Return up to 64 rows, spread evenly."""
    return X.gather_every(max(1, X.height // PROBE_ROWS)).head(PROBE_ROWS)


def predictions_of(estimator: Any, rows: pl.DataFrame) -> np.ndarray:  # noqa: ANN401
    """Return what an estimator says of rows: probabilities, decisions or predictions, whichever comes first, float64.

    Predictions that are no numbers are returned as the places of their classes.
    """
    predict = getattr(estimator, "predict_proba", None) or getattr(estimator, "decision_function", None) or estimator.predict
    if not len(rows):
        return np.zeros(0)
    said = np.asarray(predict(rows))
    if said.dtype.kind not in "fiub" and hasattr(estimator, "classes_"):
        place = {label: at for at, label in enumerate(np.asarray(estimator.classes_).tolist())}
        said = np.array([place[label] for label in said.tolist()])
    return np.ascontiguousarray(said, dtype="<f8")


def _ipc(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    return buffer.getvalue()
