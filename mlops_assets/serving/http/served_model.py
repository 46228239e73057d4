"""A loaded version that answers requests: one immutable object, so that a swap is one assignment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.packaging import find_changed_libraries, unpack
from mlops_assets.serving.http.openapi import build_openapi
from mlops_assets.serving.http.service_folder import RequestLimits, TargetVersion
from mlops_assets.serving.predict.explainer import ShapExplainer, load_explainer
from mlops_assets.serving.predict.model_inputs import InputBuilder, ViewLookup
from mlops_assets.serving.predict.predictor import Predictor, Scores
from mlops_assets.serving.predict.request_schema import TYPES, RequestRows, RequestSchema
from mlops_assets.stores.online.opening import open_online

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.stores.artifacts.store import Artifacts


@dataclass(frozen=True, eq=False)
class ModelAnswer:
    """The predictions of a version for the rows of one request.

    Parameters
    ----------
    rows
        The rows of the request.
    columns
        The columns of ``X``, in order, as the model received them.
    missing
        For each row, the looked-up features that were not found, older than their ttl, or null.
    scores
        The predictions.
    lookups
        The results of each feature view, for the metrics.
    """

    rows: RequestRows
    columns: list[Sequence[Any]]
    missing: list[list[str]]
    scores: Scores
    lookups: tuple[ViewLookup, ...] = ()


@dataclass(frozen=True, eq=False)
class ExplainRequest:
    """The decoded rows of a request for explanations.

    Parameters
    ----------
    columns
        The columns of ``X``, in order.
    count
        The number of rows.
    missing
        As in :class:`ModelAnswer`.
    """

    columns: list[Sequence[Any]]
    count: int
    missing: list[list[str]]


class ServedModel:
    """A loaded version; :func:`load_served_model` makes it and verifies that it predicts as it did when it was stored.

    Parameters
    ----------
    name
        Name of the model.
    target
        The version.
    schema, inputs, predictor, explainer
        Decode a request, build ``X`` from its rows, predict, and explain predictions.
    columns
        The columns of ``X``, in order.
    openapi
        The OpenAPI document, JSON.
    example
        A request with one real row, JSON; empty when none is stored.
    libraries
        Libraries whose installed version differs from the version in training, as text; empty when there are none.
    """

    def __init__(  # noqa: PLR0913  (all that answers)
        self,
        name: str,
        target: TargetVersion,
        *,
        schema: RequestSchema,
        inputs: InputBuilder,
        predictor: Predictor,
        explainer: ShapExplainer,
        columns: tuple[str, ...],
        openapi: bytes,
        example: bytes = b"",
        libraries: str = "",
    ) -> None:
        self.name, self.target, self.version = name, target, target.version
        self.columns, self.predictor, self.openapi, self.example = columns, predictor, openapi, example
        self.libraries, self.lookup_count = libraries, inputs.lookup_count
        # Fields of a row besides X and its time: they identify it, or features are looked up or computed by them.
        self.identity = tuple(field for field in schema.names if field not in columns and field != schema.time)
        self._schema, self._inputs, self.explainer = schema, inputs, explainer

    @property
    def description(self) -> str:
        """The path of predictions: ``compiled``, or ``native`` and why."""
        return self.predictor.description

    def answer(self, body: bytes) -> ModelAnswer:
        """Return the predictions for a request.

        Parameters
        ----------
        body
            JSON in UTF-8: one row or a list of rows.

        Raises
        ------
        RequestError
            The request is refused.
        InstallationError
            The online store cannot be read.
        """
        rows = self._schema.decode(body)
        inputs = self._inputs(rows)
        return ModelAnswer(rows, inputs.columns, inputs.missing, self.predictor(inputs.columns, rows.count), inputs.lookups)

    def read_explain_request(self, body: bytes) -> ExplainRequest:
        """Return the rows to explain; :attr:`explainer` explains them, in any thread.

        Parameters
        ----------
        body
            As in :meth:`answer`.

        Raises
        ------
        RequestError
            The request is refused.
        InstallationError
            The online store cannot be read.
        """
        rows = self._schema.decode(body)
        self.explainer.check_rows(rows.count)
        inputs = self._inputs(rows)
        return ExplainRequest(inputs.columns, rows.count, inputs.missing)


def load_served_model(  # noqa: PLR0913  (where everything is)
    name: str, target: TargetVersion, *, artifacts: Artifacts, online: str, limits: RequestLimits, trusted_types: Sequence[str] = ()
) -> ServedModel:
    """Load a version, verify its predictions and make it ready to answer.

    Parameters
    ----------
    name
        Name of the model.
    target
        The version.
    artifacts
        The store of the model's artifacts.
    online
        Folder or URL of the online store; opened only when the version looks features up.
    limits
        Limits of one request.
    trusted_types
        As in :func:`unpack`.

    Raises
    ------
    ArtifactError
        Bytes are missing or changed, the model predicts differently from when it was stored, its manifest lacks an entry that serving
        needs, or JSON cannot carry the type of a field.
    InstallationError
        The online store cannot be opened.
    """
    bundle = unpack(artifacts, target.artifact, trusted_types)
    manifest = _check_manifest(bundle.manifest, f"version {target.version} of '{name}'")
    looks_up = any("view" in step for step in manifest["steps"])
    schema = RequestSchema(manifest["request"], manifest["types"], limits.max_rows)
    inputs = InputBuilder(manifest, bundle.functions, open_online(online) if looks_up else None)
    explainer = load_explainer(bundle, artifacts)
    return ServedModel(
        name,
        target,
        schema=schema,
        inputs=inputs,
        predictor=explainer.predictor,
        explainer=explainer,
        columns=bundle.columns,
        openapi=json.dumps(build_openapi(name, target.version, schema)).encode(),
        example=str(manifest.get("example") or "").encode(),
        libraries=", ".join(map(str, find_changed_libraries(manifest))),
    )


def _check_manifest(manifest: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the manifest; keys whose type JSON cannot carry are declared as dates or text, as they are logged.

    Raise ArtifactError if an entry that serving needs is missing, or if JSON cannot carry the type of a field that is not a key.
    """
    if lacking := [name for name in ("request", "steps", "event_timestamp") if name not in manifest]:
        raise ArtifactError(f"{what} was stored without '{lacking[0]}', which a service needs", hint="train it again")
    fields = [
        field | {"type": "date" if field["type"] == "Date" else "str"} if field["role"] == "key" and field["type"] not in TYPES else field
        for field in manifest["request"]
    ]
    if unsupported := [field for field in fields if field["type"] not in (*TYPES, "date")]:
        raise ArtifactError(
            f"{what} takes the field '{unsupported[0]['name']}' of type {unsupported[0]['type']}, which JSON cannot carry",
            hint="cast it to text, a number or a time in the training set",
        )
    return {**manifest, "request": fields}
