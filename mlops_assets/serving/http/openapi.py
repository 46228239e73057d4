"""What a service says of itself: OpenAPI 3.1, from the request that the stored model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.serving.predict.schema import integer_range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.serving.http.state import Limits
    from mlops_assets.serving.predict.schema import Field, RequestSchema

_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "datetime": "string", "date": "string"}
_ROLES = {
    "key": "Identifies the row; only logged.",
    "time": "When it happens: features are looked up as of then. Now, when left out.",
    "join_key": "Features are looked up by it.",
    "input": "Features are computed from it.",
    "column": "An input of the model.",
}
_ERROR = {
    "type": "object",
    "required": ["error", "hint"],
    "properties": {
        "error": {"type": "string"},
        "hint": {"type": "string"},
        "row": {"type": "integer"},
        "field": {"type": "string"},
        "expected": {"type": "string"},
    },
}
_REFUSALS = {
    "400": "The body is not JSON.",
    "413": "Too many rows, or too many bytes.",
    "415": "The content type, the charset or the content encoding is not accepted.",
    "422": "A row is not what the model takes; names row, field and type, and repeats no value.",
    "500": "The prediction failed.",
    "503": "No model is loaded, or the prediction cannot be logged.",
}


def openapi(name: str, version: int, schema: RequestSchema, manifest: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Return the document.

    Parameters
    ----------
    name, version
        Of the model.
    schema
        Its request.
    manifest
        Of the stored model.
    limits
        Of one request.
    """
    row = {
        "type": "object",
        "additionalProperties": False,
        "required": [field.name for field in schema.fields if not field.optional],
        "properties": {field.name: _property(field, manifest["types"].get(field.name, "")) for field in schema.fields},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": str(version), "description": f"Predictions of the model {name}."},
        "paths": {
            "/predict": {"post": _predict(limits)},
            "/readyz": {"get": _plain("Whether a model is loaded and predictions can be logged.", "503")},
            "/livez": {"get": _plain("Whether the process answers.")},
            "/metrics": {"get": _plain("Counters of all workers, in Prometheus' text format.")},
            "/openapi.json": {"get": _plain("This document.", "503")},
        },
        "components": {"schemas": {"Row": row, "Reply": _reply(), "Error": _ERROR}},
    }


def _property(field: Field, dtype: str) -> dict[str, Any]:
    kind = _TYPES[field.type]
    null = field.role == "key" or (field.nullable and field.role != "time")
    made: dict[str, Any] = {"type": [kind, "null"] if null else kind, "description": _ROLES[field.role]}
    if field.type in ("datetime", "date"):
        made["format"] = {"datetime": "date-time", "date": "date"}[field.type]
    if field.type == "int":
        made["minimum"], made["maximum"] = integer_range(dtype)
    return made


def _predict(limits: Limits) -> dict[str, Any]:
    row, reply, error = ({"$ref": f"#/components/schemas/{name}"} for name in ("Row", "Reply", "Error"))
    rows = {"oneOf": [row, {"type": "array", "items": row, "maxItems": limits.max_rows}]}
    return {
        "summary": "Predict one row, or a list of rows.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": rows}}},
        "responses": {
            "200": {"description": "Predictions in the order of the rows.", "content": {"application/json": {"schema": reply}}},
            **{code: {"description": text, "content": {"application/json": {"schema": error}}} for code, text in _REFUSALS.items()},
        },
    }


def _reply() -> dict[str, Any]:
    prediction = {
        "type": "object",
        "required": ["id", "prediction", "probability", "probabilities", "missing"],
        "properties": {
            "id": {"type": "string", "description": "The prediction's, as it is logged."},
            "prediction": {"description": "A class, or a number."},
            "probability": {
                "type": ["number", "null"],
                "description": "Of the class that `probability_of` names; null unless there are two.",
            },
            "probabilities": {
                "type": ["object", "null"],
                "additionalProperties": {"type": "number"},
                "description": "Of each class, by name; null when the model gives none.",
            },
            "missing": {"type": "array", "items": {"type": "string"}, "description": "Features that were not found."},
        },
    }
    return {
        "type": "object",
        "required": ["model", "version", "probability_of", "predictions"],
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "integer", "description": "Which version answered."},
            "probability_of": {"type": ["string", "null"], "description": "The class whose probability `probability` is."},
            "predictions": {"type": "array", "items": prediction},
        },
    }


def _plain(text: str, *refusals: str) -> dict[str, Any]:
    return {"summary": text, "responses": {"200": {"description": "Yes."}, **{code: {"description": "Not now."} for code in refusals}}}
