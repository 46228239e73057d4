"""A version that is ready to answer: one immutable object, so that taking it once is taking all of it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.packaging import POSITIVE, libraries_of, unpack
from mlops_assets.serving.http.openapi import openapi
from mlops_assets.serving.http.state import Limits, Wanted
from mlops_assets.serving.predict.lookup import InputBuilder, Looked
from mlops_assets.serving.predict.predictor import Predictor, Scores, make_predictor
from mlops_assets.serving.predict.schema import TYPES, RequestSchema, Rows
from mlops_assets.stores.online.opening import open_online

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.stores.artifacts.store import Artifacts


@dataclass(frozen=True, eq=False)
class Answer:
    """What a version says of the rows of one request.

    Parameters
    ----------
    rows
        As they were sent.
    columns
        Of ``X``, in order, as the model saw them.
    missing
        For each row the features that were not found.
    scores
        The predictions.
    lookups
        What was found of each feature view.
    """

    rows: Rows
    columns: list[Sequence[Any]]
    missing: list[list[str]]
    scores: Scores
    lookups: tuple[Looked, ...] = ()


class ServedModel:
    """A version that was proved to predict as it did when it was stored.

    Parameters
    ----------
    name
        The model's.
    wanted
        Which version.
    schema, inputs, predictor
        Its request, its ``X``, its predictions.
    columns
        Of ``X``, in order.
    openapi
        Its description, JSON.
    example
        A request of one real row, JSON; empty when none is stored.
    libraries
        Those of which another version is installed than it was trained with.
    """

    def __init__(  # noqa: PLR0913  (all that answers)
        self,
        name: str,
        wanted: Wanted,
        *,
        schema: RequestSchema,
        inputs: InputBuilder,
        predictor: Predictor,
        columns: tuple[str, ...],
        openapi: bytes,
        example: bytes = b"",
        libraries: str = "",
    ) -> None:
        self.name, self.wanted, self.version = name, wanted, wanted.version
        self.columns, self.predictor, self.openapi, self.example = columns, predictor, openapi, example
        self.libraries = libraries
        # What a row says beside X and its time: what identifies it, and what features were looked up or computed by.
        self.identity = tuple(field for field in schema.names if field not in columns and field != schema.time)
        self._schema, self._inputs = schema, inputs

    def answer(self, body: bytes) -> Answer:
        """Return what the version says of a request.

        Raises
        ------
        RequestError
            The request is refused.
        """
        rows = self._schema.decode(body)
        inputs = self._inputs(rows)
        return Answer(rows, inputs.columns, inputs.missing, self.predictor(inputs.columns, rows.count), inputs.lookups)


def load_model(  # noqa: PLR0913  (where everything is)
    name: str, wanted: Wanted, *, artifacts: Artifacts, online: str, limits: Limits, trusted_types: Sequence[str] = ()
) -> ServedModel:
    """Load a version, prove it, and make it ready.

    Parameters
    ----------
    name
        The model's.
    wanted
        Which version.
    artifacts
        Where it is stored.
    online
        The online store's folder or URL, which is opened when the version looks features up.
    limits
        Of one request.
    trusted_types
        As in :func:`unpack`.

    Raises
    ------
    ArtifactError
        Bytes are missing or changed, it predicts otherwise than when it was stored, or it was stored without what serving needs.
    """
    bundle = unpack(artifacts, wanted.artifact, trusted_types)
    manifest = _checked(bundle.manifest, f"version {wanted.version} of '{name}'")
    probe = pl.read_ipc(io.BytesIO(artifacts.get(manifest["probe"])))
    looks_up = any("view" in step for step in manifest["steps"])
    schema = RequestSchema(manifest["request"], manifest["types"], limits.max_rows)
    inputs = InputBuilder(manifest, bundle.functions, open_online(online) if looks_up else None)
    return ServedModel(
        name,
        wanted,
        schema=schema,
        inputs=inputs,
        predictor=make_predictor(bundle.estimator, probe, likeliest=bundle.predicts_likeliest, positive=manifest.get(POSITIVE)),
        columns=bundle.columns,
        openapi=json.dumps(openapi(name, wanted.version, schema)).encode(),
        example=str(manifest.get("example") or "").encode(),
        libraries=", ".join(map(str, libraries_of(manifest))),
    )


def _checked(manifest: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the manifest; refuse one that cannot be asked over HTTP. What only identifies a row may be of any type: it is logged as text."""
    if lacking := [name for name in ("request", "steps", "event_timestamp") if name not in manifest]:
        raise ArtifactError(f"{what} was stored without '{lacking[0]}', which a service needs", hint="train it again")
    fields = [
        field | {"type": "date" if field["type"] == "Date" else "str"} if field["role"] == "key" and field["type"] not in TYPES else field
        for field in manifest["request"]
    ]
    if strange := [field for field in fields if field["type"] not in (*TYPES, "date")]:
        raise ArtifactError(
            f"{what} takes the field '{strange[0]['name']}' of type {strange[0]['type']}, which JSON cannot carry",
            hint="cast it to text, a number or a time in the training set",
        )
    return {**manifest, "request": fields}
