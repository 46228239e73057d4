"""The OpenAPI 3.1 document of a service, from the types that decode its requests and encode its replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mlops_assets.serving.http.reply import Error, ExplainReply, Reply
from mlops_assets.serving.predict.explainer import MAX_EXPLAINED_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.serving.predict.request_schema import RequestSchema

_SCHEMA = "#/components/schemas/{name}"
_REFUSALS = {
    "400": "The body is not JSON.",
    "413": "Too many rows, or too many bytes.",
    "415": "The content type, the charset or the content encoding is not accepted.",
    "422": "A row does not fit the model. The error names row, field and type, and repeats no value.",
    "500": "The prediction failed.",
    "503": "No model is loaded, the online store cannot be read, or the prediction cannot be logged.",
}

_EXPLAIN_REFUSALS = {
    "400": _REFUSALS["400"],
    "413": _REFUSALS["413"],
    "415": _REFUSALS["415"],
    "422": _REFUSALS["422"],
    "500": "The explanation failed.",
    "501": "The library shap is not installed in the service.",
    "503": "No model is loaded, or the online store cannot be read.",
}


def build_openapi(name: str, version: int, schema: RequestSchema) -> dict[str, Any]:
    """Return the OpenAPI document of a service, JSON-like; ``/smoke`` and pushes are not in it.

    Parameters
    ----------
    name, version
        Name and version of the model.
    schema
        Schema of the requests.
    """
    _, schemas = msgspec.json.schema_components((schema.row, Reply, ExplainReply, Error), ref_template=_SCHEMA)
    for field in schemas["Row"]["properties"].values():
        field.pop("default", None)  # internal: null marks an omitted field, which a client may not send
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": str(version), "description": f"Predictions of the model {name}."},
        "paths": {
            "/predict": {
                "post": _describe_post(
                    "Predict one row, or a list of rows.", "Predictions in the order of the rows.", "Reply", _REFUSALS, schema.max_rows
                )
            },
            "/explain": {
                "post": _describe_post(
                    "Explain the predictions for one row, or for a list of rows, by SHAP values; nothing is logged.",
                    "Explanations in the order of the rows.",
                    "ExplainReply",
                    _EXPLAIN_REFUSALS,
                    min(MAX_EXPLAINED_ROWS, schema.max_rows),
                )
            },
            "/readyz": {"get": _describe_get("Whether a model is loaded and predictions can be logged.", "503")},
            "/livez": {"get": _describe_get("Whether the process answers.")},
            "/metrics": {"get": _describe_get("Counters of all workers, in Prometheus' text format.")},
            "/openapi.json": {"get": _describe_get("This document.", "503")},
        },
        "components": {"schemas": schemas},
    }


def _describe_post(summary: str, answer: str, reply_type: str, refusals: Mapping[str, str], max_rows: int) -> dict[str, Any]:
    row, reply, error = ({"$ref": _SCHEMA.format(name=name)} for name in ("Row", reply_type, "Error"))
    rows = {"oneOf": [row, {"type": "array", "items": row, "maxItems": max_rows}]}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": rows}}},
        "responses": {
            "200": {"description": answer, "content": {"application/json": {"schema": reply}}},
            **{code: {"description": text, "content": {"application/json": {"schema": error}}} for code, text in refusals.items()},
        },
    }


def _describe_get(text: str, *refusals: str) -> dict[str, Any]:
    return {"summary": text, "responses": {"200": {"description": "Yes."}, **{code: {"description": "Not now."} for code in refusals}}}
