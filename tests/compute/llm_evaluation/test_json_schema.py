"""A value fits a schema as jsonschema decides; a schema that is misspelt or incomplete is refused, whatever the value is."""

import socket

import pydantic
import pytest

from mlops_assets.compute.llm_evaluation.json_schema import find_fault
from mlops_assets.errors import DefinitionError


class Leg(pydantic.BaseModel):
    airport: str = pydantic.Field(pattern="^[A-Z]{3}$")
    minutes: int


class Trip(pydantic.BaseModel):
    legs: list[Leg]
    day: str = pydantic.Field(json_schema_extra={"format": "date"})


@pytest.mark.parametrize(
    ("value", "schema", "fault"),
    [
        ({"a": [1, "x"]}, {"properties": {"a": {"items": {"type": "integer"}}}}, "$.a[1]: 'x' is not of type 'integer'"),
        ({}, {"required": ["a"]}, "$: 'a' is a required property"),
        (True, {"enum": [1]}, "$: True is not one of [1]"),
        ("2024-13-01", {"format": "date"}, "$: '2024-13-01' is not a 'date'"),
        (3, {"multipleOf": 2}, "$: 3 is not a multiple of 2"),
        ({"legs": [{"airport": "JFK", "minutes": 5}], "day": "2024-03-01"}, Trip.model_json_schema(), ""),
        (
            {"legs": [{"airport": "jfk", "minutes": 5}], "day": "2024-03-01"},
            Trip.model_json_schema(),
            "$.legs[0].airport: 'jfk' does not match '^[A-Z]{3}$'",
        ),
    ],
)
def test_a_fault_says_where_and_why(value: object, schema: dict, fault: str) -> None:
    assert find_fault(value, schema) == fault


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"anyOf": [{}, {"minimun": 3}]}, "'minimun' at \\$.anyOf\\[1\\]\nHint: did you mean 'minimum'"),
        ({"properties": {"minimun": {"lenght": 3}}}, "'lenght' at \\$.properties.minimun"),
        ({"type": "text"}, "at \\$.type: 'text' is not valid"),
        ({"minimum": "3"}, "at \\$.minimum: '3' is not of type 'number'"),
        ({"items": [{}]}, "at \\$.items"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "refers to '/\\$defs/b', which it does not contain"),
    ],
)
def test_a_schema_that_is_not_understood_is_refused(schema: dict, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        find_fault({"a": 1}, schema)


def test_a_reference_to_another_place_is_refused_and_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a schema was fetched"))
    with pytest.raises(DefinitionError, match="refers to 'http://127.0.0.1:9/schema.json'"):
        find_fault(1, {"$ref": "http://127.0.0.1:9/schema.json"})
