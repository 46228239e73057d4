"""The bodies of replies; their types are also the schemas of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta


class Prediction(msgspec.Struct, gc=False):
    """The prediction of one row."""

    id: Annotated[str, Meta(description="The id of the prediction in the prediction log.")]
    prediction: Annotated[Any, Meta(description="A class, or a number.")]
    probability: Annotated[
        float | None, Meta(description="The probability of the class in `probability_of`; null unless there are two classes.")
    ]
    probabilities: Annotated[
        dict[str, float] | None, Meta(description="The probability of each class, by name; null when the model gives no probabilities.")
    ]
    missing: Annotated[list[str], Meta(description="Looked-up features that were not found, past their ttl, or null.")]


class Reply(msgspec.Struct, gc=False):
    """The reply to one request for predictions."""

    model: str
    version: Annotated[int, Meta(description="The version that answered.")]
    probability_of: Annotated[str | None, Meta(description="The class whose probability `probability` is.")]
    predictions: Annotated[list[Prediction], Meta(description="In the order of the rows.")]


class Explanation(msgspec.Struct, gc=False):
    """The explanation of the prediction for one row: base and values sum to the output."""

    output: Annotated[float, Meta(description="The explained number: a probability between 0 and 1, or the predicted number.")]
    probability_of: Annotated[
        str | None,
        Meta(description="The class whose probability is explained: the positive of two, the most probable of several; null for a number."),
    ]
    base: Annotated[float, Meta(description="The mean output over the reference rows of the version.")]
    values: Annotated[dict[str, float], Meta(description="The SHAP value of each column of the model, by name.")]
    missing: Annotated[list[str], Meta(description="Looked-up features that were not found, past their ttl, or null.")]


class ExplainReply(msgspec.Struct, gc=False):
    """The reply to one request for explanations."""

    model: str
    version: Annotated[int, Meta(description="The version that answered.")]
    explanations: Annotated[list[Explanation], Meta(description="In the order of the rows.")]


class Error(msgspec.Struct):
    """The reason why a request was refused, without values of the request."""

    error: str
    hint: Annotated[str, Meta(description="What to do about it.")]
    row: Annotated[int | msgspec.UnsetType, Meta(description="The row, from 0.")] = msgspec.UNSET
    field: str | msgspec.UnsetType = msgspec.UNSET
    expected: Annotated[str | msgspec.UnsetType, Meta(description="The type of the field.")] = msgspec.UNSET
