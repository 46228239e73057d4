"""Export a version as an MLflow model, and load it for ``mlflow.pyfunc.load_model`` with the same checks as a service."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets import entry_points
from mlops_assets.errors import ArtifactError, DataError
from mlops_assets.serving.formats.packaging import read_manifest, unpack
from mlops_assets.stores.artifacts.store import open_artifacts
from mlops_assets.stores.mlflow.client import import_mlflow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd

    from mlops_assets.stores.artifacts.store import Artifacts
    from mlops_assets.stores.registry.records import Version

METHOD = "predict_method"  # name of the parameter of ``predict`` that chooses the estimator's method
_METHODS = ("predict", "predict_proba", "decision_function")
_INTEGERS = {
    "Int8": "integer",
    "Int16": "integer",
    "Int32": "integer",
    "UInt8": "integer",
    "UInt16": "integer",
    "Int64": "long",
    "UInt32": "long",
}
_TYPES = {**_INTEGERS, "Float32": "float", "Float64": "double", "Boolean": "boolean"}


def export_version(artifacts: Artifacts, version: Version, folder: Path) -> Path:
    """Write a version as an MLflow model and return its folder.

    Parameters
    ----------
    artifacts
        The store of artifacts; every byte is verified.
    version
        The version to export.
    folder
        The folder to write; it does not exist yet, or is empty.

    Raises
    ------
    ArtifactError
        The folder is not empty, or bytes are missing or changed.
    MissingExtraError
        MLflow is not installed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"'{folder}' is not empty", hint="name a folder that does not exist yet")
    manifest = read_manifest(artifacts, version.artifact)
    with import_mlflow() as mlflow, tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "mlops_assets"
        copied = open_artifacts(str(data))
        for sha256 in (version.artifact, *_list_artifacts(manifest)):
            copied.put(artifacts.get(sha256))
        (data / "version.json").write_text(json.dumps({"manifest": version.artifact, "model": version.model, "version": version.version}))
        model_folder = Path(scratch) / "model"
        mlflow.pyfunc.save_model(
            model_folder,
            loader_module=entry_points.MODULE,
            data_path=str(data),
            signature=_make_signature(artifacts, manifest),
            pip_requirements=[_pip_requirement(name, trained) for name, trained in manifest.get("libraries", {}).items()],
            metadata={"mlops_assets": {"model": version.model, "version": version.version, "digest": version.digest}},
        )
        shutil.copytree(model_folder, folder, dirs_exist_ok=True)
    return folder


def _list_artifacts(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the sha256 of each artifact that :func:`unpack` reads besides the manifest."""
    yield from (manifest[name] for name in ("estimator", "before", "probe") if name in manifest)
    yield from (module["source"] for module in manifest["modules"])


def _pip_requirement(name: str, version: str) -> str:
    """Return ``name==version`` for pip; ``mlops_assets`` gets no version, because the installed one may be unpublished."""
    return "mlops_assets" if name == "mlops_assets" else f"{name}=={version}"


def _make_signature(artifacts: Artifacts, manifest: Mapping[str, Any]) -> Any:  # noqa: ANN401  (MLflow has no types)
    """Return the MLflow signature of a model, from the types of its probe rows.

    MLflow has no type for some columns, and rejects nulls in integers and booleans: such columns accept any type.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    probe = _read_probe(artifacts, manifest)
    columns = []
    for name, dtype in probe.schema.items():
        mlflow_type = _TYPES.get(str(dtype))
        fits = mlflow_type is not None and not (probe[name].null_count() and mlflow_type in {"integer", "long", "boolean"})
        columns.append(ColSpec(mlflow_type if fits else AnyType(), name))
    return ModelSignature(inputs=Schema(columns), params=ParamSchema([ParamSpec(METHOD, "string", "predict")]))


def _read_probe(artifacts: Artifacts, manifest: Mapping[str, Any]) -> pl.DataFrame:
    return pl.read_ipc(io.BytesIO(artifacts.get(manifest["probe"])))


class PyfuncModel:
    """The model that MLflow calls: rows of ``X`` in, predictions out.

    Types beyond scikit-learn's own are trusted only if ``MLOPS_TRUSTED_TYPES`` names them, separated by commas.

    Parameters
    ----------
    folder
        Folder of the version's artifacts and its ``version.json``.
    """

    def __init__(self, folder: Path) -> None:
        stored = json.loads((folder / "version.json").read_text(encoding="utf-8"))
        trusted = [name for name in os.environ.get("MLOPS_TRUSTED_TYPES", "").split(",") if name]  # never read from the loaded folder
        artifacts = open_artifacts(str(folder))
        bundle = unpack(artifacts, stored["manifest"], trusted)
        self.estimator, self._rows = bundle.estimator, _read_probe(artifacts, bundle.manifest).clear()

    def predict(self, rows: pd.DataFrame, params: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401  (what the estimator returns)
        """Return the estimator's output for rows.

        Parameters
        ----------
        rows
            Rows with the columns of ``X``, which are cast to the types in training; other columns are ignored.
        params
            ``predict_method``: ``predict`` (default), ``predict_proba`` or ``decision_function``.

        Raises
        ------
        DataError
            The estimator has no such method, or a column is missing.
        """
        method = (params or {}).get(METHOD, "predict")
        if method not in _METHODS or not hasattr(self.estimator, method):
            raise DataError(f"the model has no '{method}'", hint=f"give one of {', '.join(_METHODS)} as {METHOD}")
        types = self._rows.schema
        if lacking := [name for name in types if name not in rows.columns]:
            raise DataError(f"the rows have no column '{lacking[0]}'", hint=f"the model reads {', '.join(types)}")
        frame = pl.from_pandas(rows[list(types)].reset_index(drop=True))
        return getattr(self.estimator, method)(frame.cast(types))


def load_pyfunc(path: str) -> PyfuncModel:
    """Load the model from the data folder of an export, whose path MLflow passes: see :func:`export_version`."""
    return PyfuncModel(Path(path))
